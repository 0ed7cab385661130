"""What can go wrong with a request, in the server's words, and what to do about it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from personavec.errors import UserError

LONGEST_WORDS = 200  # characters of what a server says
KEPT = "answers so far are kept."

# Where the words of an error stand, in the replies of the servers that are met.
_WORDS = (
    "error", "errors", "base_resp", "message", "detail", "msg", "status_msg", "error_description", "title", "reason",
)  # fmt: skip
_CODES = ("code", "status", "status_code", "type")
_INSIDE = ("error", "errors", "base_resp", "detail")  # what may hold the codes
_STATUS = {  # of errors that are named
    "authentication_error": 401,
    "invalid_api_key": 401,
    "invalid_authentication": 401,
    "insufficient_quota": 402,
    "billing_error": 402,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "context_length_exceeded": 413,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 503,
}
_SPOKEN = {  # of errors in a body of status 200 that names no other
    "rate limit": 429,
    "too many requests": 429,
    "overloaded": 503,
    "unavailable": 503,
    "server is busy": 503,
}
_MODERATED = (
    "moderation", "input was flagged", "prompt was flagged", "content policy", "content management policy",
    "inappropriate content", "safety system",
)  # fmt: skip


class Again(Exception):
    """A failure that may pass.

    Attributes:
        error: What to say if it does not; None: then there is no answer, and the others are asked all the same.
        busy: The endpoint is there, but has too much to do.
        wait: Seconds after which the endpoint wants to be asked again, if it says so.
    """

    def __init__(self, error: UserError | None, busy: bool = False, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.busy, self.wait = error, busy, wait


class RequestRejected(Exception):
    """The endpoint does not accept the request as it is.

    Attributes:
        error: What to say if it accepts no other either.
        logprobs: It speaks of the token probabilities that were asked for.
    """

    def __init__(self, error: UserError, logprobs: bool) -> None:
        super().__init__(str(error))
        self.error, self.logprobs = error, logprobs


class Unanswered(Exception):
    """The endpoint will not answer this prompt, whenever it is asked."""


@dataclass(frozen=True)
class Trouble:
    """What a server says is wrong.

    Attributes:
        status: HTTP's, or what stands for it in a body; None where there is nothing of the kind.
        name: The error's name; empty where it has none.
        words: The server's words, on one line; empty where it has none.
        logprobs: Whether it speaks of token probabilities.
        inside: Whether it was told inside a reply of status 200.
    """

    status: int | None
    name: str
    words: str
    logprobs: bool
    inside: bool

    @classmethod
    def of(cls, body: object, status: int | None = None) -> "Trouble":
        """What a body says, be it JSON, its text, or a page (of which nothing is told).

        Args:
            status: HTTP's; None for a body of status 200, which may name one itself.
        """
        if isinstance(body, str):
            text = body.removeprefix("\ufeff")
            try:
                body = json.loads(text)
            except (ValueError, RecursionError):
                body = "" if text.lstrip().startswith("<") else text
        codes = list(_codes(body))
        named = [_STATUS.get(code, int(code) if code.isdecimal() and len(code) == 3 else 0) for code in codes]
        known = [number for number in named if 400 <= number < 600]
        name = next((code for code in codes if not code.isdecimal()), "")
        words = _words(body)
        if status is None:
            known += [number for said, number in _SPOKEN.items() if said in words.lower()]
        return cls(status or next(iter(known), None), name, words, "logprobs" in str(body), status is None)

    def said(self, secret: str = "") -> str:
        """In a few words, to stand in brackets; `secret` (a key) is not repeated."""
        words = self.words.replace(secret, "...") if secret else self.words
        code = f"status {self.status}" if not self.inside else f"error {self.status or self.name}".strip()
        return f"{code}: {words}" if words else code


def explain(trouble: Trouble, where: str, model: str, headers: Mapping[str, str], secret: str = "") -> Exception:
    """What to do about it: a UserError, or `Again`, `RequestRejected` or `Unanswered`.

    Args:
        where: The endpoint, as it is shown.
        headers: Of the reply.
    """
    said, status = trouble.said(secret), trouble.status
    too_long = status in (400, 413, 422) and any(
        text in trouble.words.lower() for text in ("context length", "too long")
    )
    moderated = status in (400, 403, 422) and any(text in trouble.words.lower() for text in _MODERATED)
    if trouble.name == "content_filter" or moderated:
        return Unanswered()
    if status in (401, 403):
        return UserError(f"{where} refused the key ({said}).", "Check the environment variable OPENAI_API_KEY.")
    if status == 402 or trouble.name == "insufficient_quota":
        return UserError(
            f"{where} says that your credit or quota is used up ({said}).",
            f"Top it up, or choose another endpoint or judge; {KEPT}",
        )
    if status == 404:
        return UserError(
            f"{where} knows no model {model!r} ({said}).",
            "Check the model's name, and the address in OPENAI_BASE_URL.",
        )
    if status == 413 or too_long or trouble.name == "context_length_exceeded":
        return UserError(
            f"A request is too long for {model} at {where} ({said}).",
            f"Judge shorter answers, or choose a model that reads longer ones; {KEPT}",
        )
    if status == 429:
        limit = UserError(f"{where} is still at its rate limit ({said}).", f"Wait a while and try again; {KEPT}")
        return Again(limit, busy=True, wait=retry_after(headers))
    if status is not None and (status >= 500 or status in (408, 409, 425)):
        broken = UserError(f"{where} keeps failing ({said}).", f"Try again later; {KEPT}")
        return Again(broken, busy=True, wait=retry_after(headers))
    if status is None:
        return Again(UserError(f"{where} answers with an error ({said}).", f"Try again later; {KEPT}"))
    return RequestRejected(
        UserError(
            f"{where} rejected the request ({said}).",
            f"Check that {model} is a chat model that takes max_tokens and temperature, or choose another.",
        ),
        logprobs=trouble.logprobs,
    )


def nonsense(trouble: Trouble | None, where: str) -> Again:
    """A reply that is no completion."""
    words = f": {trouble.words}" if trouble is not None and trouble.words else ""
    return Again(
        UserError(
            f"{where} does not answer as an OpenAI-compatible endpoint does{words or '.'}",
            "Check OPENAI_BASE_URL; most endpoints end in /v1.",
        )
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: in milliseconds, in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _words(value: Any) -> str:
    """The first words that tell of an error, and those of a server behind the server."""
    if isinstance(value, str):
        return " ".join("".join(c if c.isprintable() else " " for c in value).split())[:LONGEST_WORDS]
    inner = value if isinstance(value, list) else []
    if isinstance(value, dict):
        inner = [value[key] for key in _WORDS if key in value]
    first = next((words for part in inner if (words := _words(part))), "")
    behind = value.get("metadata") if isinstance(value, dict) else None
    raw = _words(behind.get("raw")) if isinstance(behind, dict) else ""
    return f"{first}: {raw}" if first and raw else first or raw


def _codes(value: Any) -> list[str]:
    """Numbers and names by which a body calls its error, the innermost first."""
    if isinstance(value, list):
        value = next(iter(value), None)
    if not isinstance(value, dict):
        return []
    inner = [code for key in _INSIDE for code in _codes(value.get(key))]
    own = [value.get(key) for key in _CODES]
    return inner + [str(code) for code in own if isinstance(code, int | str) and not isinstance(code, bool)]
