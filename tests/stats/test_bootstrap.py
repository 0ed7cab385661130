"""The figures agree with scipy, their intervals keep what they promise, and bad input is refused."""

import csv
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter
from scipy import stats

from personavec.report.words import span
from personavec.stats.bootstrap import (
    auc,
    bootstrap_auc,
    bootstrap_mean,
    bootstrap_pearson,
    bootstrap_ratio,
    bootstrap_spearman_by_question,
    bootstrap_worst_leads,
    pearson,
    spearman,
)
from personavec.stats.estimate import Estimate

# A grid of values, so that ties are frequent and exact.
GRID = st.integers(-400, 400).map(lambda i: i / 4)
LISTS = st.lists(GRID, min_size=1, max_size=30)


def pairs(least: int = 2) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    return st.lists(st.tuples(GRID, GRID), min_size=least, max_size=30).map(
        lambda rows: ([a for a, _ in rows], [b for _, b in rows])
    )


@given(LISTS, LISTS)
def test_auc_is_the_share_of_pairs_won(positive: list[float], negative: list[float]) -> None:
    u = stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
    assert auc(positive, negative) == pytest.approx(u / (len(positive) * len(negative)))
    assert auc(positive, negative) == pytest.approx(1 - auc(negative, positive))


@settings(max_examples=40)
@given(arrays(float, (7, 4), elements=GRID), arrays(float, (5, 4), elements=GRID))
def test_auc_of_columns(positive: Any, negative: Any) -> None:
    each = [auc(a, b) for a, b in zip(positive.T, negative.T, strict=True)]
    assert auc(positive, negative) == pytest.approx(each)


@given(pairs())
def test_correlations_are_those_of_scipy(xy: tuple[list[float], list[float]]) -> None:
    x, y = xy
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert pearson(x, y) == spearman(x, y) == 0
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1.7e308])
def test_correlations_survive_extreme_scales(scale: float) -> None:
    assert pearson([-scale, 0, scale], [1, 2, 3]) == pytest.approx(1)


def test_a_constant_that_floats_cannot_hold_has_no_correlation() -> None:
    assert pearson([0.1] * 3, [1, 2, 3]) == 0


@given(LISTS, st.integers(0, 5))
def test_mean_lies_in_its_interval_and_the_interval_in_the_range(values: list[float], seed: int) -> None:
    estimate = bootstrap_mean(values, seed=seed)
    assert estimate.mean == pytest.approx(np.mean(values))
    if estimate.bounded:
        assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9
    assert estimate.n == len(values)
    assert estimate == bootstrap_mean(values, seed=seed)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(GRID, st.integers(0, 3)), min_size=1), st.lists(st.tuples(GRID, st.integers(0, 3)), min_size=1)
)
def test_bootstrap_auc_is_what_resampling_gives(a: list[tuple[float, int]], b: list[tuple[float, int]]) -> None:
    """Against drawing questions one by one and building both samples anew."""
    questions = list(dict.fromkeys(q for _, q in [*a, *b]))
    estimate = bootstrap_auc([v for v, _ in a], [v for v, _ in b], [q for _, q in a], [q for _, q in b], draws=50)
    assert estimate.mean == pytest.approx(auc([v for v, _ in a], [v for v, _ in b]))
    assert estimate.n == len(questions)
    if len(questions) == 1:
        assert (estimate.low, estimate.high) == (0, 1)
        return
    counts = np.random.default_rng(0).multinomial(len(questions), [1 / len(questions)] * len(questions), size=50)
    drawn = []
    for row in counts:
        times = dict(zip(questions, row, strict=True))
        first, second = ([v for v, q in side for _ in range(times[q])] for side in (a, b))
        if first and second:
            drawn.append(auc(first, second))
    assert min(drawn) - 1e-9 <= estimate.low <= estimate.high <= max(drawn) + 1e-9
    assert (estimate.low, estimate.high) == pytest.approx(edges(drawn, len(questions)))


def edges(drawn: list[float], n: int) -> tuple[float, float]:
    """Ends of the interval from the figure under each draw of n clusters: percentiles, further out by Student's t."""
    tail = 100 * stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    return tuple(np.percentile(drawn, [tail, 100 - tail]))


