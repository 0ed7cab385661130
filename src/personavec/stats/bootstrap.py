"""Figures with their uncertainty: bootstraps over questions, AUC, correlations. Every interval is 95 %.

Answers to one question resemble each other, so the bootstraps draw whole clusters (questions) with replacement. The
percentiles are widened for few clusters (Hesterberg 2015, "What teachers should know about the bootstrap", the
expanded percentile interval); plain ones would be too narrow: of 95 promised they keep 93 with 20 questions and 89
with 8.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats, finite

Codes = NDArray[np.intp]
DRAWS = 2000
KEPT = 256  # clusters; the draws of more are not kept in memory
FEW = 20  # units; of so many or more a few that differ are still enough
APART = 5  # of fewer units at least so many must differ from where half of them crowd


def bootstrap_mean(
    values: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Mean of values (n,) with an interval from resampling clusters (questions); None: each value by itself.

    Where few questions are behind it and most of these say the same (differences of which many are 0), a bootstrap sees
    next to nothing of the spread: of 95 intervals promised, 50 to 85 hold. Such a mean has no bounds, and neither has
    that of a single cluster.

    Raises:
        ValueError: No values, values that are not finite, or not one cluster for each value.
    """
    array = finite(values, 1)
    if clusters is None:
        codes, count = np.arange(len(array)), len(array)
    else:
        (codes,), count = _codes((array, clusters))
    low, high = -np.inf, np.inf
    if not _too_few(np.bincount(codes, array) / np.bincount(codes)):
        low, high = interval(_means(array, codes, draw_weights(count, seed, draws)), count, (low, high))
    return Estimate(float(array.mean()), low, high, count)


def _too_few(values: Floats) -> bool:
    """Whether half or more of a few values lie within a twentieth of their range of the median, and hardly others do
    not."""
    crowd = int((np.abs(values - np.median(values)) <= np.ptp(values) / 20).sum())
    return len(values) < FEW and 2 * crowd >= len(values) and len(values) - crowd < APART


