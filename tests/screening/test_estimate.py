"""The hybrid estimate is unbiased, its intervals hold, also over several looks, and it beats plain subsampling."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from personavec.screening.estimate import (
    Difference,
    Spread,
    differences_from_moments,
    generations_needed,
    hybrid_difference,
    hybrid_differences,
    plain_difference,
    planned_sizes,
    stop_reason,
)
from personavec.stats.estimate import Estimate
from personavec.stats.moments import Moments
from personavec.stats.ridge import fit_subset

Array = Any
REPEATS = 300
# Fewer or more than this of 300 intervals of 95 % hold in one case of 10,000.
FEWEST, MOST = (int(stats.binom.ppf(q, REPEATS, 0.95)) for q in (5e-5, 1 - 5e-5))

RESIDUALS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy": lambda rng, size: rng.standard_t(3, size) / math.sqrt(3),
    "skewed": lambda rng, size: (rng.gamma(4, size=size) - 4) / 2,
    "very skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def population(kind: str, total: int, k: int, strength: float, seed: int = 1) -> tuple[Array, Array, Array]:
    """Answers, features and baselines of a data set; the first feature explains the baseline."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((total, k))
    baseline = strength * features[:, 0] + RESIDUALS[kind](rng, total)
    return 1 + 0.8 * features[:, 0] + rng.standard_normal(total), features, baseline


def draws(total: int, n: int, repeats: int = REPEATS) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.choice(total, n, replace=False) for _ in range(repeats)]


CASES = [
    *((kind, 2000, n, k, 1.5) for kind in ("normal", "heavy", "skewed") for n, k in ((16, 2), (32, 7), (64, 14))),
    *((kind, 100, 64, 4, 1.5) for kind in RESIDUALS),  # a finite population, most of it generated
    *((kind, 2000, 64, 14, 0.0) for kind in RESIDUALS),  # features that tell nothing
    ("very skewed", 2000, 64, 14, 1.5),
]


@pytest.mark.parametrize(("kind", "total", "n", "k", "strength"), CASES)
def test_intervals_hold_and_the_mean_is_unbiased(kind: str, total: int, n: int, k: int, strength: float) -> None:
    answers, features, baseline = population(kind, total, k, strength)
    truth = (answers - baseline).mean()
    table, everyone = answers[:, None], (Moments.of(answers[:, None]), Moments.of(features))
    drawn = draws(total, n)
    found = [differences_from_moments(*everyone, table[s], features[s], baseline[s, None])[0] for s in drawn]
    errors = np.array([d.mean - truth for d in found])
    held = sum(abs(error) <= d.generation for error, d in zip(errors, found, strict=True))
    assert FEWEST <= held <= (MOST if n > 16 else REPEATS)  # with few rows they may be wider than needed
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(REPEATS)
    plain = [plain_difference(answers, s, baseline[s]) for s in drawn[:200]]
    assert sum(abs(d.mean - truth) <= d.generation for d in plain) >= 178
    assert np.mean([d.generation for d in found]) < 0.85 * np.mean([d.generation for d in plain])


def test_it_is_exactly_unbiased_over_all_subsets() -> None:
    """With the penalty given (one feature, always the same choice), the mean over all 210 subsets is the truth."""
    rng = np.random.default_rng(0)
    answers, baseline = rng.standard_normal(10), rng.exponential(size=10)
    found = [
        hybrid_difference(answers, np.zeros((10, 0)), list(s), baseline[list(s)]).mean
        for s in combinations(range(10), 4)
    ]
    assert np.mean(found) == pytest.approx((answers - baseline).mean(), abs=1e-12)
    x = rng.standard_normal(12)
    line = 3 * x + 0.1 * rng.standard_normal(12) ** 2
    subsets = [list(s) for s in combinations(range(12), 9)]
    lines = [hybrid_difference(np.zeros(12), x[:, None], s, line[s]).mean for s in subsets]
    assert np.mean(lines) == pytest.approx(-line.mean(), abs=1e-6)
    assert np.std(lines) > 1e-3