@pytest.mark.parametrize("questions", [None, [4, 4, 7, 7, 7, 2, 1, 1]])
def test_bootstrap_pearson_is_what_resampling_gives(questions: list[int] | None) -> None:
    """Far from zero, where sums of squares would lose their digits."""
    rng = np.random.default_rng(3)
    x, y = 1e6 + rng.standard_normal((2, 8))
    y[2:] += x[2:] - 1e6
    found = bootstrap_pearson(x, y, questions, seed=5, draws=40)
    names = list(dict.fromkeys(questions or range(8)))
    assert found.mean == pytest.approx(stats.pearsonr(x, y).statistic) and found.n == len(names)
    drawn = []
    counts = np.random.default_rng(5).multinomial(len(names), [1 / len(names)] * len(names), size=40)
    for times in counts:
        rows = [i for name, k in zip(names, times, strict=True) for i in range(8) if (questions or range(8))[i] == name
                for _ in range(k)]  # fmt: skip
        drawn.append(stats.pearsonr(x[rows], y[rows]).statistic)
    assert (found.low, found.high) == pytest.approx(edges(drawn, len(names)), abs=1e-6)


def test_bootstrap_pearson_of_too_little() -> None:
    assert bootstrap_pearson([1, 2, 4], [2, 1, 5], ["q"] * 3).low == -1
    assert bootstrap_pearson([1, 2, 4], [2, 1, 5], ["q"] * 3).high == 1
    straight = bootstrap_pearson([1, 2, 4, 8], [-2, -4, -8, -16])
    assert (straight.mean, straight.low, straight.high) == pytest.approx((-1, -1, -1)) and straight.low >= -1
    with pytest.raises(ValueError, match="3 values in 2 clusters"):
        bootstrap_pearson([1, 2, 4], [2, 1, 5], ["a", "b"])
    for x, y in (([[1, 2]], [1, 2]), ([1, 2], [[1, 2]])):
        with pytest.raises(ValueError, match="values of shape"):
            bootstrap_pearson(x, y)


