"""The baseline from what costs nothing: a regression of the model's own answers on the prompts, fitted on a subset.

Ridge regression with a free intercept, one penalty per trait, chosen by its leave-one-out error from a short list that
ends with "the mean alone". So features that tell nothing cost next to nothing. With a small subset, penalties that
leave more than a third as many effective coefficients as there are rows are not considered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from personavec.stats.moments import Moments
from personavec.stats.numbers import Floats, finite

PENALTIES = (1e-6, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, np.inf)  # in units of n, features having variance 1
LEAST = 8  # rows in the subset below which the mean alone is used
LEVERAGE = 0.9  # a row that decides its own prediction further than this tells nothing about others


@dataclass(frozen=True)
class Fit:
    """Regressions of T baselines on k features, fitted on n rows: what it takes to predict any other row.

    Attributes:
        centre, scale: (k,) of the features; what does not vary has scale infinity, so that it drops out.
        offset: (T,) mean baseline of the subset.
        slopes: (k, T) for scaled features.
        axes: (r, k) principal axes of the scaled features in the subset.
        weights: (r, T) inverse of the penalised cross product along them.
        deviation: (T,) of the baseline around the regression.
        left_out: (n, T) prediction of each row of the subset by the fit to all others.
        leverage: (n, T).
        effective: (T,) effective number of coefficients, the intercept included.
        r_squared: (T,) share of the squared error that the features save, leaving each row out in turn; 0..1.
        n: Rows in the subset.
    """

    centre: Floats
    scale: Floats
    offset: Floats
    slopes: Floats
    axes: Floats
    weights: Floats
    deviation: Floats
    left_out: Floats
    leverage: Floats
    effective: Floats
    r_squared: Floats
    n: int

    def predict(self, features: ArrayLike) -> tuple[Floats, Floats]:
        """Predictions (m, T) for features (m, k), and the standard error each has as a guess of its row's baseline."""
        x = (finite(features, 2) - self.centre) / self.scale
        return self.offset + x @ self.slopes, self.deviation * np.sqrt(1 + self.leverage_of(features))

    def leverage_of(self, features: ArrayLike) -> Floats:
        """How far other rows (m, k) lie from those of the fit, for each baseline (m, T): the squared standard error of
        the regression there, in units of the deviation's square. Rows of the fit have the mean `effective` / n."""
        x = (finite(features, 2) - self.centre) / self.scale
        leverage: Floats = 1 / self.n + (x @ self.axes.T) ** 2 @ self.weights
        return leverage

    @property
    def left_out_errors(self) -> Floats:
        """(n, T) standard errors of `left_out`."""
        errors: Floats = self.deviation / np.sqrt(1 - self.leverage)
        return errors


@dataclass(frozen=True)
class Baseline:
    """The baseline of every sample, with its error.

    Attributes:
        predictions: (N,) or (N, T). Rows of the subset are predicted by the fit to all other rows of the subset (exact,
            from the hat matrix), so that they are as good and as bad as the rows whose baseline is not known.
        errors: Standard error of each prediction as a guess of the row's own baseline.
        r_squared: () or (T,), leaving each row out in turn.
        fit: For rows that come later.
    """

    predictions: Floats
    errors: Floats
    r_squared: Floats
    fit: Fit


def calibrate(features: ArrayLike, known: ArrayLike, baseline: ArrayLike) -> Baseline:
    """Predict the baseline of N samples from features of all and the baseline of some.

    Args:
        features: (N, k).
        known: (n,) indices of the samples with a baseline, none twice; drawn at random.
        baseline: (n,) or (n, T), in the order of `known`.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, indices out of range or given twice, n < 2.
    """
    table, values = finite(features, 2), finite(baseline)
    rows = indices(known, len(table))
    columns = values[:, None] if values.ndim == 1 else values
    fit = fit_subset(Moments.of(table), table[rows], columns)
    predictions, errors = fit.predict(table)
    predictions[rows], errors[rows] = fit.left_out, fit.left_out_errors
    if values.ndim == 1:
        return Baseline(predictions[:, 0], errors[:, 0], fit.r_squared[0], fit)
    return Baseline(predictions, errors, fit.r_squared, fit)


