"""Figures with their uncertainty: bootstraps over questions, AUC, correlations. Every interval is 95 %."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the number of independent units (questions) behind it."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """As a JSON value, rounded to four digits after the point."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}] n={self.n}"


def _resampled(clusters: Sequence[Any] | None, n: int, seed: int, draws: int) -> tuple[NDArray[np.intp], Floats]:
    """(cluster of each value, (draws, clusters) how often each cluster was drawn)."""
    labels = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(labels.max()) + 1
    rng = np.random.default_rng(seed)
    return labels, rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, clusters: Sequence[Any] | None = None, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Mean of values with a percentile interval from resampling clusters (questions) with replacement.

    With a single cluster nothing is known of the spread between questions: the interval is the range of the values.

    Raises:
        ValueError: No values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values")
    labels, weights = _resampled(clusters, len(array), seed, draws)
    if weights.shape[1] == 1:
        return Estimate(float(array.mean()), float(array.min()), float(array.max()), 1)
    sums = np.bincount(labels, array)
    counts = np.bincount(labels).astype(np.float64)
    low, high = _interval((weights @ sums) / (weights @ counts))
    return Estimate(float(array.mean()), low, high, weights.shape[1])


def auc(positive: ArrayLike, negative: ArrayLike) -> Any:
    """Probability that a positive value is above a negative one, ties counting half.

    Args:
        positive: (n,) or (n, k).
        negative: (m,) or (m, k).

    Returns:
        A float, or (k,) for columns.
    """
    a, b = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    ranks = stats.rankdata(np.concatenate([a, b]), axis=0)
    value = (ranks[: len(a)].sum(0) - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return float(value) if np.ndim(value) == 0 else value


def bootstrap_auc(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_clusters: Sequence[Any] | None = None,
    negative_clusters: Sequence[Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """AUC with an interval from resampling questions; the answers to one question, of both sides, go together."""
    a, b = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    first = list(range(len(a))) if positive_clusters is None else list(positive_clusters)
    second = list(range(len(b))) if negative_clusters is None else list(negative_clusters)
    names = sorted(set(first) | set(second), key=str)
    labels = {name: i for i, name in enumerate(names)}
    wins = (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    wa = weights[:, [labels[c] for c in first]].astype(np.float64)
    wb = weights[:, [labels[c] for c in second]].astype(np.float64)
    total = wa.sum(1) * wb.sum(1)
    drawn = np.einsum("di,ij,dj->d", wa, wins, wb, optimize=True)[total > 0] / total[total > 0]
    low, high = _interval(drawn)
    return Estimate(float(wins.mean()), low, high, len(names))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    return pearson(a, b)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation; 0 where one of the two is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def bootstrap_spearman_by_question(coefficients: ArrayLike, scores: ArrayLike, seed: int = 0) -> Estimate:
    """Rank correlation between the coefficient and the mean score, resampling questions.

    Args:
        scores: (questions, coefficients); NaN where there is none.
    """
    x, table = np.asarray(coefficients, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=DRAWS).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = (weights @ filled) / (weights @ known)
    drawn = np.array([spearman(x, row) for row in means if np.isfinite(row).all()])
    low, high = _interval(drawn)
    return Estimate(spearman(x, np.nanmean(table, axis=0)), low, high, len(table))


def null_summary(values: ArrayLike) -> dict[str, float | int]:
    """Mean, 95th percentile, maximum and number of values of a null."""
    array = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(array.mean()), 4),
        "p95": round(float(np.percentile(array, 95)), 4),
        "max": round(float(array.max()), 4),
        "n": len(array),
    }