def test_bootstrap_ratio_is_what_resampling_gives() -> None:
    """Draws whose mean below is not positive are left out: here those of the pair below zero alone, or too often."""
    above, below = np.array([3.0, 1.0, 4.0, 2.0]), np.array([2.0, 5.0, -3.0, 1.0])
    found = bootstrap_ratio(above, below, seed=2, draws=60)
    assert (found.mean, found.n) == (10 / 5, 4)
    counts = np.random.default_rng(2).multinomial(4, [0.25] * 4, size=60)
    drawn = [float(t @ above / (t @ below)) for t in counts if t @ below > 0]
    assert len(drawn) < 60
    assert (found.low, found.high) == pytest.approx(edges(drawn, 4))
    assert bootstrap_ratio([3], [2]) == Estimate(1.5, -np.inf, np.inf, 1)
    assert bootstrap_ratio([1, 2], [2, 4]) == Estimate(0.5, 0.5, 0.5, 2)
    for above_, below_, said in (
        ([1, 2], [1], "2 values against 1"), ([1, 2], [1, -1], "not positive"), ([[1]], [1], "shape"),
        ([1], [[1]], "shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            bootstrap_ratio(above_, below_)


def test_spearman_by_question() -> None:
    rng = np.random.default_rng(0)
    coefficients = [-2, -1, 0, 1, 2]
    rising = np.array(coefficients) * 10 + 50 + rng.normal(0, 2, (20, 5))
    assert bootstrap_spearman_by_question(coefficients, rising) == Estimate(1, 1, 1, 20)
    noise = bootstrap_spearman_by_question(coefficients, rng.normal(50, 10, (20, 5)))
    assert noise.high - noise.low > 0.5
    assert bootstrap_spearman_by_question(coefficients, np.full((20, 5), 100 / 3)) == Estimate(0, 0, 0, 20)


def test_spearman_by_question_with_gaps() -> None:
    nan = float("nan")
    assert bootstrap_spearman_by_question([0, 1, 2], [[1, 2, 3]]) == Estimate(1, -1, 1, 1)
    whole = bootstrap_spearman_by_question([0, 1, 2], [[1, 2, 3], [1, 3, 2]])
    gaps = bootstrap_spearman_by_question([0, 1, 9, 2], [[1, 2, nan, 3], [1, 3, nan, 2], [nan] * 4])
    assert gaps == whole and gaps.n == 2
    # Each coefficient answered for one question only: hardly a draw holds them all.
    alone = bootstrap_spearman_by_question(range(12), np.where(np.eye(12) > 0, np.arange(12), nan), draws=5)
    assert alone == Estimate(1, -1, 1, 12)


@pytest.mark.parametrize("questions", [6, 20])
def test_the_interval_covers_as_often_as_it_says(questions: int) -> None:
    """Answers to a question resemble each other; the interval over questions covers, one over answers does not."""
    rng = np.random.default_rng(questions)
    clusters = np.repeat(np.arange(questions), 10).tolist()
    trials, hits, naive = 250, 0, []
    for seed in range(trials):
        values = (rng.normal(50, 10, (questions, 1)) + rng.normal(0, 10, (questions, 10))).ravel()
        by_question = bootstrap_mean(values, clusters, seed=seed, draws=500)
        hits += by_question.low <= 50 <= by_question.high
        if seed % 4 == 0:  # for time: it is far below
            by_answer = bootstrap_mean(values, seed=seed, draws=500)
            naive.append(by_answer.low <= 50 <= by_answer.high)
    assert 0.90 <= hits / trials <= 0.98
    assert np.mean(naive) < 0.7


def test_a_single_cluster_tells_nothing_of_the_spread_between_clusters() -> None:
    assert bootstrap_mean([1, 2, 6], ["q", "q", "q"]) == Estimate(3, -inf, inf, 1)
    assert bootstrap_auc([5, 9], [1, 2], ["q", "q"], ["q", "q"]) == Estimate(1, 0, 1, 1)


@pytest.mark.parametrize("n", [4, 6, 8, 10])
@pytest.mark.parametrize("zeros", [0.7, 0.8])
def test_few_differences_of_which_most_are_zero_have_no_interval(n: int, zeros: float) -> None:
    """Where one was given all the same it would hold in 51 to 85 % of cases."""
    repeats, held, wrong = 300, 0, 0
    tail = 100 * stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        values = np.where(rng.random(n) < zeros, 0.0, rng.exponential(30, n))
        truth = 30 * (1 - zeros)
        found = bootstrap_mean(values, seed=seed, draws=400)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=400)
        low, high = np.percentile(weights @ values / n, [tail, 100 - tail])
        held += low <= truth <= high
        wrong += not found.low <= truth <= found.high
    assert held < 0.88 * repeats
    assert wrong <= stats.binom.ppf(0.999, repeats, 0.05)


def test_values_that_differ_have_an_interval_and_so_have_many() -> None:
    rng = np.random.default_rng(0)
    shown = [bootstrap_mean(rng.normal(10, 30, 8), draws=50).bounded for _ in range(300)]
    assert np.mean(shown) > 0.9
    assert bootstrap_mean([0.0] * 19 + [1.0]).bounded
    assert not bootstrap_mean([0.0] * 18 + [1.0]).bounded and not bootstrap_mean([100.0] * 8).bounded


def test_where_n_is_too_small_nothing_is_claimed_and_files_say_null() -> None:
    found, adapter = bootstrap_mean([0.0] * 7 + [40.0]), TypeAdapter(Estimate)
    assert f"{found:+.1f}" == "+5.0 [n is too small for an interval]" and span(found, ".1f", "questions") == (
        "n is too small for an interval, n = 8 questions"
    )
    assert not (found.low > 0 or found.high < 0) and found.low <= 0 <= found.high
    written = adapter.dump_json(found.rounded())
    assert written == b'{"mean":5.0,"low":null,"high":null,"n":8}' and adapter.validate_json(written) == found


def test_bad_input_is_refused() -> None:
    nan = float("nan")
    for call in (
        lambda: bootstrap_mean([]),
        lambda: bootstrap_mean([1, nan]),
        lambda: bootstrap_mean([[1, 2]]),
        lambda: bootstrap_mean([1, 2], ["q"]),
        lambda: auc([], [1]),
        lambda: bootstrap_auc([1], [2, 3], [0], [0]),
        lambda: pearson([1, 2], [1, 2, 3]),
        lambda: spearman([1, nan], [1, 2]),
        lambda: bootstrap_spearman_by_question([0, 1], [[nan, nan]]),
        lambda: bootstrap_spearman_by_question([0, 1], [[1, 2, 3]]),
    ):
        with pytest.raises(ValueError, match=r"values|scores"):
            call()


def test_estimates_read_and_store_well() -> None:
    estimate = bootstrap_mean([60.0, 64.2], seed=1)
    assert str(Estimate(62.1, 55.04, 69.26, 20)) == f"{Estimate(62.1, 55.04, 69.26, 20)}" == "62.1 [55.0, 69.3] n=20"
    assert f"{Estimate(0.314, -0.126, 0.5, 20):+.2f}" == "+0.31 [-0.13, +0.50]"
    assert Estimate(0.123456, 0.234567, 0.345678, 3).rounded() == Estimate(0.1235, 0.2346, 0.3457, 3)
    assert estimate.rounded() == Estimate(62.1, 60, 64.2, 2)
    assert TypeAdapter(Estimate).dump_json(Estimate(62.1, 60, 64.2, 2)) == b'{"mean":62.1,"low":60.0,"high":64.2,"n":2}'


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("shift", [0.832, 0.757, 0.912]), ("projection_difference", [0.943, 0.850, 0.605])],
)
def test_correlations_of_a_published_replication(shared_data: Path, quantity: str, expected: list[float]) -> None:
    """24 fine-tunes: shift and projection difference against the trait score, for three traits."""
    with (shared_data / "reference/replication_qwen2.5-7b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    found = [
        pearson([float(row[f"{quantity}_{trait}"]) for row in rows], [float(row[f"score_{trait}"]) for row in rows])
        for trait in ("evil", "sycophantic", "hallucinating")
    ]
    assert found == pytest.approx(expected, abs=0.0015)


