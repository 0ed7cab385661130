"""How far a data set differs from the model's own answers when only some of those were generated.

Of each of N samples the projection of its answer is known, and so are features of its prompt. The projection of the
model's own answer, the baseline, is known for a random subset only. Regression predicts the others; the subset tells
how far the predictions are off on average, and that is taken out. In survey sampling this is the generalised regression
estimator (Sarndal, Swensson, Wretman 1992, "Model assisted survey sampling", chapter 6), elsewhere prediction-powered
inference (Angelopoulos et al., arXiv 2301.09633). The form used here leaves each row of the subset out in turn and is
unbiased whatever the regression is worth (Mickey 1959, "Some finite population unbiased ratio and regression
estimators"), exactly for a given penalty; that the subset also chooses the penalty has no bias that simulations show.
An interval has two parts: what was not generated, and that the N samples are themselves a sample. Samples of one prompt
resemble each other: of these it is the prompts that were drawn, and the second part counts prompts.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from personavec.stats.estimate import Estimate
from personavec.stats.moments import Moments
from personavec.stats.numbers import Floats, finite
from personavec.stats.ridge import LEAST, Fit, cost_of_choice, fit_subset, indices

FIRST = 64  # generations before the first look: with very skewed errors intervals from fewer hold in 90 % only
DOUBT = 8  # pairs of equal samples, beside those found, in the variance of samples that share prompts
Reason = Literal["exact", "precise", "clear"]


@dataclass(frozen=True)
class Spread:
    """A standard error with what its interval depends on: degrees of freedom, and skewness of n independent terms."""

    error: float
    freedom: float
    skewness: float
    n: int

    def half(self, looks: int = 1) -> float:
        """Half width of the interval that holds in 95 % of cases, or in as many for all of several looks together.

        The t quantile is widened for skew terms by the second-order term of the two-sided Edgeworth expansion
        (Hall 1992, "The bootstrap and Edgeworth expansion", section 3.5).
        """
        if self.error == 0 or math.isinf(self.error):
            return self.error
        tail = 0.025 / looks
        z = -special.ndtri(tail)
        wider = 1 + self.skewness**2 * (z**4 + 2 * z**2 - 3) / 18 / self.n
        return float(-special.stdtrit(self.freedom, tail) * wider * self.error)


@dataclass(frozen=True)
class Prompts:
    """Which samples share a prompt.

    Attributes:
        known: (n,) the prompt of each sample of the subset, as numbers from 0 on.
        count: How many prompts all N samples have.
        squares: Sum over prompts of their samples' number squared.
    """

    known: NDArray[np.intp]
    count: int
    squares: float

    @classmethod
    def of(cls, everyone: Sequence[Hashable] | NDArray[np.generic], known: ArrayLike) -> "Prompts":
        """From names (N,) of the prompts of all samples, and the indices of the subset."""
        _, codes, sizes = np.unique(np.asarray(everyone), return_inverse=True, return_counts=True)
        return cls(codes[np.asarray(known, dtype=np.intp)], len(sizes), float((sizes.astype(np.float64) ** 2).sum()))


@dataclass(frozen=True)
class Difference:
    """The paper's projection difference of a data set, mean(answer - baseline), with its two errors.

    Attributes:
        mean: Estimate over all n samples.
        n: Samples.
        generated: How many of them have a generated baseline.
        subset: Error from the baselines that were not generated; 0 where all were.
        sampling: Error from the samples being a sample of where they come from.
        r_squared: Share of the baseline's variance that is predicted (leaving each row out), 0..1.
    """

    mean: float
    n: int
    generated: int
    subset: Spread
    sampling: Spread
    r_squared: float = 0.0

    @property
    def generation(self) -> float:
        """Half width of the 95 % interval of this data set's own figure."""
        return self.subset.half()

    def interval(self, looks: int = 1) -> tuple[float, float]:
        """The 95 % interval from both errors; with several looks, all of them hold together in 95 % of cases."""
        half = math.hypot(self.subset.half(looks), self.sampling.half(looks))
        return self.mean - half, self.mean + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    def estimate(self, looks: int = 1) -> Estimate:
        """Mean, interval and number of samples."""
        return Estimate(self.mean, *self.interval(looks), self.n)


