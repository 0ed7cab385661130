"""What decides the result of an extraction."""

import math
from dataclasses import dataclass, replace

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.model.edits import Positions
from personavec.traits import Trait


@dataclass(frozen=True)
class Settings:
    """What decides the result of an extraction, besides the trait and the model.

    Attributes:
        pairs: Instruction pairs used for the extraction rollouts (of the trait's five; the others judge and evaluate).
        questions: Extraction questions used.
        rollouts: Responses per question, pair and side.
        max_new_tokens: Longest response.
        temperature: Of every rollout. The paper's is 1; small models derail there.
        judge: "contrast", "local:MODEL" or "api:MODEL".
        layer: "auto" (by steering effect) or a number.
        positions: Where steering acts in the sweep and the dose-response.
        random_directions: How many are steered by beside the vector, as its null.
        seed: Of everything random.
    """

    pairs: int = 3
    questions: int = 20
    rollouts: int = 1
    max_new_tokens: int = 48
    temperature: float = 0.7
    judge: str = "contrast"
    layer: str | int = "auto"
    positions: Positions = "response"
    random_directions: int = 8
    seed: int = 0

    @classmethod
    def suited(cls, model: ChatModel, trait: Trait) -> "Settings":
        """Minutes on a CPU, for models small enough to run there; close to the paper's numbers on a GPU."""
        settings = cls()
        if model.device.type != "cpu":
            settings = cls(pairs=4, rollouts=4, max_new_tokens=200, temperature=1.0, random_directions=20)
        return replace(
            settings,
            pairs=max(1, min(settings.pairs, len(trait.instructions) - 1)),
            questions=min(settings.questions, len(trait.extraction_questions)),
        )

    def check(self, model: ChatModel, trait: Trait) -> None:
        """Refuse what does not fit the model or the trait.

        Raises:
            UserError: Naming the option and what it may be.
        """
        for name, value, most in (
            # One pair is left for the evaluation, whose instruction the vector must not have seen.
            ("--pairs", self.pairs, max(1, len(trait.instructions) - 1)),
            ("--questions", self.questions, len(trait.extraction_questions)),
            ("--rollouts", self.rollouts, 1000),
            ("--random-directions", self.random_directions, 1000),
            ("--max-new-tokens", self.max_new_tokens, model.context_length),
        ):
            if not 1 <= value <= most:
                raise UserError(f"{name} {value} is out of range.", f"Choose 1 to {most} for the trait {trait.name!r}.")
        if self.layer != "auto" and not (isinstance(self.layer, int) and 1 <= self.layer <= model.n_layers):
            raise UserError(f"Layer {self.layer} is out of range.", f"Choose auto, or 1 to {model.n_layers}.")
        if self.seed < 0:
            raise UserError(f"The seed {self.seed} is negative.", "Choose 0 or more.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"The temperature {self.temperature} is not usable.", "Choose 0 or more, such as 1.")
