"""Samples that stand out in a stream of scores, and where they stand."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from personavec.screening.result import Standing
from personavec.stats.numbers import Floats

TOP, NEAR, BOTTOM = 6, 3, 3  # samples per trait at the top, at the threshold, at the bottom
LISTED = 300  # rows of the table, those that are farthest from clean along any trait


class Extremes:
    """Rows of a stream that stand out: as many as are shown, whatever the number of rows that come.

    Args:
        choose: From values (n, ...), the indices of those that stand out among them, such as of `select` and
            `farthest`; it chooses the same where those that it does not choose are missing.

    Attributes:
        rows, values: Those that stand out so far, in the order of the stream.
    """

    def __init__(self, choose: Callable[[Floats], NDArray[np.intp]]) -> None:
        self._choose = choose
        self.rows: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self.values: Floats = np.zeros(0)

    def add(self, rows: NDArray[np.intp], values: Floats) -> None:
        """Look at more rows (n,) with values (n, ...)."""
        if len(self.rows):
            rows, values = np.concatenate([self.rows, rows]), np.concatenate([self.values, values])
        at = np.sort(self._choose(values))
        self.rows, self.values = rows[at], values[at]


def select(difference: Floats, threshold: float) -> list[tuple[int, Standing]]:
    """Rows to show and where they stand, each row once."""
    order = np.argsort(-difference, kind="stable")
    near = np.argsort(np.abs(difference - threshold), kind="stable") if np.isfinite(threshold) else order[:0]
    wanted: tuple[tuple[NDArray[np.intp], int, Standing], ...] = (
        (order, TOP, "top"), (order[::-1], BOTTOM, "bottom"), (near, NEAR, "threshold"),
    )  # fmt: skip
    places: dict[int, Standing] = {}
    for rows, count, place in wanted:
        free = [int(row) for row in rows[: count + len(places)] if int(row) not in places]
        places |= dict.fromkeys(free[:count], place)
    rank = {"top": 0, "threshold": 1, "bottom": 2}
    return sorted(places.items(), key=lambda item: (rank[item[1]], -difference[item[0]]))


def farthest(z: Floats) -> NDArray[np.intp]:
    """Rows of the table, from z-scores (n, traits): the farthest along any trait first."""
    rows: NDArray[np.intp] = np.argsort(-np.abs(z).max(1), kind="stable")[:LISTED]
    return rows