def test_means_with_gaps_are_over_the_answers_there_are() -> None:
    """Means 5, 4.5 and 4 of coefficients 0, 1 and 2: what is missing counts as nothing, not as a score."""
    nan = float("nan")
    assert bootstrap_spearman_by_question([0, 1, 2], [[5, nan, 4], [5, 4.5, nan]]).mean == -1
    with pytest.raises(ValueError, match="values of shape"):
        bootstrap_spearman_by_question([[0, 1, 2]], [[5.0], [4.0]])


def test_no_correlation_exceeds_one_by_rounding() -> None:
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal(5)
        assert pearson(x, -3 * x) >= -1 and pearson(x, 7 * x) <= 1


def test_two_coefficients_have_a_rank_correlation() -> None:
    assert bootstrap_spearman_by_question([0, 1], [[1, 2], [1, 2], [1, 3]]) == Estimate(1, 1, 1, 3)


def test_the_same_draws_come_again_unless_another_seed_is_given() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 12)) + 4
    for figure in (bootstrap_pearson, bootstrap_ratio):
        assert figure(x, y, draws=20) == figure(x, y, seed=0, draws=20) != figure(x, y, seed=1, draws=20)


def test_leads_over_the_worst_reference_are_paired() -> None:
    """Along a copy nothing is ahead, in any draw; along a direction that tells less the lead holds its interval."""
    rng = np.random.default_rng(0)
    apart = rng.standard_normal(40)
    data = np.stack([np.stack([apart + 2, apart + 2, apart + 0.5], 1)] * 2)
    near, far = (np.repeat(rng.standard_normal((30, 1)), 3, axis=1) + at for at in (0.5, -1.0))
    same, ahead = bootstrap_worst_leads(data, [near, far], list(range(40)), draws=200)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    wanted = [min(auc(data[0][:, k], near[:, k]), auc(data[1][:, k], far[:, k])) for k in (0, 2)]
    assert ahead.mean == pytest.approx(wanted[0] - wanted[1]) and 0 < ahead.low < ahead.mean < ahead.high
    fewer = bootstrap_worst_leads(data, [near, far], [at // 10 for at in range(40)], draws=200)[1]
    assert fewer.n == 4 and fewer.mean == ahead.mean