def hybrid_difference(
    answers: ArrayLike,
    features: ArrayLike,
    known: ArrayLike,
    baseline: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
) -> Difference:
    """The difference from answers (N,), features (N, k), and the baseline (n,) of the samples `known` (n,).

    The answers' own projections are used as a feature too, because a prompt moves both.

    Args:
        prompts: (N,) names of the samples' prompts; None: all different.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, indices out of range or given twice, or a single
            baseline for several samples.
    """
    a, b = finite(answers, 1), finite(baseline, 1)
    return hybrid_differences(a[:, None], features, known, b[:, None], prompts)[0]


def hybrid_differences(
    answers: ArrayLike,
    features: ArrayLike,
    known: ArrayLike,
    baseline: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
) -> list[Difference]:
    """The same for T traits at once: answers (N, T), baseline (n, T), and the features shared."""
    a, x = finite(answers, 2), finite(features, 2)
    if len(x) != len(a):
        raise ValueError(f"features of {len(x)} samples for {len(a)} answers")
    rows = indices(known, len(a))
    shared = None if prompts is None else Prompts.of(prompts, rows)
    return differences_from_moments(Moments.of(a), Moments.of(x), a[rows], x[rows], baseline, shared)


def plain_difference(
    answers: ArrayLike, known: ArrayLike, baseline: ArrayLike, prompts: Prompts | None = None
) -> Difference:
    """The mean of answer minus baseline over the subset alone, what the paper does; exact where all are known."""
    a, b = finite(answers, 1), finite(baseline, 1)
    rows = indices(known, len(a))
    gaps = _same_rows(a[rows], b) - b
    # As a baseline of minus the gap beside answers of 0: only the subset counts.
    nothing = Moments.of(np.zeros((len(a), 0)))
    none = np.zeros((len(b), 1)), np.zeros((len(b), 0))
    return _differences(_zeros(len(a), 1), nothing, *none, -gaps[:, None], prompts=prompts)[0]


def differences_from_moments(
    answers: Moments,
    features: Moments,
    known_answers: ArrayLike,
    known_features: ArrayLike,
    baseline: ArrayLike,
    prompts: Prompts | None = None,
) -> list[Difference]:
    """The same from a stream: moments of all samples, rows of the subset only.

    Args:
        answers, features: Over all N samples, the subset included; T and k columns.
        known_answers, known_features, baseline: (n, T), (n, k), (n, T) of the subset.
        prompts: Which samples share one; None: none do.

    Raises:
        ValueError: As in `hybrid_difference`.
    """
    a, x, b = finite(known_answers, 2), finite(known_features, 2), finite(baseline, 2)
    _same_rows(a, b)
    both, features_and_answers = beside(features, answers), np.hstack([x, a])
    # Shrunk towards its mean by a small subset, the baseline is known badly when it goes with the answer; the gap is
    # known badly when it does not. The one with smaller errors is kept. Very few rows cannot tell: they take the gap.
    nothing = _zeros(answers.count, a.shape[1])
    columns, targets = np.hstack([a, np.zeros_like(a)]), np.hstack([b, b - a])
    found = _differences(
        beside(answers, nothing), both, columns, features_and_answers, targets, np.hstack([b, b]), prompts
    )
    direct, gap = found[: a.shape[1]], found[a.shape[1] :]
    if len(b) < LEAST:
        return gap
    return [min(pair, key=lambda d: d.subset.error) for pair in zip(direct, gap, strict=True)]


