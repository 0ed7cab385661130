"""Directions that mean one trait and less else: what is shared with other traits, length and refusal taken out.

All in float64 inside and float32 outside. A made direction is of length 1; how much of the original it keeps is its
cosine with it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from personavec.errors import UserError

LEAST_KEPT = 0.01  # of the length; below it what is left of a float32 direction is rounding and chance
_RANK = 1e-5  # of the largest singular value, below which others count as dependent


class Specific(NamedTuple):
    """A unit direction (d,) float32, and its cosine with the direction it was made from, 0..1."""

    direction: Tensor
    kept: float


Treatment = Callable[[Tensor, str], Specific]  # of a direction (d,) that is put in the place of the named trait's


def remove_span(direction: Tensor, others: Tensor) -> Specific:
    """The part of a direction (d,) that is orthogonal to all of others (m, d).

    Others of length 0 and such that depend on the rest add nothing.

    Raises:
        UserError: Next to nothing remains.
        ValueError: Shapes that do not fit, or values that are not finite or all 0.
    """
    return _Span(others).removed(direction)


class _Span:
    """What directions (m, d) span."""

    def __init__(self, others: Tensor) -> None:
        rows = _matrix(others)
        lengths = rows.norm(dim=1)
        rows = rows[lengths > 0] / lengths[lengths > 0, None]
        self._basis, self._count = rows, len(rows)
        if len(rows):
            _, values, axes = torch.linalg.svd(rows, full_matrices=False)
            self._basis = axes[values > _RANK * values[0]]

    def removed(self, direction: Tensor) -> Specific:
        """See `remove_span`."""
        rest = _unit(direction)
        if len(rest) != self._basis.shape[1]:
            raise ValueError(f"a direction of {len(rest)} numbers for others of {self._basis.shape[1]}")
        for _ in range(2):  # twice, against rounding
            rest = rest - self._basis.T @ (self._basis @ rest)
        kept = float(rest.norm())
        if kept < LEAST_KEPT:
            shared = math.floor(1e4 * (1 - kept**2)) / 100
            raise UserError(
                f"{shared:.2f} % of the direction lies in the span of the {self._count} others.",
                "Nothing of its own remains; leave out the most similar of them.",
            )
        return Specific((rest / kept).float(), kept)


class Apart:
    """Takes out of directions (d,) what they share with other traits, and what is common to all.

    Args:
        traits: Direction of each trait, by name.
        common: Further directions to be taken out.
    """

    def __init__(self, traits: Mapping[str, Tensor], common: Sequence[Tensor]) -> None:
        self._traits, self._common = traits, common
        self._spans: dict[str, _Span] = {}  # of the others, by trait: many directions are put in the place of one

    def __call__(self, direction: Tensor, trait: str) -> Specific:
        """What is left of a direction in the place of a trait's own, which stays in it; see `remove_span`."""
        if trait not in self._spans:
            others = [one for name, one in self._traits.items() if name != trait]
            self._spans[trait] = _Span(torch.stack([*others, *self._common]))
        return self._spans[trait].removed(direction)


