"""Alarms that keep their promise on traffic whose values come in groups: the answers of a conversation resemble each
other, and the mean and deviation of normal traffic are estimated.

A value at a time: split-conformal over groups (Lee, Barber and Willett, arXiv 2306.06342, "Distribution-free inference
with hierarchical data"). Every calibration group has the same weight, a further one stands at infinity; then a value
drawn from a new group exceeds the threshold at most at the rate, whatever the distribution and however alike the values
of a group are. With one value in each group it is the plain rule (`screening.threshold`).

Drift over time: CUSUM (Page 1954). Its textbook limits take values for independent and their mean for known; neither
holds here, so the limit is the quantile of the maximum over resampled whole groups, standardised with a mean and a
deviation that are estimated anew from other resampled groups.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from personavec.errors import UserError
from personavec.stats.bootstrap import DRAWS, draw_weights
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats, finite

Codes = NDArray[np.intp]
ALLOWANCE = 0.25  # k of the CUSUM, in deviations: it is quickest for a drift of twice as much
PART = 4  # one group in so many tells mean and deviation only, never a threshold


def least_groups(rate: float) -> int:
    """How many groups it takes at least to keep a rate: n >= 1/rate - 1."""
    return math.ceil(1 / rate - 1 - 1e-9)


def check_groups(count: int, rate: float, what: str, needed: int | None = None) -> None:
    """Refuse a rate that so many groups cannot keep.

    Args:
        what: Groups, in the plural.
        needed: How many of them there must be in all; None: `least_groups`.

    Raises:
        UserError: With how many it takes, or a rate outside 0..1.
    """
    if not 0 < rate < 1:
        raise UserError(f"A false-alarm rate of {rate:g} is not between 0 and 1.", "For 1 in 100 give 0.01.")
    needed = least_groups(rate) if needed is None else needed
    if count < needed:
        raise UserError(
            f"{count} {what} are too few for a false-alarm rate of {rate:g}, which takes {needed}.",
            f"Give at least {needed}, or allow a higher rate.",
        )


def threshold_of_groups(values: ArrayLike, groups: Codes, rate: float) -> float:
    """The threshold that a value of a new group exceeds with a probability of at most `rate`.

    Args:
        values: (n,).
        groups: (n,) of each value, numbers from 0 on without gaps.

    Returns:
        Infinite where there are too few groups.
    """
    array = finite(values, 1)
    count = int(groups.max()) + 1
    weights = (1 / np.bincount(groups, minlength=count))[groups] / (count + 1)
    order = np.argsort(array, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, 1 - rate - 1e-9))
    return float(array[order[place]]) if place < len(array) else math.inf


def rate_given(groups: int, rate: float) -> float:
    """Where the rate that a threshold of these groups has lies below in 97.5 % of cases; it is kept on average over
    such groups. Of one value in each it has a Beta distribution, of several it varies less."""
    alarms = math.floor((groups + 1) * rate + 1e-9)
    return float(stats.beta.ppf(0.975, alarms, groups + 1 - alarms))


def spread_of_groups(values: Floats, groups: Codes, seed: int = 0, draws: int = DRAWS) -> tuple[Floats, Floats]:
    """Means and standard deviations of values (n,) whose groups lie one after another: their own first, then those of
    resampled groups, (1 + draws,) each."""
    starts = starts_of(groups)
    centre = values.mean()
    sums = [np.add.reduceat(one, starts) for one in (np.ones_like(values), values - centre, (values - centre) ** 2)]
    weights = np.vstack([np.ones(len(starts)), draw_weights(len(starts), seed, draws)])
    sizes, means, squares = (weights @ one for one in sums)
    means = means / sizes
    return means + centre, np.sqrt(np.maximum(squares / sizes - means**2, 0))


def rate_of_groups(alarms: ArrayLike, groups: Codes) -> Estimate:
    """Mean over groups of the share of their values that alarm, with a Clopper-Pearson interval for that many groups.

    A share within 0..1 varies at most as much as a yes or no of the same mean, so that for groups of several values
    the interval errs on the wide side.
    """
    given = np.asarray(alarms, dtype=np.float64)
    sizes = np.bincount(groups)
    shares = np.bincount(groups, given)[sizes > 0] / sizes[sizes > 0]
    n, hits = len(shares), float(shares.sum())
    low = float(stats.beta.ppf(0.025, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Estimate(hits / n, low, high, n)


@dataclass(frozen=True)
class Scale:
    """What several traits are made comparable with.

    Attributes:
        centre, deviation: (T,).
    """

    centre: Floats
    deviation: Floats

    @classmethod
    def of(cls, values: Floats) -> "Scale":
        """Mean and standard deviation of values (n, T)."""
        return cls(values.mean(0), values.std(0, ddof=1))

    def of_values(self, values: Floats) -> Floats:
        """Values (n, T) in deviations from the centre."""
        found: Floats = (values - self.centre) / self.deviation
        return found


def parted(count: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `count` groups tell the scale, and which the thresholds: (count,) each, drawn at random.

    The scale is then as foreign to the groups of the thresholds as to a new one, so that the rate is kept exactly.
    """
    order = np.random.default_rng(seed).permutation(count)
    few = np.zeros(count, dtype=bool)
    few[order[: max(count // PART, 1)]] = True
    return few, ~few


def groups_needed(rate: float) -> int:
    """How many groups `parted` must get for the rest to keep a rate."""
    least = least_groups(rate)
    return next(count for count in range(least, 2 * least + 3) if count - max(count // PART, 1) >= least)


def cusum(steps: Floats) -> Floats:
    """`S_t = max(0, S_(t-1) + step_t)` along the first axis, from 0 on. Steps are `z - k`."""
    sums = np.cumsum(steps, axis=0)
    found: Floats = sums - np.minimum(np.minimum.accumulate(sums, axis=0), 0)
    return found


def cusum_of_groups(steps: Floats, starts: Codes) -> Floats:
    """The same from 0 on in every group. Groups lie one after another, `starts` (g,) is where each begins."""
    found = np.empty_like(steps)
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        found[start:end] = cusum(steps[start:end])
    return found


def starts_of(groups: Codes) -> Codes:
    """Where each group begins; they lie one after another, numbered from 0 on."""
    return np.searchsorted(groups, np.arange(groups[-1] + 1)).astype(np.intp)


def drawn_rows(starts: Codes, total: int, drawn: Codes) -> Codes:
    """The rows of the groups that were drawn, one group after another."""
    sizes = np.diff([*starts, total])[drawn]
    ends = np.cumsum(sizes)
    rows: Codes = np.arange(ends[-1]) + np.repeat(starts[drawn] - ends + sizes, sizes)
    return rows


def drawn_maxima(values: Floats, groups: Codes, horizon: int, draws: int, seed: int) -> Floats:
    """(draws, T) highest CUSUM of each trait over `horizon` groups of normal traffic.

    Each draw estimates mean and deviation from as many resampled groups as there are, and runs over `horizon` others.

    Args:
        values: (n, T), groups one after another.
        groups: (n,).
    """
    starts, total = starts_of(groups), len(values)
    count = len(starts)
    shifted = values - values.mean(0)  # so that squares keep their digits
    sums = [np.add.reduceat(x, starts, axis=0) for x in (np.ones((total, 1)), shifted, shifted**2)]
    sizes, means, squares = (draw_weights(count, seed, draws) @ one for one in sums)
    means, squares = means / sizes, squares / sizes
    deviations = np.sqrt(np.maximum(squares - means**2, 0) * sizes / np.maximum(sizes - 1, 1))
    rng = np.random.default_rng([seed, 1])
    found = np.empty((draws, values.shape[1]))
    for draw in range(draws):
        rows = drawn_rows(starts, total, rng.integers(count, size=horizon))
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = (shifted[rows] - means[draw]) / deviations[draw] - ALLOWANCE
        found[draw] = np.nan_to_num(cusum(steps).max(0), nan=0.0)
    return found


def upper_quantile(drawn: Floats, rate: float) -> float:
    """The value that one more draw exceeds with a probability of at most `rate`."""
    rank = min(math.ceil((len(drawn) + 1) * (1 - rate) - 1e-9), len(drawn))
    return float(np.partition(drawn, rank - 1)[rank - 1])