def beside(first: Moments, second: Moments) -> Moments:
    """Moments of the columns of both, over the same rows.

    Raises:
        ValueError: They saw different numbers of rows.
    """
    if first.count != second.count:
        raise ValueError(f"moments over {first.count} and {second.count} rows")
    one, two = first.to_arrays(), second.to_arrays()
    joined = {name: np.concatenate([one[name], two[name]]) for name in ("mean", "squares")}
    return Moments.from_arrays({"count": first.count, **joined})


def _zeros(rows: int, columns: int) -> Moments:
    return Moments.from_arrays({"count": rows, "mean": np.zeros(columns), "squares": np.zeros(columns)})


def _differences(
    answers: Moments,
    features: Moments,
    a: Floats,
    x: Floats,
    b: Floats,
    yardstick: Floats | None = None,
    prompts: Prompts | None = None,
) -> list[Difference]:
    """One estimate per column; R squared is the share saved of the error of a mean of b (or of `yardstick`)."""
    total, n = answers.count, len(_same_rows(a, b))
    if n > total or len(x) != n:
        raise ValueError(f"a subset of {n} baselines and {len(x)} features out of {total} samples")
    gaps = a - b
    if n == total:
        means = gaps.mean(0)
        subset = [Spread(0.0, 1.0, 0.0, n)] * len(means)
        r_squared = np.zeros_like(means)
    else:
        fit = fit_subset(features, x, b)
        share = n / total
        left = b - fit.left_out
        others = (total * features.mean - x.sum(0)) / (total - n)  # mean features of those without a baseline
        predicted, correction = _of_the_others(fit, x, others, left)
        means = answers.mean - share * b.mean(0) - (1 - share) * (predicted + correction)
        # Leave-one-out residuals make it the jackknife's variance, times the finite population correction.
        variance = (1 - share) * (left**2).mean(0) * (n - 1) / n**2 * cost_of_choice(n, fit.effective)
        free = np.maximum(n - fit.effective - (fit.effective > 1), 1)
        subset = [
            Spread(float(e), float(f), s, n)
            for e, f, s in zip(np.sqrt(variance), free, map(_skewness, left.T), strict=True)
        ]
        r_squared = _error_share(left, b if yardstick is None else yardstick)
    return [
        Difference(float(mean), total, n, part, _sampling(column, total, prompts), float(r))
        for mean, part, column, r in zip(means, subset, gaps.T, r_squared, strict=True)
    ]


def _error_share(left: Floats, values: Floats) -> Floats:
    """Share (T,) of the squared error of the mean alone that the fit does without, 0..1."""
    alone = (((values - values.mean(0)) * len(values) / (len(values) - 1)) ** 2).sum(0)
    squares = (left**2).sum(0)
    saved: Floats = np.where(squares < alone, 1 - squares / np.where(alone > 0, alone, 1), 0.0)
    return saved


def _of_the_others(fit: Fit, x: Floats, others: Floats, left: Floats) -> tuple[Floats, Floats]:
    """Mean prediction for the others (T,), and the correction that makes it unbiased (T,).

    Averaged over the fits that leave out one row each: every such row was drawn at random from those the fit did not
    see, so its error is an unbiased guess of their mean error. Leaving row i out lowers the prediction at z by
    z' G^-1 z_i times row i's error.
    """
    scaled = (x - fit.centre) / fit.scale
    other = (others - fit.centre) / fit.scale
    pull = 1 / fit.n + (scaled @ fit.axes.T) @ ((fit.axes @ other)[:, None] * fit.weights)
    return fit.offset + other @ fit.slopes, ((1 - pull) * left).mean(0)


def _sampling(gaps: Floats, total: int, prompts: Prompts | None) -> Spread:
    if len(gaps) < 2:
        return Spread(0.0, 1.0, 0.0, total)  # a data set of one sample: nothing is known of the spread
    if prompts is not None and prompts.count < total:
        return _sampling_of_prompts(gaps, total, prompts)
    return Spread(float(gaps.std(ddof=1)) / math.sqrt(total), len(gaps) - 1.0, _skewness(gaps), total)