def test_it_is_never_much_wider_than_plain_subsampling() -> None:
    """Answer and baseline share what the prompt does to both, so that plain differences are already narrow."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(2000)
    answers, baseline = shared + 0.3 * rng.standard_normal(2000), shared + 0.3 * rng.standard_normal(2000)
    noise = rng.standard_normal((2000, 14))
    for n in (16, 64, 256):
        subsets = draws(2000, n, 100)
        hybrid = [hybrid_difference(answers, noise, s, baseline[s]).generation for s in subsets]
        plain = [plain_difference(answers, s, baseline[s]).generation for s in subsets]
        assert np.mean(hybrid) < (1.25 if n == 16 else 1.05) * np.mean(plain)


def test_full_intervals_hold_for_where_the_samples_come_from() -> None:
    held = 0
    for repeat in range(REPEATS):
        rng = np.random.default_rng(repeat)
        features = rng.standard_normal((200, 2))
        baseline = features[:, 0] + rng.standard_normal(200)
        answers = 0.5 + features[:, 1] + rng.standard_normal(200)
        d = hybrid_difference(answers, features, np.arange(50), baseline[:50])
        held += d.low <= 0.5 <= d.high
    assert FEWEST <= held <= MOST


@pytest.mark.parametrize(("prompts", "each", "n"), [(20, 5, 100), (20, 5, 64), (200, 5, 64)])
def test_answers_to_one_prompt_are_no_independent_samples(prompts: int, each: int, n: int) -> None:
    """20 prompts x 5 answers: intervals that count samples hold in 76 % of cases, those that count prompts in 95 %."""
    repeats, held = 250, np.zeros(2)
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        of = np.repeat(np.arange(prompts), each)
        shared, taste = rng.standard_normal((2, prompts))
        baseline = shared[of] + 0.5 * rng.standard_normal(prompts * each)
        answers = 0.5 + shared[of] + taste[of] + rng.standard_normal(prompts * each)
        subset = rng.permutation(prompts * each)[:n]
        for at, names in enumerate((None, [f"prompt {one}" for one in of])):
            d = hybrid_difference(answers, shared[of][:, None], subset, baseline[subset], names)
            held[at] += d.low <= 0.5 <= d.high
    few, many = (stats.binom.ppf(q, repeats, 0.95) for q in (5e-5, 1 - 5e-5))
    assert held[0] < (0.82 if prompts == 20 else 0.93) * repeats and few <= held[1] <= many


def test_a_single_prompt_tells_nothing_of_others() -> None:
    rng = np.random.default_rng(0)
    d = hybrid_difference(rng.standard_normal(30), np.zeros((30, 1)), np.arange(30), np.zeros(30), ["the same"] * 30)
    assert d.low == -math.inf and d.high == math.inf


def test_everything_generated_is_exact() -> None:
    answers, features, baseline = population("normal", 50, 2, 1.0)
    order = np.random.default_rng(0).permutation(50)
    for d in (
        hybrid_difference(answers, features, order, baseline[order]),
        plain_difference(answers, order, baseline[order]),
    ):
        assert d.mean == pytest.approx((answers - baseline).mean())
        assert d.generation == 0 and d.generated == d.n == 50
        half = stats.t.ppf(0.975, 49) * (answers - baseline).std(ddof=1) / math.sqrt(50)
        assert d.high - d.mean == pytest.approx(half, rel=0.05) and d.high - d.mean >= half * (1 - 1e-9)


def test_plain_subsampling_is_the_textbook_one() -> None:
    answers, _, baseline = population("normal", 100, 1, 1.0)
    subset = np.arange(40)
    gaps = (answers - baseline)[:40]
    d = plain_difference(answers, subset, baseline[:40])
    assert d.mean == pytest.approx(gaps.mean())
    assert d.subset.error == pytest.approx(gaps.std(ddof=1) / math.sqrt(40) * math.sqrt(0.6))
    assert d.subset.freedom == pytest.approx(39) and d.r_squared == 0


def test_a_perfect_prediction_leaves_only_the_sampling_error() -> None:
    answers, features, _ = population("normal", 500, 3, 1.0)
    baseline = features @ [1.0, 2.0, 3.0] + 4
    d = hybrid_difference(answers, features, np.arange(40), baseline[:40])
    assert d.mean == pytest.approx((answers - baseline).mean(), abs=1e-4)
    assert d.generation < 1e-3 and d.r_squared > 0.9999 and d.high - d.low > 0.1


def test_constants() -> None:
    features = np.ones((30, 3))
    d = hybrid_difference(np.full(30, 0.1), features, [3, 5, 7], np.full(3, 0.3))
    assert d.mean == pytest.approx(-0.2) and d.generation == pytest.approx(0, abs=1e-12) and d.r_squared == 0
    alone = hybrid_difference([2.0], [[1.0]], [0], [0.5])
    assert (alone.mean, alone.low, alone.high, alone.n) == (1.5, 1.5, 1.5, 1)
    assert alone.sampling == Spread(0.0, 1.0, 0.0, 1)


def test_several_traits_are_each_as_alone_but_for_the_shared_features() -> None:
    answers, features, baseline = population("normal", 200, 2, 1.0)
    table, bases = np.stack([answers, answers], 1), np.stack([baseline, 2 * baseline], 1)
    subset = np.arange(50)
    one, two = hybrid_differences(table, features, subset, bases[subset])
    alone = hybrid_difference(answers, features, subset, baseline[subset])
    assert one.mean == pytest.approx(alone.mean, rel=0.02)
    assert two.subset.error == pytest.approx(2 * one.subset.error) and two.r_squared == pytest.approx(one.r_squared)


def test_a_stream_gives_the_same() -> None:
    answers, features, baseline = population("skewed", 300, 3, 1.0)
    subset = draws(300, 40, 1)[0]
    of_answers, of_features = Moments(1), Moments(3)
    for start in range(0, 300, 70):
        of_answers.update(answers[start : start + 70, None])
        of_features.update(features[start : start + 70])
    streamed = differences_from_moments(
        of_answers, of_features, answers[subset, None], features[subset], baseline[subset, None]
    )[0]
    whole = hybrid_difference(answers, features, subset, baseline[subset])
    assert streamed.mean == pytest.approx(whole.mean) and streamed.generation == pytest.approx(whole.generation)


def test_generations_needed_for_the_same_width() -> None:
    _, features, baseline = population("normal", 100_000, 1, 3.0)
    subset = draws(100_000, 1000, 1)[0]
    hybrid = hybrid_difference(np.zeros(100_000), features, subset, baseline[subset])
    plain = plain_difference(np.zeros(100_000), subset, baseline[subset])
    needed = generations_needed(hybrid, plain)
    assert needed == pytest.approx(1000 / (1 - hybrid.r_squared), rel=0.1) and 8000 < needed < 11_000
    again = draws(100_000, needed, 1)[0]
    same = plain_difference(np.zeros(100_000), again, baseline[again])
    assert same.generation == pytest.approx(hybrid.generation, rel=0.1)
    assert generations_needed(plain, plain) == 1000


def test_the_interval_widens_with_skewness_and_with_looks() -> None:
    even, skewed = Spread(1.0, 30.0, 0.0, 32), Spread(1.0, 30.0, 2.0, 32)
    assert even.half() == pytest.approx(stats.t.ppf(0.975, 30))
    assert even.half(5) == pytest.approx(stats.t.ppf(0.995, 30))
    assert even.half() < skewed.half() < 1.2 * even.half()
    # z = 1.96: z^4 + 2 z^2 - 3 is 19.44, times the square of a skewness of 2, over 18 and 32
    assert skewed.half() == pytest.approx((1 + 4 * 19.4398 / 18 / 32) * even.half(), rel=1e-5)


def test_the_subset_doubles_until_all_is_generated() -> None:
    assert planned_sizes(1000, 64) == (64, 128, 256, 512, 1000)
    assert planned_sizes(1024, 64) == (64, 128, 256, 512, 1024)
    assert planned_sizes(65, 64) == (64, 65)
    assert planned_sizes(64, 64) == planned_sizes(64) == (64,) and planned_sizes(3) == (3,)


def difference(mean: float, error: float, generated: int = 64) -> Difference:
    return Difference(mean, 1000, generated, Spread(error, 60.0, 0.0, generated), Spread(0.01, 60.0, 0.0, 1000))


def test_when_it_stops() -> None:
    sizes = planned_sizes(1000, 64)
    wide, narrow = difference(1.0, 0.2), difference(1.0, 0.04)
    assert stop_reason(wide, sizes, 0.1) is None and stop_reason(narrow, sizes, 0.1) == "precise"
    assert stop_reason(wide, sizes, 0.1, reference=0.0) == "clear"
    assert stop_reason(difference(0.45, 0.2), sizes, 0.1, reference=0.0) is None  # beyond 1.96 errors, not beyond 2.66
    assert stop_reason(difference(0.0, 0.0, 1000), sizes, 0.1) == "exact"


@pytest.mark.parametrize(("kind", "reference"), [("normal", 0.0), ("heavy", 0.3), ("skewed", 0.0)])
def test_looking_several_times_keeps_the_coverage(kind: str, reference: float) -> None:
    """The truth is 0, and what is compared with is the truth itself or lies near it."""
    repeats, held, wrong, stops = 150, 0, 0, set()
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        features = rng.standard_normal((1000, 1))
        baseline = features[:, 0] + RESIDUALS[kind](rng, 1000)
        answers, order = features[:, 0] + 0.5 * rng.standard_normal(1000), rng.permutation(1000)
        sizes = planned_sizes(1000, 16)
        for n in sizes:
            found = hybrid_difference(answers, features, order[:n], baseline[order[:n]])
            if reason := stop_reason(found, sizes, 0.15, reference):
                break
        reported = found.estimate(len(sizes) if reason == "clear" else 1)
        held += reported.low <= 0 <= reported.high
        wrong += reason == "clear" and (reported.mean > reference) == (reference >= 0)
        stops.add((reason, found.generated))
    assert held >= stats.binom.ppf(1e-3, repeats, 0.95)
    assert wrong <= stats.binom.ppf(1 - 1e-3, repeats, 0.025)
    assert len(stops) > 1  # it did stop at different looks


@pytest.mark.parametrize("where", ["answers", "features", "baseline"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(where: str, value: float) -> None:
    arguments: dict[str, Array] = {"answers": np.zeros(5), "features": np.zeros((5, 1)), "baseline": np.zeros(2)}
    arguments[where].flat[1] = value
    with pytest.raises(ValueError, match="not finite"):
        hybrid_difference(known=[0, 1], **arguments)


@pytest.mark.parametrize("known", [[0, 0], [0, 5], [-1, 2], [0.0, 1.0], [[0, 1]], [0], [0, 1, 2], []])
def test_subsets_that_make_no_sense_are_refused(known: Array) -> None:
    with pytest.raises(ValueError):
        hybrid_difference(np.arange(5.0), np.zeros((5, 1)), known, [1.0, 2.0])


def test_one_baseline_for_several_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="spread"):
        hybrid_difference(np.arange(5.0), np.zeros((5, 1)), [2], [1.0])


def test_a_part_that_is_generated_whole_leaves_no_spread() -> None:
    whole = plain_difference(np.arange(5.0), np.arange(5), np.zeros(5))
    assert whole.subset == Spread(0.0, 1.0, 0.0, 5) and whole.subset.half() == 0


def test_an_estimate_is_the_mean_with_its_interval_and_n() -> None:
    found = difference(1.0, 0.2)
    for looks in (1, 5):
        low, high = found.interval(looks)
        assert found.estimate(looks) == Estimate(1.0, low, high, 1000)
        assert (low + high) / 2 == pytest.approx(1) and high - 1 == pytest.approx(
            math.hypot(*(stats.t.isf(0.025 / looks, 60) * error for error in (0.2, 0.01)))
        )


def test_a_chosen_penalty_costs_a_degree_of_freedom_beside_the_coefficients() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 1))
    baseline = 2 * x[:40, 0] + 0.1 * rng.standard_normal(40)
    table = np.hstack([x, np.zeros((300, 1))])
    found = hybrid_difference(np.zeros(300), x, np.arange(40), baseline)
    effective = float(fit_subset(Moments.of(table), table[:40], baseline[:, None]).effective[0])
    assert 1 < effective <= 2 and found.subset.freedom == pytest.approx(40 - effective - 1)


@pytest.mark.parametrize("gaps", [[0.0, 1.0, 5.0], [0.0, 1.0, 5.0, 2.0, 2.5, 9.0]])
def test_skewness_is_the_unbiased_one(gaps: list[float]) -> None:
    found = plain_difference(gaps, np.arange(len(gaps)), np.zeros(len(gaps)))
    assert found.sampling.skewness == pytest.approx(stats.skew(gaps, bias=False))
    for none in ([1.0, 4.0], [0.1, 0.1, 0.1]):
        assert plain_difference(none, np.arange(len(none)), np.zeros(len(none))).sampling.skewness == 0


def test_a_reference_on_the_edge_is_not_clear() -> None:
    found, sizes = difference(1.0, 0.2), planned_sizes(1000, 64)
    low, high = found.interval(len(sizes))
    assert stop_reason(found, sizes, 0.1, low) is None and stop_reason(found, sizes, 0.1, high) is None
    assert stop_reason(found, sizes, 0.1, np.nextafter(low, -9)) == "clear"
    assert stop_reason(found, sizes, found.generation, 1.0) == "precise"


def test_r_squared_is_the_share_of_the_baseline_s_own_spread() -> None:
    """Of 7 of 50 the gap is taken: tiny, beside a baseline that spreads as the answers do."""
    rng = np.random.default_rng(0)
    answers = rng.standard_normal(50)
    baseline = answers[:7] + 0.01 * rng.standard_normal(7)
    assert hybrid_difference(answers, np.zeros((50, 1)), np.arange(7), baseline).r_squared > 0.99
    with pytest.raises(ValueError, match="values of shape"):
        plain_difference(answers[:, None], np.arange(7), baseline)
    with pytest.raises(ValueError, match="values of shape"):
        differences_from_moments(Moments(1), Moments(1), answers[:7, None], answers[:7], baseline[:, None])
