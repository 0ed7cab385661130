"""Figures over steered rollouts: dose-response, effect of a coefficient, and its null."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from personavec.errors import UserError
from personavec.rollouts import Rollout
from personavec.statistics import Estimate, bootstrap_mean

_ADVICE = "It refused, or named no number: look at the answers in rollouts.jsonl, or choose another judge."


def mean_of(rollouts: Sequence[Rollout], coefficient: float, what: str) -> float:
    """Mean score or coherence of the rollouts at a coefficient; 0 where none has one."""
    values = [v for r in rollouts if r.coefficient == coefficient and (v := getattr(r, what)) is not None]
    return float(np.mean(values)) if values else 0.0


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
    coefficients, scores = score_matrix(rollouts)
    difference = scores[:, coefficients.index(coefficient)] - scores[:, coefficients.index(-coefficient)]
    known = difference[np.isfinite(difference)]
    if not len(known):
        raise UserError("The judge scored no question at both coefficients.", _ADVICE)
    return bootstrap_mean(known.tolist(), seed=seed)


def null_effects(rollouts: Sequence[Rollout], coefficient: float) -> list[float]:
    """The effect of each random direction."""
    names = sorted({r.id.split("/")[1] for r in rollouts})
    return [round(effect([r for r in rollouts if r.id.split("/")[1] == n], coefficient).mean, 3) for n in names]


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
