"""Figures over steered rollouts: dose-response, effect of a coefficient, and its null."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from personavec.errors import UserError
from personavec.extraction.result import Answer, Example
from personavec.info import SteeredPoint, SweepPoint
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate

NATURAL_SHARE = 0.8  # of the natural coherence that a coefficient must keep
_Found = TypeVar("_Found")
_ADVICE = "It refused, or named no number: look at the answers in rollouts.jsonl, or choose another judge."


def estimate(rollouts: Sequence[Rollout], what: Literal["score", "coherence"], seed: int = 0) -> Estimate:
    """Mean score or coherence with its interval, bootstrapped over questions. Rollouts without one are left out.

    Raises:
        UserError: No rollout has one.
    """
    points = [(r.score if what == "score" else r.coherence, r.question_index) for r in rollouts]
    known = [(value, question) for value, question in points if value is not None]
    if not known:
        raise UserError(f"The judge gave no {what} to any of {len(rollouts)} answers.", _ADVICE)
    return bootstrap_mean([value for value, _ in known], [question for _, question in known], seed=seed)


def known(found: Callable[[], _Found]) -> _Found | None:
    """A figure; None where a judge scored too little for it."""
    try:
        return found()
    except UserError:
        return None


def steered_points(rollouts: Sequence[Rollout], seed: int) -> list[SteeredPoint]:
    """Score and coherence at every coefficient. Coherence counts every answer, the score those that have one."""
    points = []
    for coefficient in sorted({r.coefficient for r in rollouts if r.coefficient is not None}):
        answers = [r for r in rollouts if r.coefficient == coefficient]
        score, coherence = estimate(answers, "score", seed), estimate(answers, "coherence", seed)
        points.append(SteeredPoint(coefficient=coefficient, score=score, coherence=coherence))
    return points


def layer_sweep(rollouts: Sequence[Rollout], seed: int) -> list[SweepPoint]:
    """Score and coherence at every layer and coefficient of the sweep."""
    return [
        SweepPoint(layer=layer, **dict(point))
        for layer in sorted({r.layer for r in rollouts if r.layer is not None})
        for point in steered_points([r for r in rollouts if r.layer == layer], seed)
    ]


def score_matrix(rollouts: Sequence[Rollout]) -> tuple[list[float], np.ndarray[Any, np.dtype[np.float64]]]:
    """Coefficients, and scores (questions, coefficients), NaN where there is none."""
    coefficients = sorted({r.coefficient for r in rollouts if r.coefficient is not None})
    questions = sorted({r.question_index for r in rollouts})
    scores = np.full((len(questions), len(coefficients)), np.nan)
    for r in rollouts:
        if r.score is not None and r.coefficient is not None:
            scores[questions.index(r.question_index), coefficients.index(r.coefficient)] = r.score
    return coefficients, scores


def effect(rollouts: Sequence[Rollout], coefficient: float, seed: int = 0) -> Estimate:
    """Score at plus `coefficient` minus score at minus `coefficient`, question by question."""
    known = _differences(rollouts, coefficient)
    if not len(known):
        raise UserError("The judge scored no question at both coefficients.", _ADVICE)
    return bootstrap_mean(known.tolist(), seed=seed)


def _differences(rollouts: Sequence[Rollout], coefficient: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Score at plus minus score at minus, for the questions that have both."""
    coefficients, scores = score_matrix([r for r in rollouts if abs(r.coefficient or 0.0) == coefficient])
    if len(coefficients) < 2:
        return np.empty(0)
    difference = scores[:, 1] - scores[:, 0]
    return difference[np.isfinite(difference)]


def layer_effects(rollouts: Sequence[Rollout], coefficient: float, coherence: float) -> dict[int, float]:
    """The effect at each layer of a sweep where both signs leave a mean coherence of at least `coherence`.

    A layer where less than half of the questions have a score at both signs is left out: what makes the model refuse
    does not show the trait.
    """
    effects = {}
    for layer in sorted({r.layer for r in rollouts if r.layer is not None}):
        answers = [r for r in rollouts if r.layer == layer]
        sides = [[r.coherence or 0.0 for r in answers if r.coefficient == c] for c in (-coefficient, coefficient)]
        differences = _differences(answers, coefficient)
        asked = len({r.question_index for r in answers})
        enough = len(differences) and 2 * len(differences) >= asked
        if enough and min(float(np.mean(side)) for side in sides) >= coherence:
            effects[layer] = float(differences.mean())
    return effects


def by_direction(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts under random directions, by the name of the direction: their setting."""
    groups: dict[str, list[Rollout]] = {}
    for r in rollouts:
        groups.setdefault(r.setting or "", []).append(r)
    return groups


def null_effects(rollouts: Sequence[Rollout], coefficient: float) -> list[float]:
    """The effect of each random direction; those that left no question to score are left out."""
    of_each = [_differences(answers, coefficient) for answers in by_direction(rollouts).values()]
    return [round(float(differences.mean()), 3) for differences in of_each if len(differences)]


def examples(rollouts: Sequence[Rollout], coefficients: Sequence[float], count: int = 3) -> list[Example]:
    """Answers to one question side by side; the questions whose effect is nearest the median, so typical ones."""
    _, scores = score_matrix([r for r in rollouts if r.coefficient in (min(coefficients), max(coefficients))])
    spread = np.nan_to_num(scores[:, -1] - scores[:, 0])
    typical = np.argsort(np.abs(spread - np.median(spread)))[:count]
    indices = sorted({r.question_index for r in rollouts})
    return [_example([r for r in rollouts if r.question_index == indices[int(i)]], coefficients) for i in typical]


def _example(rollouts: Sequence[Rollout], coefficients: Sequence[float]) -> Example:
    """The answers to one question at some coefficients."""
    answers = tuple(
        Answer(coefficient=coefficient, text=r.text, score=r.score, coherence=r.coherence)
        for coefficient in sorted(coefficients)
        for r in rollouts
        if r.coefficient == coefficient
    )
    return Example(question=rollouts[0].question, answers=answers)
