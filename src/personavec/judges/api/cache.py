"""What a paid model has answered, kept on disk so that no question is paid twice."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from personavec.cache import cache_folder
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.judges.rubric import LEAST_MASS, expected_score, parse_score, whole_number

Kept = TypeVar("Kept")


class Reply(BaseModel):
    """What a model answered.

    Attributes:
        text: The sampled text.
        first: Probabilities of its first token that is not white space, the likeliest 20 (or fewer) by text; None where
            the endpoint gives none.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    first: dict[str, float] | None = None

    @property
    def score(self) -> float | None:
        """The expected value over the numbers, or the number in the text where the probabilities do not tell it.

        A tokenizer may write 85 as 8 and 5. It does if the text goes on with digits after the likeliest first token,
        and may do so if all likely numbers have one digit. What follows the digits that were not sampled is then
        unknown, and the sampled text is the better witness.
        """
        if not self.first:
            return parse_score(self.text) if self.first is None else None
        numbers = {token: p for token, p in self.first.items() if whole_number(token) is not None}
        begun = max(self.first.items(), key=lambda item: item[1])[0].strip()
        split = whole_number(begun) is not None and re.match(rf"\s*{begun}[0-9]", self.text) is not None
        if not split and any(len(token.strip()) > 1 for token in numbers):
            return expected_score(numbers)
        return parse_score(self.text) if sum(numbers.values()) >= LEAST_MASS else None


class Replies(Generic[Kept]):
    """What one model behind one endpoint replied, by prompt. Several threads and processes may share the file.

    On disk: `FOLDER/MODEL-HASH.jsonl` in the cache folder, whole replies, one a line. In memory: what `kept` makes of
    them.

    Raises:
        UserError: The cache cannot be read or written.
    """

    FOLDER: ClassVar[str]

    def __init__(self, endpoint: str, model: str) -> None:
        self._identity = (endpoint, model)
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")[:60] or "model"
        self.path = cache_folder() / self.FOLDER / f"{stem}-{self.key('')[:12]}.jsonl"
        self._lines = JsonLines(self.path)
        self._mine = threading.Lock()
        with self._alone():
            self._kept = {r["key"]: self.kept(reply) for r in self._lines if (reply := _reply(r)) is not None}

    def kept(self, reply: Reply) -> Kept:
        """What of a reply stays in memory."""
        raise NotImplementedError

    def key(self, prompt: str) -> str:
        """SHA-256 of endpoint, model and prompt."""
        return hashlib.sha256(json.dumps([*self._identity, prompt]).encode()).hexdigest()

    def __contains__(self, prompt: str) -> bool:
        return self.key(prompt) in self._kept

    def get(self, prompt: str) -> Kept | None:
        """What is kept of the reply; None: there is none yet."""
        return self._kept.get(self.key(prompt))

    def add(self, prompt: str, reply: Reply) -> None:
        """Keep a reply; on return it is on the disk."""
        record = {"key": self.key(prompt), **reply.model_dump()}
        with self._alone():
            if self._torn():
                list(self._lines)  # reading cuts it off; ours must not be glued to it
            self._lines.append(record)
        self._kept[record["key"]] = self.kept(reply)

    def _torn(self) -> bool:
        """Whether another process was killed in the middle of a line since the file was read."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # A reader cuts off a torn last line, which must not be one that somebody else is just writing.
        with self._mine:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.path.with_suffix(".lock")):
                    yield
            except OSError as error:
                raise _unusable(self.path, error) from error
            except UserError as error:
                if isinstance(error.__cause__, OSError):
                    raise _unusable(self.path, error.__cause__) from error
                raise


class ReplyCache(Replies[float | None]):
    """The scores of a judge."""

    FOLDER = "judges"

    def kept(self, reply: Reply) -> float | None:
        """The score that was given."""
        return reply.score

    def score(self, prompt: str) -> float | None:
        """The score that was given.

        Raises:
            KeyError: The prompt was not answered yet.
        """
        return self._kept[self.key(prompt)]


class TextCache(Replies[str]):
    """The texts of a writer."""

    FOLDER = "writers"

    def kept(self, reply: Reply) -> str:
        """The text that was written."""
        return reply.text


def _reply(record: Any) -> Reply | None:
    """The reply on a line; None for a line of another shape, or an empty one, which are asked for again."""
    try:
        reply = Reply(text=record["text"], first=record["first"]) if isinstance(record["key"], str) else None
    except (ValidationError, KeyError, TypeError):
        return None
    return reply if reply is not None and (reply.text.strip() or reply.first) else None


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot keep the model's answers in {path}: {error.strerror or error}.",
        "Free some space, or name another cache folder in PERSONAVEC_CACHE.",
    )
