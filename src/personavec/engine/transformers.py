"""The built-in engine: a ChatModel in this process."""

from collections.abc import Sequence

from torch import Tensor

from personavec.engine import Engine
from personavec.model import ChatModel, Conversation, Request
from personavec.provenance import identity, version
from personavec.readout import read


class TransformersEngine(Engine):
    """Reads and answers with a loaded model."""

    def __init__(self, model: ChatModel) -> None:
        self.model: ChatModel = model
        self.template = model.template
        self.context_length = model.context_length
        self.identity = identity(model)
        self.version = f"transformers {version('transformers')}"

    def read(
        self,
        conversations: Sequence[Conversation],
        layers: Sequence[int],
        directions: Tensor | None = None,
    ) -> Tensor:
        """See `Engine.read`."""
        return read(self.model, conversations, layers=layers, directions=directions).means

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """See `Engine.answer`."""
        requests = [Request(list(prompt), max_new_tokens, temperature=0.0) for prompt in prompts]
        return [response.ids for response in self.model.generate(requests)]
