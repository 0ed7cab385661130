"""What decides the result of an evaluation."""

from dataclasses import dataclass

MAX_NEW_TOKENS = 48  # of an answer
TEMPERATURE = 0.7


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the result of an evaluation, besides the trait, the model and what is done to it.

    Attributes:
        judge: "contrast", "local:MODEL" or "api:MODEL".
        rollouts: Answers per question.
        max_new_tokens: Longest answer.
        temperature: Of every answer.
        lm_eval: Tasks of lm-evaluation-harness that are run too, see `Tasks`.
        seed: Of everything random.
    """

    judge: str = "contrast"
    rollouts: int = 1
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = TEMPERATURE
    lm_eval: tuple[str, ...] = ()
    seed: int = 0
