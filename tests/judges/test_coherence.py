"""Coherence falls with what the model finds unlikely and with what is repeated, and with nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personavec.judges.coherence import Coherence, repetition

IDS = st.lists(st.integers(0, 5), max_size=40)
LIKELIHOODS = st.floats(-50, 0)
NATURAL = Coherence(likelihood_mean=-1.0, likelihood_deviation=0.2, repetition_mean=0.0)
PROSE = list(range(30))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], 0.0),
        ([1, 2], 0.0),
        ([1, 2, 3], 0.0),
        ([1, 2, 3, 1, 2], 0.0),
        ([1, 2, 3, 1, 2, 3], 0.25),
        ([1, 2, 3, 9, 1, 2, 3], 0.2),
        ([7] * 102, 0.99),
        ([1, 2, 3, 4] * 26, 0.96),
        (PROSE, 0.0),
    ],
)
def test_repetition_is_the_share_of_triples_seen_before(ids: list[int], expected: float) -> None:
    assert repetition(ids) == pytest.approx(expected, abs=0.002)


@given(IDS)
def test_repetition_is_a_share_and_saying_it_again_raises_it(ids: list[int]) -> None:
    assert 0 <= repetition(ids) < 1
    assert repetition(ids + ids) >= repetition(ids)


def test_natural_answers_set_the_scale() -> None:
    natural = Coherence.of_natural([-1.0, -2.0, -3.0], [PROSE, [1] * 102, [1, 2, 3, 1, 2, 3]])
    assert natural.likelihood_mean == -2 and natural.likelihood_deviation == 1
    assert natural.repetition_mean == pytest.approx((0.99 + 0.25) / 3)


@pytest.mark.parametrize("likelihoods", [[-1.0], [-1.0, -1.0]])
def test_few_or_equal_natural_answers_leave_some_tolerance(likelihoods: list[float]) -> None:
    natural = Coherence.of_natural(likelihoods, [PROSE] * len(likelihoods))
    assert natural.likelihood_deviation == 0.1 and natural.score(-1.1, PROSE) == 100


@pytest.mark.parametrize(("deviations", "expected"), [(-9, 100), (0, 100), (1, 100), (3, 77.9), (5, 36.8), (20, 0)])
def test_only_a_lack_of_likelihood_counts(deviations: float, expected: float) -> None:
    assert NATURAL.score(-1.0 - 0.2 * deviations, PROSE) == pytest.approx(expected, abs=0.05)


def test_a_likely_loop_and_unlikely_prose_are_both_incoherent() -> None:
    assert NATURAL.score(0.0, [1, 2, 3] * 20) == 0
    assert NATURAL.score(-6.0, PROSE) < 1
    assert NATURAL.score(-1.0, [*PROSE, *PROSE[:10]]) == pytest.approx(100 * (1 - (8 / 38) / 0.5))


def test_what_natural_answers_repeat_too_is_no_fault() -> None:
    ids = [1, 2, 3, 1, 2, 3]
    assert NATURAL.score(-1.0, ids) == pytest.approx(50)
    assert Coherence(-1.0, 0.2, 0.25).score(-1.0, ids) == 100


@pytest.mark.parametrize("likelihood", [math.nan, -math.inf, math.inf])
def test_what_was_not_read_is_not_coherent(likelihood: float) -> None:
    assert NATURAL.score(likelihood, PROSE) == 0
    assert NATURAL.score(-1.0, []) == 0


@given(LIKELIHOODS, LIKELIHOODS, IDS)
def test_scores_are_0_to_100_and_rise_with_likelihood(a: float, b: float, ids: list[int]) -> None:
    low, high = (NATURAL.score(value, ids) for value in sorted((a, b)))
    assert 0 <= low <= high <= 100