def fit_subset(
    population: Moments, features: ArrayLike, baseline: ArrayLike, penalties: Sequence[float] | None = None
) -> Fit:
    """The regressions from the subset's rows alone, for data that are streamed.

    Args:
        population: Of the features of all samples; only the scales are taken from it, never from the subset, so that
            leaving a row out leaves them as they are.
        features: (n, k) of the subset.
        baseline: (n, T) of the subset.
        penalties: Among which one is chosen, the last infinite; None: `PENALTIES`. Features that outnumber the rows
            by far need large ones.

    Raises:
        ValueError: As in `calibrate`.
    """
    x, b = finite(features, 2), finite(baseline, 2)
    n, k = x.shape
    if len(b) != n or k != len(population.mean):
        raise ValueError(f"features {x.shape} for baselines {b.shape} and a population of {len(population.mean)}")
    if n < 2:
        raise ValueError(f"a subset of {n} says nothing about the spread")
    scale = np.sqrt(population.variance)
    scale[scale <= 1e-9 * np.abs(population.mean)] = np.inf
    scale[scale == 0] = np.inf
    centre, offset = x.mean(0), b.mean(0)
    u, s, v = np.linalg.svd((x - centre) / scale, full_matrices=False)
    along, rest = u.T @ (b - offset), b - offset
    tried = np.array(penalties or PENALTIES)
    shrink = s**2 / (s**2 + n * tried[:, None])  # (penalties, r)
    leverage = 1 / n + shrink @ (u**2).T  # (penalties, n)
    fits = (n >= LEAST) & (1 + shrink.sum(1) <= n / 3) & (leverage.max(1) <= LEVERAGE) | np.isinf(tried)
    tried, shrink, leverage = tried[fits], shrink[fits], leverage[fits]
    errors = (((rest - u @ (shrink[:, :, None] * along)) / (1 - leverage)[:, :, None]) ** 2).sum(1)  # (penalties, T)
    best, chosen = errors.min(0), tried[errors.argmin(0)]
    alone = errors[-1]  # the last penalty leaves the mean alone
    weights = 1 / (s[:, None] ** 2 + n * chosen)  # (r, T)
    shrunk = s[:, None] ** 2 * weights
    leverage = 1 / n + u**2 @ shrunk
    left = (rest - u @ (shrunk * along)) / (1 - leverage)
    effective = 1 + shrunk.sum(0)
    variance = (left**2 * (1 - leverage)).mean(0) * cost_of_choice(n, effective)
    return Fit(
        centre=centre,
        scale=scale,
        offset=offset,
        slopes=v.T @ (s[:, None] * weights * along),
        axes=v,
        weights=weights,
        deviation=np.sqrt(variance),
        left_out=b - left,
        leverage=leverage,
        effective=effective,
        r_squared=np.where(alone > 0, 1 - best / np.where(alone > 0, alone, 1), 0.0),
        n=n,
    )


def cost_of_choice(n: int, effective: Floats) -> Floats:
    """What an error variance is multiplied by because the penalty was chosen: one more degree of freedom is spent."""
    free = np.maximum(n - effective, 2)
    factor: Floats = np.where(effective > 1, free / (free - 1), 1.0)
    return factor


def indices(known: ArrayLike, total: int) -> NDArray[np.intp]:
    """Row numbers (n,) checked: whole numbers in range, none twice."""
    rows = np.asarray(known)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"indices of shape {rows.shape} and type {rows.dtype}")
    if len(rows) and (rows.min() < 0 or rows.max() >= total or len(np.unique(rows)) < len(rows)):
        raise ValueError(f"indices out of range for {total} samples, or given twice")
    return rows.astype(np.intp)
