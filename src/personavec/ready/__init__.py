"""Ready vectors: those of the library's traits for the default model, with what their extractions found."""

import difflib
import json
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from personavec.errors import UserError
from personavec.results import Figure, Number, Result

FOLDER = Path(__file__).parent
FIGURES = FOLDER / "figures.json"  # written, as the vectors are, by benchmarks/ready.py


class ReadyEffect(Result):
    """What steering by a ready vector does, as one judge sees it.

    Attributes:
        effect: Points that the score moves by from minus to plus the coefficient, by question.
        on_null_questions: Its mean on the questions that random directions were tried on.
        chance: Points, the most that a random direction of equal norm moves these by, either way.
        directions: Random directions that were tried.
    """

    effect: Figure
    on_null_questions: Number
    chance: Number
    directions: int

    @property
    def shown(self) -> bool:
        """Whether there is an effect, and more of one than by chance."""
        return self.effect.low > 0 and self.on_null_questions > self.chance


class ReadyMarks(Result):
    """What one reader saw in the answers to the questions that a run drew at random, knowing how they were steered.

    Attributes:
        answers: That were read at either coefficient.
        plus, minus: How many of them plainly show the trait at plus, and at minus the coefficient.
    """

    answers: int
    plus: int
    minus: int

    @property
    def seen(self) -> bool:
        """Whether a reader sees the steering: one answer may be chance."""
        return self.plus - self.minus > 1


class ReadyVector(Result):
    """A vector that comes with the package.

    Attributes:
        trait: What it is of, and its name.
        model, weights: Of the model it belongs to: hub id, and short hash.
        layer: Where it is used.
        sha256: Of its file.
        auc: How well its projections tell texts apart that it is not made of, over questions.
        coefficient: That effects are taken at, plus and minus, in multiples of the vector.
        effects: By judge; null: it scored too few answers.
        reader: What a reader saw at that coefficient.
        coherent_range: The smallest and the largest coefficient tried at which answers stay coherent.
        recommended_coefficient: The strongest that can be recommended; null: none.
    """

    trait: str
    model: str
    weights: str
    layer: int
    sha256: str
    auc: Figure
    coefficient: Number
    effects: dict[str, ReadyEffect | None]
    reader: ReadyMarks
    coherent_range: tuple[Number, Number]
    recommended_coefficient: Number | None

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / f"{self.trait}.safetensors"

    @property
    def word(self) -> str:
        """Whether it steers, in a few words."""
        seen = [name for name, found in self.effects.items() if found is not None and found.shown]
        if len(seen) == len(self.effects):
            if not self.reader.seen:
                return "judges see it steer, a reader hardly does"
            return "steers" if self.coefficient <= self.coherent_range[1] else "steers, at a price in coherence"
        return f"in doubt: only {seen[0]} sees it steer" if seen else "steering not shown"


@cache
def ready_vectors() -> dict[str, ReadyVector]:
    """All of them, by trait."""
    known = TypeAdapter(list[ReadyVector]).validate_python(json.loads(FIGURES.read_text(encoding="utf-8")))
    return {one.trait: one for one in known}


def find_ready(name: str) -> ReadyVector:
    """The one of this name.

    Raises:
        UserError: There is none.
    """
    known = ready_vectors()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"There is no ready vector {name!r}.{guess}", f"Ready are {', '.join(known)}.")
    return known[name]
