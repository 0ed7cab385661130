"""Alarms keep their rate where values come in groups and mean and deviation are estimated; textbook rules do not."""

import math

import numpy as np
import pytest
from scipy import stats

from personavec.errors import UserError
from personavec.screening.threshold import threshold
from personavec.stats.alarms import (
    ALLOWANCE,
    Scale,
    check_groups,
    cusum,
    cusum_of_groups,
    drawn_maxima,
    groups_needed,
    least_groups,
    parted,
    rate_given,
    rate_of_groups,
    spread_of_groups,
    threshold_of_groups,
    upper_quantile,
)
from personavec.stats.numbers import Floats

OWN = 0.5  # share of the variance that is a group's own


def drawn(rng: np.random.Generator, count: int, size: int, traits: int = 1) -> Floats:
    """Groups (count, size, traits) of correlated values with mean 0 and deviation 1."""
    own = rng.standard_normal((count, 1, traits))
    found: Floats = OWN**0.5 * own + (1 - OWN) ** 0.5 * rng.standard_normal((count, size, traits))
    return found


def groups(count: int, size: int) -> np.ndarray:
    return np.repeat(np.arange(count), size)


def test_with_one_value_in_each_group_it_is_the_plain_rule() -> None:
    values = np.random.default_rng(0).standard_normal(120)
    for rate in (0.01, 0.05, 0.3):
        assert threshold_of_groups(values, np.arange(120), rate) == threshold(values, rate).value
    assert math.isinf(threshold_of_groups(values, np.arange(120) // 2, 0.01)), "60 groups are too few for 1 in 100"


def test_the_rate_holds_for_answers_of_new_groups_and_not_if_answers_are_taken_for_independent() -> None:
    rng, rate, count, size = np.random.default_rng(1), 0.1, 9, 30
    ours, plain = [], []
    for _ in range(800):
        values = drawn(rng, count, size).ravel()
        ours.append(stats.norm.sf(threshold_of_groups(values, groups(count, size), rate)))
        plain.append(stats.norm.sf(threshold(values, rate).value))
    error = np.std(ours) / len(ours) ** 0.5
    assert np.mean(ours) <= rate + 3 * error
    assert np.mean(plain) > rate + 3 * np.std(plain) / len(plain) ** 0.5


def test_the_joint_rate_over_traits_holds_though_their_scale_is_estimated() -> None:
    """The chance of a new value is known: traits are independent and normal."""
    rng, rate, traits = np.random.default_rng(2), 0.1, 4
    count = groups_needed(rate)
    sizes = np.array([1.0, 5.0, 0.2, 30.0])
    found = []
    for draw in range(1500):
        values = (rng.standard_normal((count, traits)) + 3) * sizes
        few, rest = parted(count, draw)
        scale = Scale.of(values[few])
        limit = threshold_of_groups(scale.of_values(values[rest]).max(1), np.arange(rest.sum()), rate)
        found.append(1 - stats.norm.cdf((scale.centre + limit * scale.deviation) / sizes - 3).prod())
    assert np.mean(found) <= rate + 3 * np.std(found) / len(found) ** 0.5


def test_over_the_whole_traffic_the_resampled_limit_holds_and_the_textbook_s_does_not() -> None:
    rng, rate, count, size, runs = np.random.default_rng(3), 0.05, 60, 5, 100
    textbook = upper_quantile(cusum(rng.standard_normal((count * size, 1000)) - ALLOWANCE).max(0), rate)
    ours = plain = 0
    for run in range(runs):
        normal, new = drawn(rng, count, size).reshape(-1, 1), drawn(rng, count, size).reshape(-1, 1)
        limit = upper_quantile(drawn_maxima(normal, groups(count, size), count, 99, run)[:, 0], rate)
        highest = cusum(Scale.of(normal).of_values(new) - ALLOWANCE).max()
        ours, plain = ours + (highest > limit), plain + (highest > textbook)
    assert stats.binom.sf(ours - 1, runs, rate) > 0.001, "no more than the rate, as far as so many runs tell"
    assert stats.binom.cdf(plain, runs, 0.5) > 0.999, "more than half alarm"


def test_a_cusum_is_what_its_recursion_says() -> None:
    steps = np.random.default_rng(4).standard_normal((200, 3))
    level, expected = np.zeros(3), []
    for step in steps:
        level = np.maximum(0, level + step)
        expected.append(level)
    np.testing.assert_allclose(cusum(steps), expected, atol=1e-12)
    parts = cusum_of_groups(steps, np.array([0, 50, 51]))
    np.testing.assert_allclose(parts, np.vstack([cusum(steps[:50]), cusum(steps[50:51]), cusum(steps[51:])]))


def test_rates_count_groups_and_their_interval_covers() -> None:
    found = rate_of_groups([True, False, False, False, False], np.array([0, 0, 1, 1, 1]))
    assert (found.mean, found.n) == (0.25, 2)
    exact = stats.binomtest(3, 40).proportion_ci()
    single = rate_of_groups(np.arange(40) < 3, np.arange(40))
    assert (single.low, single.high) == pytest.approx((exact.low, exact.high))
    assert rate_of_groups(np.ones(5), np.arange(5)).high == 1 and rate_of_groups(np.zeros(5), np.arange(5)).low == 0


def test_the_realised_rate_lies_below_its_bound_as_often_as_is_said() -> None:
    rng, rate = np.random.default_rng(5), 0.05
    rates = [stats.norm.sf(threshold_of_groups(rng.standard_normal(99), np.arange(99), rate)) for _ in range(1000)]
    below = float((np.array(rates) <= rate_given(99, rate)).mean())
    assert abs(below - 0.975) < 4 * (0.975 * 0.025 / 1000) ** 0.5


def test_means_and_deviations_of_resampled_groups() -> None:
    values, of = drawn(np.random.default_rng(6), 50, 4)[..., 0].ravel() * 2 + 7, groups(50, 4)
    means, deviations = spread_of_groups(values, of)
    assert (means[0], deviations[0]) == pytest.approx((values.mean(), values.std()))
    assert means[1:].std() == pytest.approx(values.reshape(50, 4).mean(1).std() / 50**0.5, rel=0.1)


@pytest.mark.parametrize(("rate", "least"), [(0.01, 99), (0.05, 19), (0.5, 1)])
def test_too_few_groups_are_refused(rate: float, least: int) -> None:
    assert least_groups(rate) == least
    count = groups_needed(rate)
    assert parted(count, 0)[1].sum() >= least and (count < 3 or parted(count - 1, 0)[1].sum() < least)
    check_groups(least, rate, "conversations")
    with pytest.raises(UserError, match=f"{least - 1} conversations are too few .* Give at least {least},"):
        check_groups(least - 1, rate, "conversations")


def test_a_rate_is_a_share() -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        check_groups(5, 1.0, "conversations")
