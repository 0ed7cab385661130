"""Readings under an answer: a gauge for each trait, in plain text."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from personavec.cli import options as o
from personavec.errors import UserError

if TYPE_CHECKING:
    from personavec.model import ChatModel
    from personavec.model.messages import Message
    from personavec.monitoring.projections import Projection
    from personavec.vector import PersonaVector

REACH = 4  # deviations at either end of a gauge
STEPS = 4  # cells for each deviation
DRAWN, PLAIN = ("·", "│", "█", "○"), ("-", "|", "#", "o")  # track, zero, bar, mark; the latter for ASCII outputs


def read_vectors(model: "ChatModel", files: Sequence[Path], other_weights: bool) -> "list[PersonaVector]":
    """What answers are read along, checked against the model.

    Raises:
        UserError: As `PersonaVector.load` and `check`, or two vectors of one trait.
    """
    from personavec.vector import PersonaVector, check_one_per_trait

    vectors = [PersonaVector.load(o.vector_file(file)) for file in files]
    check_one_per_trait(vectors)
    for vector in vectors:
        vector.check(model, other_weights=other_weights)
    return vectors


def last_answer(
    model: "ChatModel", messages: "Sequence[Message]", vectors: "Sequence[PersonaVector]"
) -> "dict[str, Projection]":
    """Readings of the last answer by trait, as `monitor` has them: of the text, without steering; none if it is empty.

    Raises:
        UserError: The conversation cannot be read.
    """
    from personavec.monitoring.projections import project

    return project(model, [messages], vectors)[0][-1] if vectors else {}


def key() -> str:
    """What a gauge shows, in a sentence."""
    *_, bar, mark = _characters()
    return (
        f"Readings, -{REACH} to +{REACH} deviations from the model's neutral answers: the bar ({bar}) is the mean over "
        f"the answer, {mark} the moment before it. The text is read without the steering."
    )


def gauges(readings: "Mapping[str, Projection]") -> str:
    """A line for each trait."""
    width = max(map(len, readings), default=0)
    return "\n".join(f"  {name:<{width}}  {_gauge(reading)}" for name, reading in readings.items())


def show(model: "ChatModel", messages: "Sequence[Message]", vectors: "Sequence[PersonaVector]") -> None:
    """Print the gauges of the last answer; what cannot be read is said, and ends nothing."""
    from personavec.cli.flags import with_flags

    try:
        readings = last_answer(model, messages, vectors)
    except UserError as error:
        print(with_flags(f"No readings: {error.problem}"), file=sys.stderr)
        return
    if readings:
        print(f"\n{gauges(readings)}")


def _gauge(reading: "Projection") -> str:
    before, during = reading.before_z, reading.during_z
    if before is None or during is None:
        return f"before {reading.before:+.2f}  during {reading.during:+.2f}  (raw: no neutral answers are known)"
    track, zero, bar, mark = _characters()
    middle = REACH * STEPS
    cells = [track] * (2 * middle + 1)
    start, end = _cell(before), _cell(during)
    for at in range(min(middle, end), max(middle, end) + 1):
        cells[at] = bar
    cells[middle], cells[start] = zero, mark
    return f"{''.join(cells)}  before {before:+.1f}  during {during:+.1f}"


def _cell(value: float) -> int:
    return round((min(max(value, -REACH), REACH) + REACH) * STEPS)


def _characters() -> tuple[str, str, str, str]:
    try:
        "".join(DRAWN).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN
    return DRAWN
