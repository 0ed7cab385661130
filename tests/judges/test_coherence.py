"""Coherence falls with what the model finds unlikely and with what is repeated, and with nothing else."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personavec.errors import UserError
from personavec.judges.coherence import Coherence, repetition, stretches, worst_stretches
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from tiny import plain_states

IDS = st.lists(st.integers(0, 5), max_size=40)
LIKELIHOODS = st.floats(-50, 0)
NATURAL = Coherence(worst_mean=-1.0, worst_deviation=0.2, repetition_mean=0.0)
PROSE = list(range(30))


def said(ids: Sequence[int], prompt: Sequence[int] = (1, 2)) -> Rollout:
    return Rollout("x", "neutral", "Question?", 0, prompt_ids=list(prompt), response_ids=list(ids), text="x")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], 0.0),
        ([1], 0.0),
        ([1, 2], 0.0),
        ([1, 2, 3, 1], 0.0),
        ([1, 2, 3, 1, 2], 0.25),
        ([1, 2, 9, 1, 2, 3], 0.2),
        ([7] * 101, 0.99),
        ([1, 2, 3, 4] * 26, 0.961),
        (PROSE, 0.0),
    ],
)
def test_repetition_is_the_share_of_pairs_seen_before(ids: list[int], expected: float) -> None:
    assert repetition(ids) == pytest.approx(expected, abs=0.002)


@given(IDS)
def test_repetition_is_a_share_and_saying_it_again_raises_it(ids: list[int]) -> None:
    assert 0 <= repetition(ids) < 1
    assert repetition(ids + ids) >= repetition(ids)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (16, [16]), (23, [23]), (25, [12, 13]), (48, [16, 16, 16]), (64, [16] * 4), (70, [18, 17, 17, 18])],
)
def test_stretches_are_about_16_tokens_and_leave_none_out(length: int, expected: list[int]) -> None:
    found = stretches(length)
    assert [high - low for low, high in found] == expected
    assert [at for low, high in found for at in range(low, high)] == list(range(length))


def test_the_worst_stretch_is_read_after_the_answers_own_prompt(tiny: ChatModel) -> None:
    answers = [said([5 + at % 7 for at in range(40)], [3, 4, 5]), said([]), said([9, 8, 7])]
    found = worst_stretches(tiny, answers)
    assert math.isnan(found[1])
    for answer, value in ((answers[0], found[0]), (answers[2], found[2])):
        ids = [*answer.prompt_ids, *answer.response_ids]
        logs = torch.log_softmax(plain_states(tiny.model, tiny.model.model.layers, ids)[1], dim=-1)
        each = logs[len(answer.prompt_ids) - 1 : -1].gather(1, torch.tensor(answer.response_ids)[:, None])[:, 0]
        assert value == pytest.approx(
            min(float(part.mean()) for part in each.tensor_split(max(1, len(each) // 16))), abs=1e-4
        )


def test_natural_answers_set_the_scale() -> None:
    natural = Coherence.of_natural([-1.0, -2.0, -3.0], [said(PROSE), said([1] * 101), said([1, 2, 3, 1, 2])])
    assert natural.worst_mean == -2 and natural.worst_deviation == 1
    assert natural.repetition_mean == pytest.approx((0.99 + 0.25) / 3)
    spoken = Coherence.of_natural([-1.0, math.nan, -3.0], [said(PROSE), said([]), said(PROSE)])
    assert spoken.worst_mean == -2 and spoken.repetition_mean == 0
    with pytest.raises(UserError, match="no natural answer that could be judged"):
        Coherence.of_natural([math.nan], [said([])])


@pytest.mark.parametrize("worst", [[-1.0], [-1.0, -1.0]])
def test_few_or_equal_natural_answers_leave_some_tolerance(worst: list[float]) -> None:
    natural = Coherence.of_natural(worst, [said(PROSE)] * len(worst))
    assert natural.worst_deviation == 0.1 and natural.score(-1.1, PROSE) == 100


@pytest.mark.parametrize(("deviations", "expected"), [(-9, 100), (0, 100), (1, 100), (2.5, 77.9), (4, 36.8), (20, 0)])
def test_only_a_lack_of_likelihood_counts(deviations: float, expected: float) -> None:
    assert NATURAL.score(-1.0 - 0.2 * deviations, PROSE) == pytest.approx(expected, abs=0.05)


def test_a_likely_loop_and_unlikely_prose_are_both_incoherent() -> None:
    assert NATURAL.score(0.0, [1, 2, 3] * 20) < 0.1
    assert NATURAL.score(-6.0, PROSE) < 1
    assert NATURAL.score(-1.0, [*PROSE, *PROSE[:10]]) == pytest.approx(
        100 * math.exp(-((((9 / 39) - 0.1) / 0.25) ** 2))
    )


def test_what_natural_answers_repeat_too_is_no_fault() -> None:
    ids = [1, 2, 3, 1, 2, 3]
    assert NATURAL.score(-1.0, ids) == pytest.approx(100 * math.exp(-(((0.4 - 0.1) / 0.25) ** 2)))
    assert Coherence(-1.0, 0.2, 0.3).score(-1.0, ids) == 100


@pytest.mark.parametrize("worst", [math.nan, -math.inf, math.inf])
def test_what_was_not_read_is_not_coherent(worst: float) -> None:
    assert NATURAL.score(worst, PROSE) == 0
    assert NATURAL.score(-1.0, []) == 0


@given(LIKELIHOODS, LIKELIHOODS, IDS)
def test_scores_are_0_to_100_and_rise_with_likelihood(a: float, b: float, ids: list[int]) -> None:
    low, high = (NATURAL.score(value, ids) for value in sorted((a, b)))
    assert 0 <= low <= high <= 100
