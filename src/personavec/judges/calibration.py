"""From evidence to a score, so that 50 separates an answer that shows the trait from one that shows its opposite."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, Strict
from pydantic.dataclasses import dataclass

Number = Annotated[FiniteFloat, Strict()]


def _whole(value: object) -> object:
    """A count as a vector's file holds it, where all numbers are floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Calibration:
    """Maps evidence (nats per token) to 0..100 so that 50 separates the sides.

    Attributes:
        middle: Evidence that scores 50.
        slope: Logits per nat. The means of the two sides score 10 and 90 where they are well apart; where they overlap
            the slope is that of the posterior of two normal distributions, which keeps scores near 50.
        pairs: Of instructions, whose mean the evidence is.
    """

    middle: Number
    slope: Number
    pairs: Annotated[int, BeforeValidator(_whole), Strict(), Field(ge=1)] = 3  # files of before have judged by three

    @classmethod
    def fit(cls, positive: Sequence[float], negative: Sequence[float], *, pairs: int = 3) -> "Calibration":
        """From the evidence of both sides."""
        high, low = float(np.mean(positive)), float(np.mean(negative))
        variance = (float(np.var(positive)) + float(np.var(negative))) / 2
        gap = high - low
        if gap <= 0:
            return cls((high + low) / 2, 0.0, pairs)
        return cls((high + low) / 2, min(2 * math.log(9) / gap, gap / max(variance, 1e-9)), pairs)

    def score(self, evidence: float) -> float:
        """0..100."""
        return 100 / (1 + math.exp(-max(-60.0, min(60.0, self.slope * (evidence - self.middle)))))
