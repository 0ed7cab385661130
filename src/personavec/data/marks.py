"""Marks by which the data of training tools say of a turn whether it is trained on."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from personavec.data.printed import kind

# Fields of a message, with tools that read them; and whether a true one says that the turn is trained on.
MARKS = {
    "weight": True,  # OpenAI, Mistral, axolotl
    "train": True,  # axolotl
    "training": True,  # axolotl
    "trainable": True,  # Tinker
    "loss": True,  # ms-swift, XTuner
    "loss_weight": True,
    "loss_mask": True,  # verl: 1 where there is loss
    "mask": False,
    "masked": False,  # torchtune
    "ignore": False,
}
# Marks of parts of a turn (axolotl), and only whole turns can be left out.
PARTIAL = ("train_detail", "training_detail")


class MarkError(Exception):
    """A mark that cannot be followed, in words."""


def left_out(item: Mapping[str, Any]) -> bool:
    """Whether a message's marks say that it is not to be trained on.

    Raises:
        MarkError: A mark is no number from 0 on and not true or false, two disagree, or one is of parts of the turn.
    """
    for name in PARTIAL:
        if item.get(name):
            raise MarkError(f'"{name}" marks parts of a turn, and only whole turns can be left out')
    says = {name: _trained(name, item[name]) for name in MARKS if item.get(name) is not None}
    if len(set(says.values())) > 1:
        first, second = (next(name for name, said in says.items() if said is side) for side in (True, False))
        raise MarkError(f'"{first}" says that it is trained on, "{second}" that it is not')
    return False in says.values()


def _trained(name: str, value: object) -> bool:
    if not _is_mark(value):
        expected = "a number from 0 on" if name in ("weight", "loss_weight") else "true or false"
        found = f"{value!s:.20}" if isinstance(value, int | float) else kind(value)
        raise MarkError(f'expected {expected} as "{name}", found {found}')
    return bool(value) is MARKS[name]


def _is_mark(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < math.inf


def notes_on(items: Iterable[Mapping[str, Any]], role: str, known: Iterable[str]) -> list[str]:
    """What is not read in these messages, in sentences: other fields, weights between 0 and 1, marks of other roles.

    Args:
        role: The field that holds the role.
        known: Fields that are read.
    """
    unread: Counter[str] = Counter()
    weighed, others = 0, Counter[str]()
    read = {*known, *MARKS, *PARTIAL}
    for item in items:
        there = {str(name): value for name, value in item.items() if value not in (None, "", [], {})}
        unread.update(there.keys() - read)
        weighed += any(_is_mark(mark := there.get(name)) and mark not in (0, 1) for name in MARKS)
        if item.get(role) in ("user", "human", "system", "tool"):
            others.update(name for name in MARKS if name in there and there[name] == MARKS[name])
    notes = []
    if unread:
        more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
        names = ", ".join(f"{name:.60}" for name in sorted(unread)[:10])
        notes.append(f"Fields of messages that are not read: {names}{more}.")
    if weighed:
        notes.append("Weights of messages other than 0 and 1 count as 1.")
    if others:
        notes.append(
            f"Only the assistant's turns are trained on: {', '.join(sorted(others))} of other turns is not followed."
        )
    return notes
