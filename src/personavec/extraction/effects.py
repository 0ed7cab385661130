"""Figures over steered rollouts: dose-response, effect of a coefficient, and its null."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from personavec.errors import UserError
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate

_ADVICE = "It refused, or named no number: look at the answers in rollouts.jsonl, or choose another judge."


def estimate(rollouts: Sequence[Rollout], what: str, seed: int = 0) -> Estimate:
    """Mean score or coherence with its interval, bootstrapped over questions. Rollouts without one are left out.

    Raises:
        UserError: No rollout has one.
    """
    chosen = [(v, r.question_index) for r in rollouts if (v := getattr(r, what)) is not None]
    if not chosen:
        raise UserError(f"The judge gave no {what} to any of {len(rollouts)} answers.", _ADVICE)
    return bootstrap_mean([v for v, _ in chosen], [q for _, q in chosen], seed=seed)


def dose_response(rollouts: Sequence[Rollout], seed: int) -> list[dict[str, Any]]:
    """Score and coherence at every coefficient. Coherence counts every answer, the score those that have one."""
    curve = []
    for coefficient in sorted({r.coefficient for r in rollouts if r.coefficient is not None}):
        mine = [r for r in rollouts if r.coefficient == coefficient]
        curve.append(
            {
                "coefficient": coefficient,
                "score": estimate(mine, "score", seed).as_dict(),
                "coherence": estimate(mine, "coherence", seed).as_dict(),
            }
        )
    return curve


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
        mine = [r for r in rollouts if r.layer == layer]
        sides = [[r.coherence or 0.0 for r in mine if r.coefficient == c] for c in (-coefficient, coefficient)]
        found = _differences(mine, coefficient)
        asked = len({r.question_index for r in mine})
        if len(found) and 2 * len(found) >= asked and min(float(np.mean(side)) for side in sides) >= coherence:
            effects[layer] = float(found.mean())
    return effects


def by_direction(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts under random directions, by the name of the direction (the setting in their id)."""
    groups: dict[str, list[Rollout]] = {}
    for r in rollouts:
        groups.setdefault(r.id.split("/")[1], []).append(r)
    return groups


def null_effects(rollouts: Sequence[Rollout], coefficient: float) -> list[float]:
    """The effect of each random direction; those that left no question to score are left out."""
    found = [_differences(mine, coefficient) for mine in by_direction(rollouts).values()]
    return [round(float(differences.mean()), 3) for differences in found if len(differences)]


def layer_sweep(rollouts: Sequence[Rollout], seed: int) -> list[dict[str, Any]]:
    """Score and coherence at every layer and coefficient of the sweep."""
    settings = sorted({(r.layer or 0, r.coefficient or 0.0) for r in rollouts})
    return [
        {
            "layer": layer,
            "coefficient": coefficient,
            "score": estimate(mine, "score", seed).as_dict(),
            "coherence": estimate(mine, "coherence", seed).as_dict(),
        }
        for layer, coefficient in settings
        if (mine := [r for r in rollouts if (r.layer, r.coefficient) == (layer, coefficient)])
    ]


def examples(rollouts: Sequence[Rollout], coefficients: Sequence[float], count: int = 3) -> list[dict[str, Any]]:
    """Answers to one question side by side; the questions whose effect is nearest the median, so typical ones."""
    _, scores = score_matrix([r for r in rollouts if r.coefficient in (min(coefficients), max(coefficients))])
    spread = np.nan_to_num(scores[:, -1] - scores[:, 0])
    typical = np.argsort(np.abs(spread - np.median(spread)))[:count]
    indices = sorted({r.question_index for r in rollouts})
    shown = []
    for i in typical:
        mine = [r for r in rollouts if r.question_index == indices[int(i)] and r.coefficient in coefficients]
        answers = [
            {"coefficient": r.coefficient, "text": r.text, "score": r.score, "coherence": r.coherence}
            for r in sorted(mine, key=lambda r: r.coefficient or 0.0)
        ]
        shown.append({"question": mine[0].question, "answers": answers})
    return shown
