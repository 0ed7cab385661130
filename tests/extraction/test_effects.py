"""Figures over steered rollouts are taken question by question, and answers without a score are no zeros."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personavec.errors import UserError
from personavec.extraction.effects import (
    effect,
    estimate,
    examples,
    layer_effects,
    layer_sweep,
    null_effects,
    score_matrix,
    steered_points,
)
from personavec.extraction.result import Answer
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate

SCORES = st.floats(0, 100)


def rollout(question: int, coefficient: float | None, score: float | None, **given: Any) -> Rollout:
    given = dict[str, Any]({"coherence": 90.0, "id": f"dose/{coefficient}/{question}", "stage": "dose"}) | given
    return Rollout(
        question=f"question {question}", question_index=question, prompt_ids=[], coefficient=coefficient, score=score,
        text=f"answer {question} at {coefficient}", **given,
    )  # fmt: skip


def grid(table: list[list[float | None]], coefficients: tuple[float, ...] = (-1.0, 0.0, 1.0)) -> list[Rollout]:
    """Rollouts of a table (questions, coefficients), in the order a run makes them."""
    return [rollout(q, c, row[k]) for k, c in enumerate(coefficients) for q, row in enumerate(table)]


def test_an_estimate_is_over_questions() -> None:
    answers = [rollout(q, 1.0, s) for q, s in [(0, 10.0), (0, 20.0), (1, 90.0), (1, None), (2, 40.0)]]
    assert estimate(answers, "score", seed=3) == bootstrap_mean([10, 20, 90, 40], [0, 0, 1, 2], seed=3)
    assert estimate(answers, "score").n == 3
    assert estimate(answers, "coherence") == bootstrap_mean([90.0] * 5, [0, 0, 1, 1, 2])


def test_layer_effects_leave_out_what_is_refused_or_broken() -> None:
    def at(layer: int, minus: float | None, plus: float | None, coherence: float = 90.0) -> list[Rollout]:
        return [rollout(0, c, score, layer=layer, coherence=coherence) for c, score in ((-2.0, minus), (2.0, plus))]

    answers = [
        *at(3, 20.0, 70.0),
        *at(5, None, 95.0),  # refused at minus: 95 points would be no effect of the layer
        *at(7, 0.0, 100.0, coherence=40.0),
        *at(9, 60.0, 50.0),
        *at(11, 0.0, 100.0),
        *[rollout(q, c, None, layer=11) for q in (1, 2) for c in (-2.0, 2.0)],
    ]
    assert layer_effects(answers, 2.0, 80.0) == {3: 50.0, 9: -10.0}
    assert layer_effects(answers, 2.0, 0.0) == {3: 50.0, 7: 100.0, 9: -10.0}
    assert layer_effects(answers, 1.0, 0.0) == {}


def test_points_by_coefficient() -> None:
    answers = grid([[10.0, 50.0, 80.0], [30.0, 60.0, None]])
    answers[-1].coherence = 0.0  # broken: no score, but its coherence counts
    answers.append(rollout(0, None, 100.0))
    curve = steered_points(answers[::-1], seed=0)
    assert [point.coefficient for point in curve] == [-1, 0, 1]
    assert [(point.score.mean, point.score.n) for point in curve] == [(20, 2), (55, 2), (80, 1)]
    assert [(point.coherence.mean, point.coherence.n) for point in curve] == [(90, 2), (90, 2), (45, 2)]
    assert curve[0].score == Estimate(20.0, 10.0, 30.0, 2)


def test_the_matrix_has_gaps_where_there_is_no_score() -> None:
    answers = [a for a in grid([[1.0, 2.0, 3.0], [4.0, None, 6.0], [7.0, 8.0, 9.0]]) if a.id != "dose/-1.0/2"]
    coefficients, scores = score_matrix([*answers[::-1], rollout(0, None, 50.0)])
    assert coefficients == [-1, 0, 1]
    np.testing.assert_equal(scores, [[1, 2, 3], [4, math.nan, 6], [math.nan, 8, 9]])


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=12), st.randoms())
def test_an_effect_is_paired_by_question(scores: list[tuple[float, float]], random: Any) -> None:
    answers = grid([[low, 50.0, high] for low, high in scores])
    random.shuffle(answers)
    found = effect(answers, 1.0, seed=1)
    differences = [high - low for low, high in scores]
    assert found.mean == pytest.approx(np.mean(differences)) and found.n == len(scores)
    if found.bounded:
        assert min(differences) - 1e-9 <= found.low <= found.high <= max(differences) + 1e-9


def test_an_effect_leaves_out_questions_without_a_counterpart() -> None:
    """The hard question has no score on one side; without pairing it would pass for an effect."""
    found = effect(grid([[40.0, 0.0, 50.0], [45.0, 0.0, 55.0], [0.0, 0.0, None], [None, 0.0, 100.0]]), 1.0)
    assert (found.mean, found.bounded, found.n) == (10, False, 2)


def test_no_score_at_all_is_said_so() -> None:
    silent = grid([[None, 10.0, 20.0], [None, 10.0, 20.0]])
    with pytest.raises(UserError, match="gave no score to any of 2 answers"):
        steered_points(silent, seed=0)
    with pytest.raises(UserError, match="scored no question at both"):
        effect(silent, 1.0)


def test_null_effects_are_one_for_each_direction() -> None:
    answers = []
    for number, gain in enumerate((3.0, -4.0)):
        for coefficient in (-0.5, 0.5):
            answers += [
                rollout(
                    question, coefficient, 50 + 10 * question + gain * coefficient,
                    setting=f"random{number}", stage="null",
                )
                for question in range(3)
            ]  # fmt: skip
    assert null_effects(answers, 0.5) == [3, -4]
    silent = [rollout(0, c, None, setting="random2", stage="null") for c in (-0.5, 0.5)]
    assert null_effects([*answers, *silent], 0.5) == [3, -4]


def test_layer_sweep() -> None:
    answers = [
        rollout(question, coefficient, 10.0 * layer * (1 + coefficient) + question, layer=layer)
        for layer in (7, 3)
        for coefficient in (1.0, -1.0)
        for question in range(2)
    ]
    sweep = layer_sweep(answers, seed=0)
    assert [(point.layer, point.coefficient) for point in sweep] == [(3, -1), (3, 1), (7, -1), (7, 1)]
    assert [point.score.mean for point in sweep] == [0.5, 60.5, 0.5, 140.5]
    assert all(point.score.n == point.coherence.n == 2 for point in sweep)


def test_examples_are_typical_ones_side_by_side() -> None:
    """Questions 0 and 4 are extreme; the three shown are those whose effect is nearest the median."""
    effects = [100.0, 22.0, 20.0, 21.0, 0.0]
    shown = examples(grid([[0.0, e / 2, e] for e in effects])[::-1], (-1.0, 0.0, 1.0))
    assert {example.question for example in shown} == {"question 1", "question 2", "question 3"}
    assert shown[0].question == "question 3"
    assert shown[0].answers[2] == Answer(coefficient=1.0, text="answer 3 at 1.0", score=21.0, coherence=90.0)
    for example in shown:
        assert [answer.coefficient for answer in example.answers] == [-1, 0, 1]
    assert len(examples(grid([[0.0, 1.0, 2.0]]), (-1.0, 1.0))) == 1


def test_examples_do_not_need_a_score() -> None:
    shown = examples(grid([[None, 1.0, None], [0.0, 1.0, 2.0]]), (-1.0, 0.0, 1.0), count=2)
    assert {example.answers[0].score for example in shown} == {None, 0.0}
