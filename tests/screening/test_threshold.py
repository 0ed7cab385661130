"""The false-alarm rate holds, whatever the distribution, and too few reference samples are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from personavec.errors import UserError
from personavec.screening.threshold import check_size, raised, threshold, with_error
from personavec.stats.ridge import calibrate


@pytest.mark.parametrize(("m", "rate"), [(19, 0.05), (50, 0.05), (333, 0.05), (99, 0.01), (30, 0.2)])
@pytest.mark.parametrize("kind", ["normal", "cauchy", "exponential"])
def test_the_rate_holds_on_average_over_reference_sets(m: int, rate: float, kind: str) -> None:
    rng = np.random.default_rng(0)
    draws: dict[str, Any] = {
        "normal": rng.standard_normal,
        "cauchy": rng.standard_cauchy,
        "exponential": rng.exponential,
    }
    draw = draws[kind]
    rates = [(draw(size=500) > threshold(draw(size=m), rate).value).mean() for _ in range(1500)]
    error = np.std(rates) / np.sqrt(len(rates))
    assert rate - 1 / (m + 1) - 4 * error <= np.mean(rates) <= rate + 4 * error


def test_the_realised_rate_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    inside, repeats = 0, 2000
    for _ in range(repeats):
        found = threshold(rng.random(200), 0.05)
        inside += found.low <= 1 - found.value <= found.high  # the rate of a uniform score
    assert inside / repeats == pytest.approx(0.95, abs=0.02)


def test_a_hybrid_rate_lies_in_its_range() -> None:
    """Where data and reference have regressions of their own, the rate strays further than the reference alone says."""
    within, strict, repeats = 0, 0, 150
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        sides = []
        for count, drawn in ((150, 96), (1000, 64)):
            prompts = rng.standard_normal((count, 2))
            own = 0.4 * prompts[:, 0] + 0.9 * rng.standard_normal(count)
            known = rng.choice(count, drawn, replace=False)
            fit = calibrate(prompts, known, own[known])
            scores = 0.4 * rng.standard_normal(count) - fit.predictions
            sides.append((scores, float(fit.fit.deviation[0]) / np.sqrt(drawn)))
        (reference, first), (data, second) = sides
        plain = threshold(reference, 0.05)
        level = with_error(plain, reference, float(np.hypot(first, second)))
        rate = (data > level.value).mean()
        within += level.low <= rate <= level.high
        strict += plain.low <= rate <= plain.high
        assert level.low <= plain.low and plain.high <= level.high and level.value == plain.value
        assert with_error(plain, reference, 0.0) == plain
    assert within / repeats > 0.84 > 0.75 > strict / repeats


def test_ties_never_raise_the_rate() -> None:
    rng = np.random.default_rng(0)
    rates = [(rng.integers(0, 4, 500) > threshold(rng.integers(0, 4, 50), 0.1).value).mean() for _ in range(500)]
    assert np.mean(rates) <= 0.1
    same = threshold(np.full(100, 3.0))
    assert same.value == 3.0


def test_it_is_the_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    found = threshold(scores, 0.05)
    assert found.value == 95 and found.reference == 99
    assert threshold(np.arange(99), 0.07).value == 92  # (m + 1)(1 - 0.07) is 93, not the next rank by rounding


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.01, 99), (0.3, 3), (0.07, 14)])
def test_too_few_are_refused_with_the_number_needed(rate: float, needed: int) -> None:
    with pytest.raises(UserError, match=f"{needed - 1} clean samples are too few .* at least {needed} "):
        threshold(np.arange(needed - 1), rate)
    with pytest.raises(UserError, match=f"at least {2 * needed} "):
        check_size(needed - 1, rate, parts=2)
    assert threshold(np.arange(needed), rate).value == needed - 1


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match=r"between 0 and 1\. For 5 in 100 give 0\.05"):
        threshold(np.arange(100), rate)


def test_a_rate_that_flags_everything_is_refused() -> None:
    with pytest.raises(UserError, match=r"everything\. Ask for a lower rate"):
        threshold([], 1 - 1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        threshold(np.append(np.arange(30.0), value))
    with pytest.raises(ValueError, match="values of shape"):
        threshold(np.ones((30, 2)))


@given(
    st.lists(st.integers(0, 30), min_size=19, max_size=60),
    st.lists(st.integers(-2, 33), max_size=20),
    st.sampled_from([0.05, 0.1, 0.25, 0.5]),
)
def test_above_it_is_a_p_value_of_at_most_the_rate(reference: list[int], scores: list[int], rate: float) -> None:
    level = threshold(reference, rate).value
    for score in scores:
        p = (1 + sum(r >= score for r in reference)) / (len(reference) + 1)
        assert (score > level) == (p <= rate + 1e-12)


def test_the_threshold_is_that_rank_of_any_scores() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).standard_normal(999)
        found = threshold(scores, 0.05)  # 50 of 1000 ranks may alarm
        assert (found.value, found.rate, found.reference) == (np.sort(scores)[949], 0.05, 999)
        assert (found.low, found.high) == pytest.approx(tuple(stats.beta.ppf([0.025, 0.975], 50, 950)))
    assert threshold(list(range(1, 100))).value == 95


def test_an_error_in_common_widens_the_range_by_hand() -> None:
    """Scores 1 to 99 and a threshold of 95: 1.96 times 1.5 to either side leaves 2 above it, or 7."""
    scores = np.arange(1, 100)
    plain = threshold(scores, 0.05)
    low, high = stats.beta.ppf([0.025, 0.975], 5, 95)
    found = with_error(plain, scores, 1.5)
    assert (found.value, found.rate, found.reference) == (95, 0.05, 99)
    assert found.low == pytest.approx(max(0, 0.05 - np.hypot(0.05 - low, 0.05 - 2 / 99)))
    assert found.high == pytest.approx(0.05 + np.hypot(high - 0.05, 7 / 99 - 0.05))
    large = threshold(np.arange(1, 1000), 0.05)
    low, high = stats.beta.ppf([0.025, 0.975], 50, 950)
    found = with_error(large, np.arange(1, 1000), 10.5)  # 20.58: 29 of 999 above it, or 70
    assert found.low == pytest.approx(0.05 - np.hypot(0.05 - low, 0.05 - 29 / 999)) and found.low > 0
    assert found.high == pytest.approx(0.05 + np.hypot(high - 0.05, 70 / 999 - 0.05))
    with_much = with_error(plain, scores, 100.0)
    assert (with_much.low, with_much.high) == (0, 1)
    with pytest.raises(ValueError, match="not finite"):
        with_error(plain, [np.nan], 1.0)


def test_a_raised_threshold_tells_its_own_rate() -> None:
    level = threshold(np.arange(200.0), 0.05)
    higher = raised(level, 197.5, 2)
    assert (higher.value, higher.rate, higher.reference) == (197.5, 0.05, 200)
    assert (higher.low, higher.high) == pytest.approx(stats.binomtest(2, 200).proportion_ci(0.95, "exact"))
    assert raised(level, 500.0, 0).low == 0 and raised(level, -1.0, 200).high == 1
