"""Count, mean and variance of many columns from a stream: a million samples times 200 directions are never stored."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from personavec.stats.numbers import Floats


class Moments:
    """Running mean and variance of k columns, merged as in Chan, Golub and LeVeque (1979), so that they stay stable.

    The result does not depend on how the rows were cut into batches, but for rounding.

    Attributes:
        count: Rows seen.
        mean: (k,).
    """

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(columns)
        self._squares: Floats = np.zeros(columns)  # sum of squared deviations from the mean

    @classmethod
    def of(cls, rows: ArrayLike) -> "Moments":
        """Those of an array (n, k), or (n,) for one column."""
        array = np.asarray(rows, dtype=np.float64)
        table = array[:, None] if array.ndim == 1 else array
        moments = cls(table.shape[-1])
        moments.update(table)
        return moments

    @property
    def variance(self) -> Floats:
        """(k,) with n - 1 below.

        Raises:
            ValueError: Fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"no variance of {self.count} rows")
        spread: Floats = self._squares / (self.count - 1)
        return spread

    def update(self, batch: ArrayLike) -> None:
        """Add rows (b, k).

        Raises:
            ValueError: Another number of columns, or values that are not finite.
        """
        rows = np.asarray(batch, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"rows of shape {rows.shape} for {len(self.mean)} columns")
        if not np.isfinite(rows).all():
            raise ValueError("values that are not finite")
        if len(rows):
            mean = rows.mean(0)
            self._add(len(rows), mean, ((rows - mean) ** 2).sum(0))

    def _add(self, count: int, mean: Floats, squares: Floats) -> None:
        total = self.count + count
        apart = mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self._squares = self._squares + squares + apart**2 * (self.count * count / total)
        self.count = total

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """For a file: "count" (), "mean" (k,), "squares" (k,)."""
        return {"count": np.array(self.count), "mean": self.mean.copy(), "squares": self._squares.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> "Moments":
        """What `to_arrays` gave."""
        mean, squares = (np.array(arrays[name], dtype=np.float64) for name in ("mean", "squares"))
        count = int(np.asarray(arrays["count"]))
        if mean.ndim != 1 or squares.shape != mean.shape or count < 0:
            raise ValueError(f"moments of shapes {mean.shape} and {squares.shape} over {count} rows")
        moments = cls(len(mean))
        moments.count, moments.mean, moments._squares = count, mean, squares
        return moments
