"""Logs of readings: what `personavec serve` writes of every answer, and what `personavec monitor` leaves."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from personavec.errors import UserError
from personavec.files import SUMMARY
from personavec.monitoring.result import WatchedConversation, WatchedTurn
from personavec.results import Number, Result
from personavec.stats.alarms import Codes
from personavec.stats.numbers import Floats

MONITORED = "projections.jsonl"  # in the run folder of `monitor`
ADVICE = "Give the `log` of `personavec serve`, or the run folder of `personavec monitor`."


class LoggedReading(Result):
    """What was read of one answer along one vector, in deviations of neutral answers; raw where these are not known.

    Attributes:
        before: Of the last prompt token.
        mean: Of the mean over the answer's tokens.
        max: Of the highest mean of 16 tokens in a row.
    """

    before: Number
    mean: Number
    max: Number


class LoggedAnswer(Result):
    """A line of a log.

    Attributes:
        id: Of the answer.
        conversation: What its conversation is called: by the client, or else by its beginning, unreadably.
        turn: How many answers the conversation held before, as far as the request told them; of a named one, as far as
            the server knows.
        time: When it ended, as in ISO 8601; empty in monitored chats.
        model: As the client called it; empty in monitored chats.
        traits: Readings by trait.
        vectors: Short hashes of the vectors by trait; of monitored chats none.
        tokens: Of the answer; 0 in monitored chats.
        steering: What was done to the stream, in words.
        alarms: Rules that alarmed.
        abandoned: Whether it did not come to its end, as its client left or it failed; readings are of what came.
        question, text: What the user said last, and the answer; None unless texts are logged.
    """

    id: str
    conversation: str
    turn: int
    time: str
    model: str
    traits: dict[str, LoggedReading]
    vectors: dict[str, str]
    tokens: int
    steering: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    abandoned: bool = False
    question: str | None = None
    text: str | None = None


class Kind(NamedTuple):
    """What answers must have in common to be held against one another.

    Attributes:
        traits: In order of their names.
        vectors: Pairs of trait and hash.
        steering: In words.
    """

    traits: tuple[str, ...]
    vectors: tuple[tuple[str, str], ...]
    steering: tuple[str, ...]

    @classmethod
    def of(cls, answer: LoggedAnswer) -> "Kind":
        """That of an answer."""
        return cls(tuple(sorted(answer.traits)), tuple(sorted(answer.vectors.items())), answer.steering)


@dataclass(frozen=True)
class Traffic:
    """Answers of one kind, conversation by conversation.

    Attributes:
        traits: T names.
        answers: n of them, the conversations one after another, each in order.
        groups: (n,) the conversation of each, numbered from 0 on.
        before, mean, highest: (n, T) readings.
    """

    traits: tuple[str, ...]
    answers: Sequence[LoggedAnswer]
    groups: Codes
    before: Floats
    mean: Floats
    highest: Floats

    @classmethod
    def of(cls, answers: Sequence[LoggedAnswer], traits: Sequence[str]) -> "Traffic":
        """These answers. Of several to one turn, as from asking again, the last one counts."""
        last = {(answer.conversation, answer.turn): answer for answer in answers}
        places = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in last))}
        chosen = [last[key] for key in sorted(last, key=lambda key: (places[key[0]], key[1]))]
        table = [[answer.traits[trait] for trait in traits] for answer in chosen]

        def side(name: str) -> Floats:
            return np.array([[getattr(one, name) for one in row] for row in table], dtype=np.float64)

        return cls(
            tuple(traits),
            chosen,
            np.array([places[answer.conversation] for answer in chosen], dtype=np.intp),
            side("before"),
            side("mean"),
            side("max"),
        )

    @property
    def conversations(self) -> int:
        """How many there are."""
        return int(self.groups[-1]) + 1

    def of_groups(self, chosen: np.ndarray) -> "Traffic":
        """The conversations (K,) that are chosen."""
        rows = chosen[self.groups]
        _, groups = np.unique(self.groups[rows], return_inverse=True)
        answers = [answer for answer, kept in zip(self.answers, rows, strict=True) if kept]
        return Traffic(
            self.traits, answers, groups.astype(np.intp), self.before[rows], self.mean[rows], self.highest[rows]
        )


def read_log(path: Path | str) -> list[LoggedAnswer]:
    """The answers of a log, in its order.

    Args:
        path: A file of `personavec serve`, or a run folder of `personavec monitor` or its projections.jsonl.

    Raises:
        UserError: It cannot be read, or a line is of neither kind.
    """
    path = Path(path)
    file = path / MONITORED if path.is_dir() else path
    if path.is_dir() and not (path / SUMMARY).exists():
        raise UserError(f"{path} holds no finished run of monitor.", ADVICE)
    try:
        answers = [answer for number, line in _lines(file) for answer in _answers(line, f"{file}, line {number}")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The log {file} cannot be read: {error}.", ADVICE) from error
    if not answers:
        raise UserError(f"{file} holds no answer with a reading.", ADVICE)
    return answers


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbers and lines; half a line at the end is one that is being written."""
    with file.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if line.endswith("\n") and line.strip():
                yield number, line


def _answers(line: str, where: str) -> list[LoggedAnswer]:
    try:
        found = json.loads(line)
        if isinstance(found, dict) and "turns" in found:
            return list(_monitored(WatchedConversation.model_validate(found)))
        answer = LoggedAnswer.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: not a line of a log ({place}: {first['msg']}).", ADVICE) from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).", ADVICE) from error
    return [answer] if answer.traits else []


def _monitored(conversation: WatchedConversation) -> Iterator[LoggedAnswer]:
    """The answers of a line of `monitor`; it does not say what was steered: nothing, for all it knows."""
    name = f"{conversation.source}:{conversation.line}"
    for turn in conversation.turns:
        if turn.during:
            yield LoggedAnswer(
                id=f"{name}:{turn.index + 1}", conversation=name, turn=turn.index, time="", model="",
                traits={trait: _reading(turn, trait) for trait in turn.during}, vectors={}, tokens=0, steering=(),
            )  # fmt: skip


def _reading(turn: WatchedTurn, trait: str) -> LoggedReading:
    before, mean, most = turn.before[trait], turn.during[trait], turn.highest[trait]
    return LoggedReading(
        before=turn.before_raw[trait] if before is None else before,
        mean=turn.during_raw[trait] if mean is None else mean,
        max=turn.highest_raw[trait] if most is None else most,
    )


def commonest(answers: Sequence[LoggedAnswer]) -> tuple[Kind, list[LoggedAnswer]]:
    """The kind that most answers are of, and these answers."""
    kind, _ = Counter(map(Kind.of, answers)).most_common(1)[0]
    return kind, [answer for answer in answers if Kind.of(answer) == kind]


def fits(answer: LoggedAnswer, traits: Sequence[str], vectors: Mapping[str, str], steering: Sequence[str]) -> bool:
    """Whether an answer is of the kind that limits were made for; a hash that is not known agrees with any."""
    return (
        all(trait in answer.traits for trait in traits)
        and all(vectors.get(trait, other) == other for trait, other in answer.vectors.items())
        and tuple(steering) == answer.steering
    )
