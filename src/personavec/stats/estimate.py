"""A figure with its uncertainty."""

import math
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic.dataclasses import dataclass

TOO_FEW = "n is too small for an interval"
# An end of an interval: null in files where it is infinite.
_AS_NULL = PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json")
_SCHEMA = WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})
Low = Annotated[float, BeforeValidator(lambda value: -math.inf if value is None else value), _AS_NULL, _SCHEMA]
High = Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value), _AS_NULL, _SCHEMA]


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the number of independent units (questions, samples) behind it.

    Where n is too small to tell, the interval is all numbers: nothing is above or below it, and files hold null.

    Formatted with the specification of a number it gives the figure and the interval: `f"{e:+.2f}"` is
    "+0.31 [+0.12, +0.50]".
    """

    mean: float
    low: Low
    high: High
    n: int

    @property
    def bounded(self) -> bool:
        """Whether n was large enough for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def rounded(self) -> "Estimate":
        """To four digits after the point, as files hold it."""
        return Estimate(round(self.mean, 4), round(self.low, 4), round(self.high, 4), self.n)

    def __format__(self, form: str) -> str:
        if not form:
            return str(self)
        return f"{self.mean:{form}} [{f'{self.low:{form}}, {self.high:{form}}' if self.bounded else TOO_FEW}]"

    def __str__(self) -> str:
        return f"{self:.1f} n={self.n}"