class Whitening:
    """Makes directions (d,) times the inverse covariance of clean readings (n, d), as in linear discriminant analysis.

    Along such a direction these very readings vary less than others of their kind, so they must set no threshold for
    it. Directions in which readings vary much anyway count less. The covariance is shrunk towards a multiple of the
    identity by as much as n readings call for (Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices", lemma 3.3), and inverted along its own axes: no d x d numbers for n < d.

    Raises:
        UserError: Fewer than two readings, or readings that are all the same.
        ValueError: Shapes that do not fit, or values that are not finite or all 0.
    """

    def __init__(self, readings: Tensor) -> None:
        rows = _matrix(readings)
        if len(rows) < 2:
            raise UserError("Whitening takes at least two clean readings.", "Give a larger reference set.")
        centred = rows - rows.mean(0)
        _, values, self._axes = torch.linalg.svd(centred / len(rows) ** 0.5, full_matrices=False)
        variances = values**2
        level = float(variances.sum()) / rows.shape[1]  # mean variance of a coordinate
        if level <= 1e-18 * float((rows**2).mean()):
            raise UserError("The clean readings are all the same.", "Give a reference set of different samples.")
        share = _shrinkage(centred, variances, level)
        self._floor = share * level
        self._shrunk = (1 - share) * variances + self._floor

    def __call__(self, direction: Tensor, trait: str | None = None) -> Specific:
        """What it makes of one direction, whichever trait's place it is in."""
        unit = _unit(direction)
        if len(unit) != self._axes.shape[1]:
            raise ValueError(f"a direction of {len(unit)} numbers for readings of {self._axes.shape[1]}")
        along = self._axes @ unit
        # Outside the readings' own axes the shrunk covariance is the floor alone.
        white = self._axes.T @ (along / self._shrunk) + (unit - self._axes.T @ along) / self._floor
        white = white / white.norm()
        return Specific(white.float(), float(white @ unit))


def _shrinkage(centred: Tensor, variances: Tensor, level: float) -> float:
    """Ledoit and Wolf's share of the identity: error of the sample covariance over its distance from the identity."""
    n, d = centred.shape
    squares = float((variances**2).sum())
    distance = squares / d - level**2
    error = (float(((centred**2).sum(1) ** 2).sum()) / n - squares) / n / d
    share = min(error, distance) / distance if distance > 0 else 1.0
    return min(max(share, 1e-6), 1.0)  # never 0: an inverse is needed in every direction


def length_direction(readings: Tensor, log_lengths: Tensor) -> Tensor:
    """Unit direction (d,) in which readings (n, d) change with the log of the answer's length (n,), by least squares.

    Raises:
        UserError: Answers all of one length, or readings that do not change with it.
        ValueError: Shapes that do not fit, or values that are not finite.
    """
    rows = _matrix(readings)
    lengths = log_lengths.double()
    if lengths.shape != rows.shape[:1] or not bool(torch.isfinite(lengths).all()):
        raise ValueError(f"lengths of shape {tuple(lengths.shape)} for {len(rows)} readings, or not finite")
    centred = lengths - lengths.mean()
    if len(rows) < 3 or float(centred.norm()) <= 1e-9 * float(lengths.norm()):
        raise UserError(
            "The reference answers are all of one length, or fewer than three.",
            "Give a reference set of answers of different lengths.",
        )
    return _made(centred @ (rows - rows.mean(0)), rows, "length")


def refusal_direction(refusing: Tensor, answering: Tensor) -> Tensor:
    """Unit direction (d,) from the mean reading of answers (m, d) to that of refusals (n, d).

    Raises:
        UserError: No reading on a side, or no difference.
        ValueError: Shapes that do not fit, or values that are not finite.
    """
    answers = _matrix(answering)
    refusals = _matrix(refusing, answers.shape[1])
    if not (len(refusals) and len(answers)):
        raise UserError(
            f"There are {len(refusals)} refusals and {len(answers)} answers to tell apart.",
            "Give a reference set with some of both.",
        )
    return _made(refusals.mean(0) - answers.mean(0), torch.cat([refusals, answers]), "refusing")


def _made(direction: Tensor, rows: Tensor, what: str) -> Tensor:
    size = float(direction.norm())
    if size <= 1e-9 * float(rows.norm()):
        raise UserError(f"The readings do not change with {what}.", "Leave it out.")
    return (direction / size).float()


def _unit(direction: Tensor) -> Tensor:
    values = direction.double()
    size = float(values.norm())
    if values.ndim != 1 or not (0 < size < float("inf")):
        raise ValueError(f"a direction of shape {tuple(values.shape)} and length {size}")
    return values / size


def _matrix(rows: Tensor, width: int | None = None) -> Tensor:
    if rows.ndim != 2 or (width is not None and rows.shape[1] != width) or not bool(torch.isfinite(rows).all()):
        raise ValueError(f"rows of shape {tuple(rows.shape)}, or not finite")
    return rows.double()