def auc(positive: ArrayLike, negative: ArrayLike) -> Any:
    """Probability that a positive value is above a negative one, ties counting half.

    Args:
        positive: (n,) or (n, k).
        negative: (m,) or (m, k).

    Returns:
        A float, or (k,) for columns.

    Raises:
        ValueError: One side is empty.
    """
    a, b = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if not (len(a) and len(b)):
        raise ValueError("no values on one side")
    ranks = stats.rankdata(np.concatenate([a, b]), axis=0)
    value = (ranks[: len(a)].sum(0) - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return float(value) if np.ndim(value) == 0 else value


def bootstrap_auc(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_clusters: Sequence[Hashable],
    negative_clusters: Sequence[Hashable],
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """AUC with an interval from resampling questions; the answers to one question, of both sides, go together.

    With a single cluster the interval is all of 0..1.

    Raises:
        ValueError: As in `bootstrap_mean`.
    """
    a, b = finite(positive, 1), finite(negative, 1)
    (codes_a, codes_b), count = _codes((a, positive_clusters), (b, negative_clusters))
    wins = np.zeros((count, count))  # pairs won by the positives of one cluster (row) against the negatives of another
    for cluster in np.unique(codes_b):
        rivals = np.sort(b[codes_b == cluster])
        won = (np.searchsorted(rivals, a, "left") + np.searchsorted(rivals, a, "right")) / 2
        wins[:, cluster] = np.bincount(codes_a, won, count)
    weights = draw_weights(count, seed, draws)
    pairs = (weights @ np.bincount(codes_a, minlength=count)) * (weights @ np.bincount(codes_b, minlength=count))
    drawn = _ratio(((weights @ wins) * weights).sum(1), pairs)
    low, high = interval(drawn, count, (0.0, 1.0))
    return Estimate(float(wins.sum() / (len(a) * len(b))), low, high, count)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation of x and y (n,); 0 where one of the two is constant."""
    a, b = finite(x, 1), finite(y, 1)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    a, b = _centred(a), _centred(b)
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def bootstrap_pearson(
    x: ArrayLike, y: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Linear correlation of x and y (n,) with an interval from resampling clusters; None: each pair by itself.

    With a single cluster the interval is all of -1..1.

    Raises:
        ValueError: As in `bootstrap_mean`.
    """
    a, b = finite(x, 1), finite(y, 1)
    names: Sequence[Hashable] = range(len(a)) if clusters is None else clusters
    (codes, _), count = _codes((a, names), (b, names))
    times = draw_weights(count, seed, draws)[:, codes]  # (draws, n)
    total = times.sum(1)

    def moment(values: Floats) -> Floats:
        found: Floats = times @ values / total
        return found

    # Centred, so that the products keep their digits.
    a0, b0 = a - a.mean(), b - b.mean()
    mean_a, mean_b = moment(a0), moment(b0)
    variance = (moment(a0 * a0) - mean_a**2) * (moment(b0 * b0) - mean_b**2)
    drawn = _ratio(moment(a0 * b0) - mean_a * mean_b, np.sqrt(np.maximum(variance, 0)))
    low, high = interval(np.clip(drawn, -1, 1), count, (-1.0, 1.0))
    return Estimate(pearson(a, b), low, high, count)


def bootstrap_ratio(above: ArrayLike, below: ArrayLike, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Mean of `above` over mean of `below`, (n,) each, with an interval from resampling the pairs.

    Draws in which the mean below is not positive tell nothing and are left out.

    Raises:
        ValueError: As in `bootstrap_mean`, or a mean below that is not positive.
    """
    a, b = finite(above, 1), finite(below, 1)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    if b.mean() <= 0:
        raise ValueError("the mean below is not positive")
    weights = draw_weights(len(a), seed, draws)
    low, high = interval(_ratio(weights @ a, weights @ b), len(a), (-np.inf, np.inf))
    return Estimate(float(a.mean() / b.mean()), low, high, len(a))


def bootstrap_leads(
    data: ArrayLike,
    reference: ArrayLike,
    data_clusters: Sequence[Hashable],
    reference_clusters: Sequence[Hashable],
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Estimate]:
    """How much farther data lie from a reference along the first of K directions than along each of the others.

    The absolute differences of the means, in standard deviations of the reference along the same direction, minus one
    another. Both are taken in the same draws, which take samples with their values along all directions.

    Args:
        data, reference: (n, K) and (m, K).
        data_clusters, reference_clusters: What the samples of either side belong to; drawn on each side by itself.

    Returns:
        K - 1 estimates.

    Raises:
        ValueError: As in `bootstrap_mean`, or another K on one side.
    """
    a, b = finite(data, 2), finite(reference, 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} directions against {b.shape[1]}")
    b, a = b - b.mean(0), a - b.mean(0)  # so that squares keep their digits

    def drawn(values: Floats, clusters: Sequence[Hashable], seed: int) -> tuple[Floats, Floats, int]:
        """(1 + draws, K) of means and mean squares, the sample's own first."""
        (codes,), count = _codes((values, clusters))
        weights = np.vstack([np.ones(count), draw_weights(count, seed, draws)])
        sizes = (weights @ np.bincount(codes, minlength=count))[:, None]
        sums = np.zeros((2, count, values.shape[1]))
        for powers, powered in zip(sums, (values, values**2), strict=True):
            np.add.at(powers, codes, powered)
        return weights @ sums[0] / sizes, weights @ sums[1] / sizes, count

    ours, _, many = drawn(a, data_clusters, seed)
    theirs, squares, few = drawn(b, reference_clusters, seed + 1)
    spread = np.sqrt(np.maximum(squares - theirs**2, 0) * len(b) / max(len(b) - 1, 1))
    sizes = np.full_like(ours, np.nan)
    np.divide(np.abs(ours - theirs), spread, out=sizes, where=spread > 0)
    leads = sizes[:, :1] - sizes[:, 1:]
    count = min(many, few)
    return [Estimate(float(lead[0]), *interval(lead[1:], count, (-np.inf, np.inf)), count) for lead in leads.T]


def bootstrap_worst_leads(
    data: ArrayLike,
    references: Sequence[ArrayLike],
    clusters: Sequence[Hashable],
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Estimate]:
    """How much higher the AUC against the worst of references is along the first of K directions than along the others.

    The worst reference may be another along each direction and in each draw. All are taken in the same draws.

    Args:
        data: (references, n, K) scores of the data; the directions may differ from reference to reference.
        references: (m, K) scores of each.
        clusters: n, what the data's samples belong to. Of the references single samples are drawn.

    Returns:
        K - 1 estimates.

    Raises:
        ValueError: As in `bootstrap_mean`.
    """
    scores = finite(data, 3)
    (codes,), count = _codes((scores[0], clusters))
    weights = np.vstack([np.ones(count), draw_weights(count, seed, draws)])[:, codes]
    worst = np.ones((draws + 1, scores.shape[2]))
    for at, (mine, given) in enumerate(zip(scores, references, strict=True)):
        theirs = finite(given, 2)
        rivals = np.vstack([np.ones(len(theirs)), draw_weights(len(theirs), seed + 1 + at, draws)])
        pairs = weights.sum(1) * rivals.sum(1)
        for k, (a, b) in enumerate(zip(mine.T, theirs.T, strict=True)):
            wins = (np.sign(a[:, None] - b) + 1) / 2
            worst[:, k] = np.minimum(worst[:, k], ((weights @ wins) * rivals).sum(1) / pairs)
    leads = worst[:, :1] - worst[:, 1:]
    return [Estimate(float(lead[0]), *interval(lead[1:], count, (-1.0, 1.0)), count) for lead in leads.T]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of x and y (n,), ties at their mean rank; 0 where one of the two is constant."""
    return pearson(stats.rankdata(finite(x, 1)), stats.rankdata(finite(y, 1)))


def bootstrap_spearman_by_question(
    coefficients: ArrayLike, scores: ArrayLike, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Rank correlation between the coefficient and the mean score, resampling questions.

    Coefficients without any score are left out. With a single question the interval is all of -1..1.

    Args:
        coefficients: (k,).
        scores: (questions, k); NaN where there is none.

    Raises:
        ValueError: No scores at all.
    """
    table = np.asarray(scores, dtype=np.float64)
    x = finite(coefficients, 1)
    if table.ndim != 2 or table.shape[1] != len(x):
        raise ValueError(f"scores of shape {table.shape} for {len(x)} coefficients")
    table = table[np.isfinite(table).any(1)]
    scored = np.isfinite(table).any(0)
    x, table = finite(x[scored], 1), table[:, scored]
    known = np.isfinite(table)
    weights = np.vstack([np.ones(len(table)), draw_weights(len(table), seed, draws)])
    # Rounded, because sums in another order must not break ties between equal means.
    means = np.round(_ratio(weights @ np.where(known, table, 0.0), weights @ known), 9)
    whole = means[1:][np.isfinite(means[1:]).all(1)]
    a, b = _centred(stats.rankdata(x)), stats.rankdata(whole, axis=1) - (len(x) + 1) / 2
    scale = np.sqrt((a @ a) * (b * b).sum(1))
    drawn = np.where(scale > 0, b @ a / np.where(scale > 0, scale, 1), 0.0)  # ranks are exact, so constant rows are 0
    low, high = interval(drawn, len(table), (-1.0, 1.0))
    return Estimate(spearman(x, means[0]), low, high, len(table))


def _centred(values: Floats) -> Floats:
    """Minus the mean, over the largest deviation, so that squares neither overflow nor vanish."""
    halves = values / 2  # because the difference of the largest floats overflows
    deviations: Floats = halves - halves.mean()
    scaled: Floats = deviations / np.abs(deviations).max()
    return scaled


def _codes(*sides: tuple[Floats, Sequence[Hashable]]) -> tuple[list[Codes], int]:
    """Clusters numbered across the sides in the order they appear, and how many there are."""
    numbers: dict[Hashable, int] = {}
    codes = []
    for values, clusters in sides:
        if len(values) != len(clusters):
            raise ValueError(f"{len(values)} values in {len(clusters)} clusters")
        codes.append(np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.intp))
    return codes, len(numbers)


def draw_weights(count: int, seed: int, draws: int) -> Floats:
    """(draws, count) how often each cluster was drawn; not to be written to."""
    return (_kept_weights if count <= KEPT else _weights)(count, seed, draws)


def _weights(count: int, seed: int, draws: int) -> Floats:
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


# Most figures of a run are over the same few questions, and to draw these takes longer than all else.
_kept_weights = lru_cache(maxsize=16)(_weights)


def _means(values: Floats, codes: Codes, weights: Floats) -> Floats:
    """(draws,) mean of the values under each draw; NaN where none of them was drawn."""
    count = weights.shape[1]
    return _ratio(weights @ np.bincount(codes, values, count), weights @ np.bincount(codes, minlength=count))


def _ratio(a: Floats, b: Floats) -> Floats:
    quotient: Floats = np.full_like(a, np.nan)
    np.divide(a, b, out=quotient, where=b > 0)
    return quotient


def interval(drawn: Floats, clusters: int, widest: tuple[float, float]) -> tuple[float, float]:
    """The interval from the figure under each draw; `widest` where the draws tell nothing."""
    drawn = drawn[np.isfinite(drawn)]
    if clusters < 2 or not len(drawn):
        return float(widest[0]), float(widest[1])
    student = special.stdtrit(clusters - 1, 0.025)
    tail = 100 * special.ndtr(np.sqrt(clusters / (clusters - 1)) * student)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
