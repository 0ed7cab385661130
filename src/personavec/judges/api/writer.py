"""A model behind an OpenAI-compatible endpoint that writes texts, with the care that a judge is asked with."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from personavec.judges.api.cache import Replies, Reply, TextCache
from personavec.judges.api.client import Endpoint
from personavec.judges.base import Cost

if TYPE_CHECKING:
    import openai

Chat = Sequence[dict[str, str]]  # messages with role and content


class Writer(Endpoint):
    """One model behind an OpenAI-compatible endpoint, asked for texts; answers are kept on disk.

    It samples as the endpoint does by itself.

    Args:
        model: The model's name at the endpoint.
        tokens: Of the longest text.
        given: See `Endpoint`.
    """

    INSTEAD = "name a model of this machine: local:MODEL"
    UNANSWERED = "they have no text"

    def __init__(self, model: str, tokens: int, **given: Any) -> None:
        super().__init__(model, **given)
        self.tokens = tokens

    def _open_cache(self) -> Replies[Any]:
        return TextCache(self.where, self.model)

    def texts(self, chats: Sequence[Chat]) -> list[str | None]:
        """The answer to each chat; None: the endpoint gives none. Raises as `Endpoint.scores`."""
        return self.replies([self._prompt(chat) for chat in chats])

    def costs(self, chats: Sequence[Chat]) -> Cost:
        """What asking for the texts will take at most."""
        characters = sum(len(message["content"]) for chat in chats for message in chat)
        return replace(
            self.cost([], 0),
            requests=len(chats),
            characters=characters,
            answer_tokens=self.tokens * len(chats),
            role="Teacher",
        )

    def _prompt(self, chat: Chat) -> str:
        return json.dumps([self.tokens, *chat])

    def _ask(self, client: "openai.OpenAI", prompt: str, stop: threading.Event) -> Reply:
        tokens, *messages = json.loads(prompt)
        return Reply(text=self._post(client, messages, stop, max_tokens=tokens).text)
