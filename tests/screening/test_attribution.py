"""Shifts and AUCs are those of the textbooks, their intervals hold, and the words say no more than the figures."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from personavec.screening.attribution import (
    Adjusted,
    Corrected,
    Explanation,
    Rival,
    adjusted_shift,
    explanation,
    separation,
)
from personavec.stats.bootstrap import auc
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place

REPEATS = 600
FEWEST = int(stats.binom.ppf(5e-5, REPEATS, 0.95))
MOST = int(stats.binom.ppf(1 - 5e-5, REPEATS, 0.95))


def groups(
    rng: Any, n: int = 300, m: int = 300, gap: float = 0.0, by_length: float = 0.0, by_refusal: float = 0.0
) -> tuple[Any, Any, Any, Any]:
    """Longer answers and more refusals in the data; the score depends on both, and on the group itself by `gap`."""
    covariates = [
        np.column_stack([rng.normal(mean, 1, size), rng.random(size) < share, rng.normal(3, 1, size)])
        for mean, share, size in ((5.0, 0.5, n), (4.0, 0.1, m))
    ]
    scores = [by_length * c[:, 0] + by_refusal * c[:, 1] + rng.standard_normal(len(c)) for c in covariates]
    return scores[0] + gap, scores[1], *covariates


def test_covariates_take_away_what_is_theirs() -> None:
    found = adjusted_shift(*groups(np.random.default_rng(0), by_length=1.0, by_refusal=1.0))
    assert found.raw.low > 0.5 and found.remaining is not None and found.explained is not None
    assert found.remaining.low < 0 < found.remaining.high and found.explained > 0.8
    assert found.used == ("answer length", "refusing", "prompt length")


def test_covariates_leave_what_is_not_theirs() -> None:
    rng = np.random.default_rng(0)
    data, reference, one, two = groups(rng, gap=1.0)
    found = adjusted_shift(data, reference, one, two)
    assert found.remaining is not None and found.remaining.mean == pytest.approx(1.0, abs=0.25)
    assert found.explained is not None and abs(found.explained) < 0.2
    assert found.raw.mean == pytest.approx((data.mean() - reference.mean()) / reference.std(ddof=1))


def test_covariates_can_uncover_a_hidden_shift() -> None:
    found = adjusted_shift(*groups(np.random.default_rng(0), gap=1.0, by_length=-0.8))
    assert found.remaining is not None and found.remaining.low > 2 * found.raw.mean
    assert found.explained is None or found.explained < 0


def test_intervals_of_what_remains_hold_with_unequal_noise() -> None:
    held = 0
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        data, reference, one, two = groups(rng, 40, 120, by_length=0.5)
        data = data + 2 * rng.standard_normal(40) + 0.5
        found = adjusted_shift(data, reference, one, two)
        assert found.remaining is not None
        truth = 0.5 / reference.std(ddof=1)
        held += found.remaining.low <= truth <= found.remaining.high
    assert FEWEST <= held <= MOST


def test_it_is_least_squares_with_hc3() -> None:
    data, reference, one, two = groups(np.random.default_rng(1), 30, 40, by_length=1.0, gap=0.5)
    found = adjusted_shift(data, reference, one, two)
    design = np.column_stack([np.ones(70), np.r_[np.ones(30), np.zeros(40)], np.vstack([one, two])])
    scores = np.r_[data, reference] / reference.std(ddof=1)
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ scores
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    residual = (scores - design @ slopes) / (1 - leverage)
    error = np.sqrt((inverse @ (design.T * residual**2) @ design @ inverse)[1, 1])
    assert found.remaining is not None and found.remaining.mean == pytest.approx(slopes[1])
    assert found.remaining.high - slopes[1] == pytest.approx(stats.t.ppf(0.975, 65) * error)


def test_constant_and_collinear_covariates_are_left_out() -> None:
    rng = np.random.default_rng(0)
    data, reference, one, two = groups(rng, by_length=1.0)
    plain = adjusted_shift(data, reference, one[:, :1], two[:, :1], ["length"])
    odd: list[Any] = [
        np.column_stack([np.full(len(c), 0.1), c[:, 0], 3 * c[:, 0] + 1, np.zeros(len(c))]) for c in (one, two)
    ]
    found = adjusted_shift(data, reference, odd[0], odd[1], ["constant", "length", "again", "zero"])
    assert found.used == ("length",) and found.remaining is not None and plain.remaining is not None
    assert found.remaining.mean == pytest.approx(plain.remaining.mean)
    nothing = adjusted_shift(data, reference, odd[0][:, :1], odd[1][:, :1], ["constant"])
    assert nothing.used == () and nothing.remaining == nothing.raw and nothing.explained in (0, None)


def test_covariates_that_tell_the_groups_apart_leave_nothing_to_compare() -> None:
    rng = np.random.default_rng(0)
    found = adjusted_shift(
        rng.normal(1, 1, 50), rng.normal(0, 1, 50), np.ones((50, 1)), np.zeros((50, 1)), ["refusing"]
    )
    assert found.remaining is None and found.explained is None and found.used == ("refusing",)


def test_adjustment_refuses_what_makes_no_sense() -> None:
    ones = np.ones((3, 1))
    for arguments in (
        ([1, 2, 3], [1, 1, 1], ones, ones, ["a"]),
        ([1, 2, 3], [1, 2], ones, ones, ["a"]),
        ([1, 2, 3], [1, 2, 4], ones, ones, ["a", "b"]),
        ([1, 2, 3], [1, 2, np.nan], ones, ones, ["a"]),
        ([1, 2, 3], [1, 2, 4], ones, np.full((3, 1), np.inf), ["a"]),
        ([1], [1, 2, 4], ones[:1], ones, ["a"]),
    ):
        with pytest.raises(ValueError):
            adjusted_shift(*arguments)


@pytest.mark.parametrize(("n", "m", "gap", "spread"), [(20, 20, 0.5, 1.0), (500, 50, 0.5, 0.5), (40, 40, 3.0, 1.0)])
def test_intervals_of_the_auc_hold(n: int, m: int, gap: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    truth, held, null = float(stats.norm.cdf(gap / np.sqrt(1 + spread**2))), 0, np.arange(4.0)[:, None]
    for _ in range(REPEATS):
        found = separation(rng.normal(gap, spread, n), rng.standard_normal(m), null, null).auc
        held += found.low <= truth <= found.high
    assert held >= FEWEST


def test_intervals_count_prompts() -> None:
    """20 prompts x 5 answers against 96 clean samples: counted as 100 samples the intervals hold in 83 % of cases."""
    repeats, held, null = 400, np.zeros((2, 2)), np.arange(4.0)[:, None]
    truth = float(stats.norm.cdf(0.5 / np.sqrt(2 + 1.44)))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        of = np.repeat(np.arange(20), 5)
        data = 0.5 + rng.standard_normal(20)[of] + rng.standard_normal(100)
        clean = 1.2 * rng.standard_normal(96)
        lengths = rng.standard_normal((100, 1)), rng.standard_normal((96, 1))
        for at, prompts in enumerate((None, (of, np.arange(96)))):
            shift = adjusted_shift(data, clean, *lengths, ["length"], prompts).remaining
            area = separation(data, clean, null, null, prompts).auc
            assert shift is not None
            held[0, at] += shift.low <= 0.5 / clean.std(ddof=1) <= shift.high
            held[1, at] += area.low <= truth <= area.high
    assert (held[:, 0] < 0.9 * repeats).all()
    assert (held[:, 1] >= stats.binom.ppf(1e-3, repeats, 0.95)).all()


def test_leaving_out_prompts_is_leaving_out_samples_where_each_has_its_own() -> None:
    given = groups(np.random.default_rng(1), 30, 40, by_length=1.0, gap=0.5)
    assert adjusted_shift(*given, prompts=(np.arange(30), np.arange(40))) == adjusted_shift(*given)
    alone = adjusted_shift(*given, prompts=(np.zeros(30), np.arange(40))).raw
    assert alone.low == -np.inf and alone.high == np.inf


def test_separation_stands_beside_its_nulls() -> None:
    rng = np.random.default_rng(0)
    data, reference = rng.normal(2, 1, 200), rng.standard_normal(200)
    null = rng.standard_normal((100, 50)) - np.linspace(0, 1, 50), rng.standard_normal((80, 50))
    found = separation(data, reference, *null)
    assert found.auc.mean == pytest.approx(auc(data, reference))
    assert found.place.p_value == pytest.approx(1 / 51) and found.null.n == 50
    assert 0.5 < found.null.mean < found.null.p95 <= found.null.max < found.auc.mean
    other_way = separation(-data, -reference, *null)
    assert other_way.place == found.place and other_way.auc.mean == pytest.approx(1 - found.auc.mean)


@pytest.mark.parametrize("sides", [([2.0, 3.0, 4.0], [0.0, 1.0]), ([0.0, 1.0], [2.0, 3.0]), ([1.0], [1.0])])
def test_a_perfect_separation_is_not_certain(sides: tuple[list[float], list[float]]) -> None:
    null = np.arange(6.0)[:, None]
    found = separation(*sides, null, null).auc
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.3


SURE = Estimate(1.2, 1.1, 1.3, 1000)
RARE, COMMON = Place(99.5, 0.01, 0.8, 200), Place(70.0, 0.3, 2.0, 200)


def adjusted(mean: float, low: float, high: float) -> Adjusted:
    return Adjusted(SURE, Estimate(mean, low, high, 1000), 1 - mean / 1.2, ("answer length", "refusing"))


def rivals(own: float = 1.2, half: float = 0.1, **shifts: float) -> dict[str, Rival]:
    """Whose leads are known to `half`."""
    leads = {name: abs(own) - abs(shift) for name, shift in shifts.items()}
    return {name: Rival(shifts[name], Estimate(lead, lead - half, lead + half, 96)) for name, lead in leads.items()}


def test_a_claim_is_what_survives_the_nulls() -> None:
    found = explanation("evil", SURE, RARE, rivals(humorous=0.4), adjusted(1.0, 0.8, 1.2))
    assert found.specific and found.sentences[0] == (
        "The data differ from the reference in 'evil': more than along nearly all random directions and more than "
        "along any other trait's vector."
    )
    text = " ".join(found.sentences)
    assert "1.20 deviations of the reference above its mean (95 % interval 1.10 to 1.30, 1000 samples)" in text
    assert "99 % of 200 random directions (p = 0.010)" in text
    assert "humorous +0.40" in text and "explain 17 % of it" in text
    assert explanation("evil", SURE, RARE).specific
    assert not explanation("evil", Estimate(np.nan, np.nan, np.nan, 2), RARE).specific


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            explanation("evil", Estimate(0.1, -0.1, 0.3, 9), COMMON),
            "not certain that the data differ from the reference along 'evil'",
        ),
        (explanation("evil", SURE, COMMON), "but not surely in 'evil' more than in random directions."),
        (
            explanation("evil", SURE, RARE, rivals(rude=-1.3, apathetic=0.1)),
            "but not surely in 'evil' more than in 'rude'.",
        ),
        (
            explanation("evil", SURE, COMMON, rivals(rude=2.0, apathetic=1.2)),
            "not surely in 'evil' more than in random directions, 'rude' and 'apathetic'.",
        ),
        (
            explanation("evil", SURE, RARE, {}, adjusted(0.1, -0.1, 0.3)),
            "but answer length and refusing can explain what differs along 'evil'.",
        ),
        (explanation("evil", SURE, RARE, {}, adjusted(-0.5, -0.7, -0.3)), "can explain what differs"),
        (
            explanation("evil", SURE, RARE, {}, Adjusted(SURE, None, None, ("refusing",))),
            "but refusing may be all of it.",
        ),
        (
            explanation("evil", SURE, COMMON, {}, adjusted(0.1, -0.1, 0.3)),
            "random directions, and answer length and refusing can explain",
        ),
    ],
)
def test_what_the_nulls_explain_is_no_claim(found: Explanation, words: str) -> None:
    assert not found.specific and words in found.sentences[0]


def test_rivals_are_beaten_by_the_interval_of_the_difference() -> None:
    assert explanation("evil", SURE, RARE, rivals(own=1.6, rude=1.4), own=1.6).specific
    assert not explanation("evil", SURE, RARE, rivals(own=0.4, rude=0.5), own=0.4).specific
    close = explanation("evil", SURE, RARE, rivals(own=1.6, half=0.3, rude=1.4), own=1.6)
    assert not close.specific and "not surely in 'evil' more than in 'rude'" in close.sentences[0]
    assert "'evil' +1.60" in " ".join(close.sentences)
    assert "rude +1.40 (less by 0.20 [-0.10, 0.50])" in " ".join(close.sentences)


def test_random_directions_are_beaten_after_correction() -> None:
    assert explanation("evil", SURE, RARE, corrected=Corrected(0.05, 5)).specific
    found = explanation("evil", SURE, RARE, corrected=Corrected(0.06, 6))
    assert not found.specific and "0.060 by Holm's correction over 6 traits" in " ".join(found.sentences)


def test_no_share_is_named_where_there_is_none() -> None:
    hidden = Adjusted(SURE, Estimate(2.0, 1.8, 2.2, 1000), 1 - 2 / 1.2, ("answer length",))
    assert "they explain none of it" in " ".join(explanation("evil", SURE, RARE, {}, hidden).sentences)
    unsure = Adjusted(SURE, Estimate(2.0, 1.8, 2.2, 1000), None, ("answer length",))
    assert "explain" not in " ".join(explanation("evil", SURE, RARE, {}, unsure).sentences)
    below = explanation("evil", Estimate(-1.2, -1.3, -1.1, 9), RARE)
    assert "1.20 deviations of the reference below its mean (95 % interval 1.10 to 1.30" in below.sentences[1]
    both = explanation("evil", Estimate(-0.1, -0.3, 0.1, 9), RARE)
    assert "0.10 deviations of the reference below its mean (95 % interval -0.10 to 0.30" in both.sentences[1]
