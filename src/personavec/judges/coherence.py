"""Coherence without a second model: is a response as fluent and as free of repetition as the natural answers are?"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from personavec.errors import UserError
from personavec.judges.calibration import Number
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.rollouts import Rollout

STRETCH = 16  # tokens: a few wrong words are lost in the mean over an answer, and stand out among so many
REPEAT_LENGTH = 2  # tokens in a row that count as a repetition when they come again
LACK = 3.0  # deviations beyond the first, at which the score is 37
REPEATS = 0.25  # share of repeated pairs beyond what is let pass, at which it is
LET_PASS = 0.1  # of the same


def repetition(ids: Sequence[int]) -> float:
    """Share of a response's pairs of tokens that occurred before in it: 0 for prose, near 1 for a loop."""
    pairs = [tuple(ids[i : i + REPEAT_LENGTH]) for i in range(len(ids) - REPEAT_LENGTH + 1)]
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def stretches(length: int) -> list[tuple[int, int]]:
    """A response of so many tokens in stretches of about 16: half-open ranges, as equal as they can be."""
    count = max(1, round(length / STRETCH))
    edges = [round(length * place / count) for place in range(count + 1)]
    return list(pairwise(edges))


def worst_stretches(
    model: ChatModel, rollouts: Sequence[Rollout], advance: Callable[[int], None] | None = None
) -> list[float]:
    """Mean log-probability per token (nats) of each response's least likely stretch, after its own prompt.

    Thoughts are not read. NaN for an empty response.

    Args:
        model: Without steering.
    """
    conversations, owners = [], []
    for place, rollout in enumerate(rollouts):
        response = rollout.response_ids[model.template.response_start(rollout.response_ids) :]
        if response:
            prompt = [*rollout.prompt_ids, *model.template.lead]
            spans = [(len(prompt) + low, len(prompt) + high) for low, high in stretches(len(response))]
            conversations.append(Conversation([*prompt, *response], spans))
            owners += [place] * len(spans)
    found = read(model, conversations, layers=[], log_likelihood=True, advance=advance).log_likelihood
    assert found is not None
    worst = [math.inf] * len(rollouts)
    for place, value in zip(owners, found.tolist(), strict=True):
        worst[place] = min(worst[place], value)
    return [value if math.isfinite(value) else math.nan for value in worst]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Coherence:
    """What is natural for one model, and from it a score 0..100 for any response.

    Likelihood alone would praise loops (they are easy to predict), repetition alone would praise word salad; the score
    is the product of both. Likelihood is that under the unsteered model, and may be high for reasons of style, so only
    a lack of it counts. Texts by others, however well written, are unlike what the model writes and score low: the
    measure is for answers of the model.

    Attributes:
        worst_mean, worst_deviation: Of the natural answers' `worst_stretches` (nats per token).
        repetition_mean: Of the natural answers' repetition, 0..1.
    """

    worst_mean: Number
    worst_deviation: Annotated[Number, Field(gt=0)]
    repetition_mean: Number

    @classmethod
    def of_natural(cls, worst: Sequence[float], natural: Sequence[Rollout]) -> "Coherence":
        """Calibrate on natural (unsteered, uninstructed) answers, with their `worst_stretches`.

        Raises:
            UserError: None of them could be read.
        """
        known = [(value, r.response_ids) for value, r in zip(worst, natural, strict=True) if math.isfinite(value)]
        if not known:
            raise UserError("The model gave no natural answer that could be judged.", "Raise `max_new_tokens`.")
        values = [value for value, _ in known]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        repeated = float(np.mean([repetition(ids) for _, ids in known]))
        return cls(float(np.mean(values)), max(deviation, 0.1), repeated)

    def score(self, worst: float, ids: Sequence[int]) -> float:
        """0..100: `100 exp(-(lack / 3)^2 - (repeats / 0.25)^2)`, 0 for an empty response.

        `lack` is how many deviations, beyond the first, the worst stretch is below the natural mean; `repeats` how far
        the share of repeated pairs is above the natural one and a tenth.
        """
        if not ids or not math.isfinite(worst):
            return 0.0
        lack = max(0.0, (self.worst_mean - worst) / self.worst_deviation - 1)
        repeats = max(0.0, repetition(ids) - self.repetition_mean - LET_PASS)
        return 100 * math.exp(-((lack / LACK) ** 2) - (repeats / REPEATS) ** 2)