def _sampling_of_prompts(gaps: Floats, total: int, prompts: Prompts) -> Spread:
    """Where prompts were drawn, with all their samples: the variance of a sum over clusters.

    What pairs of samples that share a prompt have in common is estimated by the pairs within the subset, beside
    `DOUBT` imagined ones that are equal, in the share that was not generated: few pairs tell little. Where everything
    is generated this is the usual cluster-robust variance.
    """
    effective = total**2 / prompts.squares  # prompts, were all of the same size
    if prompts.count < 2:
        return Spread(math.inf, 1.0, 0.0, 1)  # nothing is known of the spread between prompts
    centred = gaps - gaps.mean()
    alone = float((centred**2).mean())
    sums: Floats = np.asarray(np.bincount(prompts.known, centred), dtype=np.float64)
    sizes = np.bincount(prompts.known)
    pairs = (float((sizes**2).sum()) - len(gaps)) / 2
    doubt = DOUBT * (1 - len(gaps) / total)
    products = (float((sums**2).sum()) - float((centred**2).sum())) / 2
    together = (products + doubt * alone) / (pairs + doubt) if pairs + doubt else alone
    variance = (total * alone + (prompts.squares - total) * min(max(together, 0.0), alone)) / total**2
    free = min(effective, float((sizes > 0).sum())) - 1
    error = math.sqrt(variance * effective / (effective - 1)) if effective > 1 else math.inf
    return Spread(error, max(free, 1.0), _skewness(sums[sizes > 0]), max(int(effective), 2))


def _skewness(values: Floats) -> float:
    """The usual estimate with the correction for few values; 0 for constants and for two values."""
    n, centred = len(values), values - values.mean()
    scale = np.abs(centred).max()
    if n < 3 or scale <= 1e-12 * np.abs(values).max():
        return 0.0
    centred = centred / scale
    return float(math.sqrt(n * (n - 1)) / (n - 2) * (centred**3).mean() / (centred**2).mean() ** 1.5)


def _same_rows(a: Floats, b: Floats) -> Floats:
    if a.shape != b.shape:
        raise ValueError(f"{b.shape} baselines for {a.shape} answers")
    return a


def generations_needed(hybrid: Difference, plain: Difference) -> int:
    """How many generations plain subsampling needs for the hybrid's standard error: about n / (1 - R^2) for N >> n.

    Both on the same subset.
    """
    if hybrid.generated == hybrid.n or plain.subset.error == 0:
        return hybrid.generated
    inverse = 1 / hybrid.generated - 1 / hybrid.n
    return math.ceil(1 / (1 / hybrid.n + inverse * (hybrid.subset.error / plain.subset.error) ** 2) - 1e-9)


def planned_sizes(total: int, first: int = FIRST) -> tuple[int, ...]:
    """Sizes of the growing subset: doubled from look to look, the last one is all samples."""
    sizes = [first * 2**i for i in range(max(1, math.ceil(math.log2(max(1.0, total / first)))))]
    return (*(size for size in sizes if size < total), total)


def stop_reason(
    difference: Difference, sizes: Sequence[int], precision: float, reference: float | None = None
) -> Reason | None:
    """Why no further generation is needed for this trait, or None.

    Args:
        sizes: All the planned looks.
        precision: Half width of the generation part that is narrow enough.
        reference: Level that the answer is compared with; None: only precision counts.

    Returns:
        "exact": All is generated. "precise": Narrow enough. "clear": The interval leaves out the reference even when
        corrected for the looks (Bonferroni); report `estimate(len(sizes))` then, since the stop depended on the mean.
    """
    if difference.generated == difference.n:
        return "exact"
    if difference.generation <= precision:
        return "precise"
    if reference is not None:
        low, high = difference.interval(len(sizes))
        if not low <= reference <= high:
            return "clear"
    return None
