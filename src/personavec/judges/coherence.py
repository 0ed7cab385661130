"""Coherence without a second model: is a response as fluent and as free of repetition as the natural answers are?"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from personavec.judges.calibration import Number

REPEAT_LENGTH = 3  # tokens in a row that count as a repetition when they come again


def repetition(ids: Sequence[int]) -> float:
    """Share of a response's token triples that occurred before in it: 0 for prose, near 1 for a loop."""
    triples = [tuple(ids[i : i + REPEAT_LENGTH]) for i in range(len(ids) - REPEAT_LENGTH + 1)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Coherence:
    """What is natural for one model, and from it a score 0..100 for any response.

    Likelihood alone would praise loops (they are easy to predict), repetition alone would praise word salad; the score
    is the product of both. Likelihood is that under the unsteered model, and may be high for reasons of style, so only
    a lack of it counts.

    Attributes:
        likelihood_mean, likelihood_deviation: Of the natural answers' mean log-probability per token (nats).
        repetition_mean: Of the natural answers' repetition, 0..1.
    """

    likelihood_mean: Number
    likelihood_deviation: Annotated[Number, Field(gt=0)]
    repetition_mean: Number

    @classmethod
    def of_natural(cls, likelihoods: Sequence[float], responses: Sequence[Sequence[int]]) -> "Coherence":
        """Calibrate on natural (unsteered, uninstructed) answers."""
        deviation = float(np.std(likelihoods, ddof=1)) if len(likelihoods) > 1 else 0.0
        return cls(float(np.mean(likelihoods)), max(deviation, 0.1), float(np.mean([repetition(r) for r in responses])))

    def score(self, likelihood: float, ids: Sequence[int]) -> float:
        """0..100: near 100 within one deviation of natural, about 78 at three, 37 at five; times what is not repeated.

        An empty response scores 0.
        """
        if not ids or not math.isfinite(likelihood):
            return 0.0
        lack = max(0.0, (self.likelihood_mean - likelihood) / self.likelihood_deviation - 1)
        loops = min(1.0, max(0.0, (repetition(ids) - self.repetition_mean) / 0.5))
        return 100 * math.exp(-((lack / 4) ** 2)) * (1 - loops)
