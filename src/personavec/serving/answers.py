"""What requests get, in OpenAI's shapes: of chats and completions. `responses` has another one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pydantic import JsonValue

from personavec.serving.calls import Call
from personavec.serving.engine import DrawnToken
from personavec.serving.failures import RequestError
from personavec.serving.readings import Reading

LOWEST = -9999.0  # what OpenAI writes for the logarithm of nothing
Json = dict[str, JsonValue]
Name = Callable[[int], str]  # the text of a token by itself


@dataclass(eq=False)
class Choice:
    """One answer, as far as it has come.

    Attributes:
        prompt, summary: What was read, in numbers that clients get.
        tokens: Of each token, along the traits that are told.
        alarms: What the limits say of it; empty without limits.
        readings: Of the tokens, as they were read.
        ids, drawn: Its tokens; drawn ones with log-probabilities, where these are told.
        begun, written: Whether its prompt has been read, and how many of its tokens have come.
        steered: How many of its tokens were drawn while the interventions acted; None unless that hangs on a condition.
        finish: Why it is over; None while it is not.
    """

    prompt: Json = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    tokens: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    alarms: Json = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    drawn: list[DrawnToken] = field(default_factory=list)
    begun: bool = False
    written: int = 0
    steered: int | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Told:
    """What one event adds to a choice.

    Attributes:
        begins: Nothing was told of it before.
        start: How many characters of its text came before.
        finish: Why it is over now; None while it is not.
        persona: What was read; None where nothing is told of it.
        usage: Of the whole request, so far.
    """

    index: int
    usage: "Usage"
    begins: bool = False
    text: str = ""
    tokens: Sequence[DrawnToken] = ()
    start: int = 0
    calls: Sequence[Call] = ()
    finish: str | None = None
    persona: Json | None = None


class UsageTold(Enum):
    """When a stream tells how many tokens there were."""

    NEVER = "never"
    AT_THE_END = "at the end"
    ALWAYS = "always"


class Usage(NamedTuple):
    """Tokens of a request.

    Attributes:
        prompt, completion: Of its prompts, and of its answers.
        cached: Of its prompts, those that were not read again.
    """

    prompt: int
    completion: int
    cached: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.prompt + self.completion

    def as_json(self) -> Json:
        """As chats and completions tell it."""
        return {
            "prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.total,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }  # fmt: skip


class Shape(ABC):
    """How one answer is told.

    Args:
        head: Of the answer: id, created, model.
        name: Of tokens, where log-probabilities are told.

    Attributes:
        prefix: Of its id.
        named: Whether the type of an event stands before it.
        end: What ends a stream.
    """

    prefix: str
    named = False
    end = "data: [DONE]\n\n"

    def __init__(self, head: Json, name: Name | None = None) -> None:
        self.head, self.name = head, name

    @abstractmethod
    def events(self, told: Told) -> Iterator[Json]:
        """What a stream tells of it."""

    @abstractmethod
    def last(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Iterator[Json]:
        """How a stream ends.

        Args:
            usage: Of the whole request.
            persona: All that was read.
        """

    @abstractmethod
    def whole(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Json:
        """All of it in one piece."""

    def failed(self, error: RequestError) -> Json:
        """That no more comes in a stream, and why."""
        return error.body


class _ChunkShape(Shape):
    object: str
    chunk: str

    def __init__(self, head: Json, name: Name | None = None, *, usage: UsageTold = UsageTold.NEVER) -> None:
        super().__init__(head, name)
        self.usage = usage

    @abstractmethod
    def delta(self, told: Told) -> Json:
        """What it adds."""

    @abstractmethod
    def content(self, choice: Choice) -> Json:
        """All that it is."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[DrawnToken], name: Name, start: int) -> Json:
        """Of tokens, with the likeliest ones at their places; `start` is how many characters came before."""

    def told_logprobs(self, tokens: Sequence[DrawnToken], start: int = 0) -> Json | None:
        """The same, where they are told."""
        return self.logprobs(tokens, self.name, start) if self.name is not None and tokens else None

    def events(self, told: Told) -> Iterator[Json]:
        """One chunk."""
        logprobs = self.told_logprobs(told.tokens, told.start)
        choice: Json = {
            "index": told.index, **self.delta(told), "logprobs": logprobs, "finish_reason": told.finish
        }  # fmt: skip
        persona: Json = {} if told.persona is None else {"persona": told.persona}
        usage: Json = {}
        if self.usage is not UsageTold.NEVER:
            usage["usage"] = told.usage.as_json() if self.usage is UsageTold.ALWAYS else None
        yield {**self.head, "object": self.chunk, "choices": [choice], **usage, **persona}

    def last(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Iterator[Json]:
        """The usage, if it was asked for."""
        if self.usage is not UsageTold.NEVER:
            yield {**self.head, "object": self.chunk, "choices": [], "usage": usage.as_json()}

    def whole(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Json:
        """All choices."""
        made: list[JsonValue] = []
        for index, choice in enumerate(choices):
            content, logprobs = self.content(choice), self.told_logprobs(choice.drawn)
            made.append({"index": index, **content, "logprobs": logprobs, "finish_reason": choice.finish})
        read: Json = {} if persona is None else {"persona": persona}
        return {**self.head, "object": self.object, "choices": made, "usage": usage.as_json(), **read}


class ChatShape(_ChunkShape):
    """Of `/v1/chat/completions`."""

    prefix, object, chunk = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def delta(self, told: Told) -> Json:
        """The role, some text, calls; a call comes in one piece, at the end."""
        found: Json = {"role": "assistant"} if told.begins else {}
        if told.begins or told.tokens or told.text:
            found["content"] = told.text
        if told.calls:
            found["tool_calls"] = [{"index": i, **_call(call)} for i, call in enumerate(told.calls)]
        return {"delta": found}

    def content(self, choice: Choice) -> Json:
        """A message."""
        text = "".join(choice.text)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": [_call(call) for call in choice.calls]}
        return {"message": message}

    def logprobs(self, tokens: Sequence[DrawnToken], name: Name, start: int) -> Json:
        """By token."""
        return {
            "content": [
                {
                    **_likely(token.id, token.logprob or 0.0, name),
                    "top_logprobs": [_likely(id, value, name) for id, value in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }


class CompletionShape(_ChunkShape):
    """Of `/v1/completions`."""

    prefix, object, chunk = "cmpl-", "text_completion", "text_completion"

    def delta(self, told: Told) -> Json:
        """Some text."""
        return {"text": told.text}

    def content(self, choice: Choice) -> Json:
        """All text."""
        return {"text": "".join(choice.text)}

    def logprobs(self, tokens: Sequence[DrawnToken], name: Name, start: int) -> Json:
        """In four lists."""
        names = [name(token.id) for token in tokens]
        return {
            "tokens": [*names],
            "token_logprobs": [max(token.logprob or 0.0, LOWEST) for token in tokens],
            "top_logprobs": [{name(id): max(value, LOWEST) for id, value in token.top} for token in tokens],
            "text_offset": [start + sum(map(len, names[:i])) for i in range(len(names))],
        }


def _call(call: Call) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _likely(id: int, value: float, name: Name) -> Json:
    text = name(id)
    return {"token": text, "logprob": max(value, LOWEST), "bytes": None if "\ufffd" in text else [*text.encode()]}
