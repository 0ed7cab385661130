"""What decides the result of an evaluation."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc

from personavec.errors import UserError, check_least
from personavec.judges.kinds import spellings

MAX_NEW_TOKENS = 48  # of an answer
TEMPERATURE = 0.7


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the result of an evaluation, besides the trait, the model and what is done to it.

    Raises:
        UserError: Naming the field and what it may be.
    """

    judge: Annotated[str, Doc(f"{spellings()}.")] = "contrast"
    rollouts: Annotated[int, Doc("Answers per question.")] = 1
    max_new_tokens: Annotated[int, Doc("Longest answer.")] = MAX_NEW_TOKENS
    temperature: Annotated[float, Doc("Of every answer; 0 is greedy.")] = TEMPERATURE
    lm_eval: Annotated[tuple[str, ...], Doc("Tasks of lm-evaluation-harness that are run too, see `Tasks`.")] = ()
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        check_least(self, rollouts=1, max_new_tokens=1, seed=0)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"`temperature` {self.temperature} is not usable.", "Choose 0 or more, such as 1.")
