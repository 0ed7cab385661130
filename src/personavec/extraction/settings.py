"""What decides the result of an extraction."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_doc import Doc

from personavec.errors import UserError, check_least, check_words
from personavec.judges.kinds import spellings
from personavec.operations import Positions

if TYPE_CHECKING:
    from personavec.model import ChatModel
    from personavec.traits import Trait


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides the result of an extraction, besides the trait and the model.

    Of the trait's five instruction pairs those that are not used for the extraction judge and evaluate. The paper's
    temperature is 1; small models derail there.

    Raises:
        UserError: Naming the field and what it may be.
    """

    pairs: Annotated[int, Doc("Instruction pairs for the extraction.")] = 3
    questions: Annotated[int, Doc("Extraction questions.")] = 20
    rollouts: Annotated[int, Doc("Responses per question, pair and side.")] = 1
    max_new_tokens: Annotated[int, Doc("Longest response.")] = 48
    temperature: Annotated[float, Doc("Of every rollout.")] = 0.7
    judge: Annotated[str, Doc(f"{spellings()}.")] = "contrast"
    layer: Annotated[Literal["auto"] | int, Doc("auto, or a layer number.")] = "auto"  # auto: by steering effect
    positions: Annotated[Positions, Doc("Where steering acts in sweep and dose-response: all, prompt or response.")] = (
        "response"
    )
    gate: Annotated[
        bool, Doc("End where a judge that saw no instruction hardly finds the trait in answers told to show it.")
    ] = True
    random_directions: Annotated[int, Doc("Random directions that are steered by as the null.")] = 8
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        check_least(self, seed=0)
        check_words(self, positions=get_args(Positions))
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"`temperature` {self.temperature} is not usable.", "Choose 0 or more, such as 1.")

    @classmethod
    def suited(cls, model: "ChatModel", trait: "Trait", **given: Any) -> "ExtractionSettings":
        """Minutes on a CPU, for models small enough to run there; close to the paper's numbers on a GPU.

        Args:
            given: Fields that are chosen already.
        """
        settings = cls()
        if model.device.type != "cpu":
            settings = cls(pairs=4, rollouts=4, max_new_tokens=200, temperature=1.0, random_directions=20)
        settings = replace(
            settings,
            pairs=max(1, min(settings.pairs, len(trait.instructions) - 1)),
            questions=min(settings.questions, len(trait.extraction_questions)),
        )
        return replace(settings, **given)

    def check(self, model: "ChatModel", trait: "Trait") -> None:
        """Refuse what does not fit the model or the trait.

        Raises:
            UserError: Naming the field and what it may be.
        """
        for name, value, most in (
            # One pair is left for the evaluation, whose instruction the vector must not have seen.
            ("pairs", self.pairs, max(1, len(trait.instructions) - 1)),
            ("questions", self.questions, len(trait.extraction_questions)),
            ("rollouts", self.rollouts, 1000),
            ("random_directions", self.random_directions, 1000),
            ("max_new_tokens", self.max_new_tokens, model.context_length),
        ):
            if not 1 <= value <= most:
                raise UserError(
                    f"`{name}` {value} is out of range.", f"Choose 1 to {most} for the trait {trait.name!r}."
                )
        if self.layer != "auto" and not (isinstance(self.layer, int) and 1 <= self.layer <= model.n_layers):
            raise UserError(f"`layer` {self.layer} is out of range.", f"Choose auto, or 1 to {model.n_layers}.")
