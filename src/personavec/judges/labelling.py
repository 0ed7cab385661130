"""A person as the judge: answers shown one by one, without any score, and what the person says of them kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from personavec.data import Dataset, Sample
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.judges.scoring import asked_and_answered

ENDS = ("q", "quit")
SKIPS = ("", "s", "skip")


@dataclass(frozen=True)
class Labels:
    """What a person has said so far.

    Attributes:
        labelled: Answers with a score, those of earlier sittings included.
        skipped: In this sitting.
        left: Answers that have not been shown.
        rejected: Records without an answer to be shown.
    """

    labelled: int
    skipped: int
    left: int
    rejected: int


def label_chats(
    data: Dataset,
    out: Path,
    ask: Callable[[str, str], str],
    *,
    again: Callable[[str], None],
    limit: int | None = None,
    seed: int = 0,
) -> Labels:
    """Let a person score the last answers of chats, in an order drawn by chance; every score is kept at once.

    The file has a record for each text, as `read_texts` takes them: "question", "answer", "score". What it holds
    is not asked again, so that a sitting can be broken off.

    Args:
        ask: Shows a question and an answer; returns what the person says: 0 to 100, nothing to skip, q to end.
        again: Called with what is wrong with a reply; then the same is asked again.
        limit: Most answers to be labelled, those of earlier sittings included.

    Raises:
        UserError: No record holds an answer, or `out` holds something else.
    """
    known = JsonLines(out)
    done = {_key(record) for record in known}
    shown, rejected = _shown(data)
    if not shown:
        raise UserError(f"None of the {rejected} records holds an answer to be labelled.", "Give chats with answers.")
    order = [shown[place] for place in np.random.default_rng(seed).permutation(len(shown))]
    waiting = [both for both in order if both not in done]
    labelled, skipped = len(done), 0
    while waiting and (limit is None or labelled < limit):
        question, answer = waiting.pop(0)
        said = _score(ask, again, question, answer)
        if said is None:
            return Labels(labelled, skipped, len(waiting) + 1, rejected)
        if said == "skip":
            skipped += 1
            continue
        known.append({"question": question, "answer": answer, "score": said})
        labelled += 1
    return Labels(labelled, skipped, len(waiting), rejected)


def _shown(data: Dataset) -> tuple[list[tuple[str, str]], int]:
    """Question and answer of every chat once, and how many records hold none."""
    found: dict[tuple[str, str], None] = {}
    rejected = 0
    for record in data:
        try:
            if not isinstance(record, Sample):
                raise UserError(record.reason)
            found[asked_and_answered(record)] = None
        except UserError:
            rejected += 1
    return list(found), rejected


def _key(record: dict[str, object]) -> tuple[object, object]:
    if not {"question", "answer", "score"} <= record.keys():
        raise UserError("The file to write to holds other records than labels.", "Name a new file.")
    return record["question"], record["answer"]


def _score(
    ask: Callable[[str, str], str], again: Callable[[str], None], question: str, answer: str
) -> float | str | None:
    """Points; "skip"; or None where the person wants to end."""
    while True:
        said = ask(question, answer).strip().lower()
        if said in ENDS:
            return None
        if said in SKIPS:
            return "skip"
        try:
            points = float(said)
        except ValueError:
            points = -1.0
        if 0 <= points <= 100:
            return points
        again(f"{said!r} is not a number from 0 to 100.")
