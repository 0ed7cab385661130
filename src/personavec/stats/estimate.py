"""A figure with its uncertainty."""

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the number of independent units (questions, samples) behind it.

    Formatted with the specification of a number it gives the figure and the interval: `f"{e:+.2f}"` is
    "+0.31 [+0.12, +0.50]".
    """

    mean: float
    low: float
    high: float
    n: int

    def rounded(self) -> "Estimate":
        """To four digits after the point, as files hold it."""
        return Estimate(round(self.mean, 4), round(self.low, 4), round(self.high, 4), self.n)

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]" if form else str(self)

    def __str__(self) -> str:
        return f"{self:.1f} n={self.n}"
