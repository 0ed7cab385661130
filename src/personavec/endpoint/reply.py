"""What an endpoint sends with status 200: an answer, an error that only its body tells, or nothing that makes sense.

An answer is read leniently, since servers leave out or spoil figures that they do not have: an entry of another shape
counts as not there. An error is never read as an answer, wherever in the body it stands.
"""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, FiniteFloat, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from personavec.endpoint.failures import Trouble


@dataclass(frozen=True)
class EndpointAnswer:
    """What the model wrote.

    Attributes:
        text: Not blank.
        first: Probabilities (0..1) of its first token that is not white space, by text; None where they are not told.
        likelihoods: Whether the endpoint tells probabilities at all, be it of other tokens.
        finished: Whether the model ended it itself; if not, it reached the length limit.
    """

    text: str
    first: dict[str, float] | None
    likelihoods: bool
    finished: bool


class NoReply(Exception):
    """A body of status 200 without an answer.

    Attributes:
        trouble: The error that the body tells; None where it tells none.
        kind: "error"; "filtered" by the endpoint; "empty"; or "nonsense", no completion at all.
    """

    def __init__(self, kind: str, trouble: Trouble | None = None) -> None:
        super().__init__(kind)
        self.kind, self.trouble = kind, trouble


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Lenient = WrapValidator(_or_none)


class _Token(BaseModel):
    token: str
    logprob: FiniteFloat


class _Position(BaseModel):
    token: str
    top_logprobs: Annotated[list[Annotated[_Token | None, _Lenient]] | None, _Lenient] = None

    @property
    def probabilities(self) -> dict[str, float]:
        """Of the likeliest tokens, by text; empty where none is told."""
        found: dict[str, float] = {}
        for entry in self.top_logprobs or ():
            if entry is not None:
                found[entry.token] = found.get(entry.token, 0.0) + round(math.exp(min(entry.logprob, 0.0)), 7)
        return found


class _Logprobs(BaseModel):
    content: list[Annotated[_Position | None, _Lenient]] | None = None


class _Part(BaseModel):
    text: str


class _Message(BaseModel):
    content: Annotated[str | list[Annotated[_Part | None, _Lenient]] | None, _Lenient] = None
    refusal: Annotated[str | None, _Lenient] = None
    error: Any = None

    @property
    def text(self) -> str:
        """What was said, in parts or in one piece, or why nothing was."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part is not None)
        return self.content or self.refusal or ""


class _Choice(BaseModel):
    message: Annotated[_Message | None, _Lenient] = None
    logprobs: Annotated[_Logprobs | None, _Lenient] = None
    finish_reason: Annotated[str | None, _Lenient] = None
    error: Any = None


class _Body(BaseModel):
    choices: Annotated[list[_Choice] | None, _Lenient] = None
    error: Any = None
    errors: Any = None
    object: Any = None
    success: Any = None
    base_resp: Any = None

    @property
    def failed(self) -> bool:
        """Whether it says so, in one of the ways that servers have."""
        code = self.base_resp.get("status_code") if isinstance(self.base_resp, dict) else None
        return bool(self.error or self.errors or self.object == "error" or self.success is False or code)


def read_reply(text: str) -> EndpointAnswer:
    """The answer in a body.

    Raises:
        NoReply: There is none.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff"))
        body = _Body.model_validate(value)
    except (ValueError, RecursionError):
        raise NoReply("nonsense", Trouble.of(text)) from None
    if body.failed:
        raise NoReply("error", Trouble.of(value))
    if not body.choices:
        trouble = Trouble.of(value)
        raise NoReply("nonsense" if trouble.status is None else "error", trouble)
    choice = body.choices[0]
    error = choice.error or (choice.message.error if choice.message is not None else None)
    if error or choice.finish_reason == "error":
        raise NoReply("error", Trouble.of({"error": error} if error else value["choices"][0]))
    if choice.finish_reason == "content_filter":
        raise NoReply("filtered")
    if choice.message is None:
        raise NoReply("nonsense", Trouble.of(value))
    if not choice.message.text.strip():
        raise NoReply("empty")
    positions = choice.logprobs.content if choice.logprobs is not None else None
    return EndpointAnswer(
        choice.message.text,
        _first_token(positions or []),
        any(position is not None and position.probabilities for position in positions or ()),
        choice.finish_reason != "length",
    )


def _first_token(positions: list[_Position | None]) -> dict[str, float] | None:
    for position in positions:
        if position is None:  # it may be the first one
            return None
        if position.token.strip():
            return position.probabilities or None
    return None
