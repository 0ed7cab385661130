"""How far a fine-tune moved a model along traits, beside what chance gives."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, JsonValue

from personavec.results import Figure, Number, Result, Run
from personavec.stats.nulls import Place


def _rounded(given: Place) -> Place:
    return Place(round(given.percentile, 4), round(given.p_value, 4), round(given.p95, 4), given.n)


RandomPlace = Annotated[Place, AfterValidator(_rounded)]  # four digits after the point


class SystemPrompt(Result):
    """A system prompt under which a shift is measured too.

    Attributes:
        system: Its text.
    """

    system: str

    @property
    def title(self) -> str | None:
        """What pages call it; None: by its own words."""
        return None


class SystemShift(Result):
    """The shift under one system prompt.

    Attributes:
        system: The prompt's text.
        shift: Along the trait's unit vector, over the trait's evaluation questions.
    """

    system: str
    shift: Figure


class ShiftNulls(Result):
    """Where the size of a shift stands among those of random directions tried on the same change.

    Attributes:
        isotropic: Directions of which all are alike.
        covariance: Directions that lean as the readings before do.
    """

    isotropic: RandomPlace
    covariance: RandomPlace

    @property
    def closer(self) -> Place:
        """Of the two kinds, that which explains more."""
        return self.covariance if self.covariance.p_value >= self.isotropic.p_value else self.isotropic

    @property
    def reach(self) -> float:
        """How far 95 in 100 random directions stay within, of the kind that reaches farther."""
        return max(self.isotropic.p95, self.covariance.p95)


class TraitShift(Result):
    """The fine-tuning shift along one trait's vector (paper section 4.2).

    Attributes:
        layer: Of the vector, where it is measured.
        shift: Mean change of the last prompt token's reading along the unit vector, over the trait's questions.
        neutral_deviations: The same in deviations of the neutral answers' prompts; None: the vector's file has none.
        nulls: Random directions on the same change.
        others: The same change along the unit vectors of other traits, by trait.
        systems: The shift under system prompts.
    """

    layer: int
    shift: Figure
    neutral_deviations: Number | None
    nulls: ShiftNulls
    others: dict[str, Number]
    systems: tuple[SystemShift, ...]


class ShiftRun(Run):
    """What `personavec shift` finds.

    Attributes:
        tuned: What was compared with the model: the tuned model or the adapter, as it was named.
        tuned_identity: What decides the tuned model's answers and readings.
        systems: The system prompts under which the shift was measured too.
        traits: By trait.
        verdict, warnings: Sentences.
    """

    COMMAND: ClassVar[str] = "shift"

    tuned: str
    tuned_identity: dict[str, JsonValue]
    systems: tuple[SystemPrompt, ...]
    traits: dict[str, TraitShift]
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]
