"""What an extraction found, as figures for run.json: what steering does, how the sides separate, and their nulls."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from personavec.errors import UserError
from personavec.extraction.effects import (
    by_direction,
    dose_response,
    effect,
    examples,
    layer_sweep,
    null_effects,
    score_matrix,
)
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import auc, bootstrap_auc, bootstrap_spearman_by_question
from personavec.stats.nulls import null_summary, separation_nulls
from personavec.vector import PersonaVector

NATURAL_SHARE = 0.8  # of the natural coherence that a recommended coefficient must keep
NULL_QUESTIONS = 6  # evaluation questions that random directions are steered on
NULL_SWEEP_QUESTIONS = 2  # extraction questions on which each of them chooses its layer


def steering_figures(
    vector: PersonaVector,
    sweep: Sequence[Rollout],
    dose: Sequence[Rollout],
    null: Sequence[Rollout],
    scale: float,
    seed: int,
) -> dict[str, Any]:
    """Layer sweep, dose-response, coherent range and the steering effect beside its null.

    Args:
        vector: At its layer, with residual norms.
        dose: Answers to the evaluation questions at several coefficients, `scale` the largest.
        null: Answers under random directions, each at its layer, at plus and minus `scale`, to the first
            `NULL_QUESTIONS` of them.
    """
    assert vector.residual_norm is not None
    norm, residual = float(vector.at(vector.layer).norm()), float(vector.residual_norm[vector.layer])
    curve = dose_response(dose, seed)
    for point in curve:
        point["share"] = round(point["coefficient"] * norm / residual, 4)
    coherent = coherent_coefficients(curve)
    effects = null_effects(null, scale)
    if not effects:
        raise UserError("The judge scored no answer under a random direction.", "Choose another judge.")
    whole = effect(dose, scale, seed)
    same = effect([r for r in dose if r.question_index < NULL_QUESTIONS], scale, seed).mean
    as_strong = sum(abs(e) >= same for e in effects)
    return {
        "layer": vector.layer,
        "residual_norm": residual,
        "vector_norm": norm,
        "layer_sweep": layer_sweep(sweep, seed),
        "dose_response": curve,
        "coherent_range": [min(coherent), max(coherent)],
        # Nothing is recommended that does not work.
        "recommended_coefficient": max((c for c in coherent if c > 0), default=None) if whole.low > 0 else None,
        "spearman": bootstrap_spearman_by_question(*score_matrix(dose), seed=seed).as_dict(),
        "steering": {
            "effect": whole.as_dict(),
            "effect_on_null_questions": same,
            "coefficient": scale,
            "null": {
                "effects": effects,
                "layers": [mine[0].layer for mine in by_direction(null).values()],
                "p": round((1 + as_strong) / (1 + len(effects)), 4),
                **null_summary([abs(e) for e in effects]),
            },
        },
        "examples": examples(dose, (-scale, 0.0, scale)),
    }


def separation_figures(
    vector: PersonaVector,
    evaluation: Sequence[Rollout],
    at_extraction: tuple[Tensor, Tensor],
    at_evaluation: tuple[Tensor, Tensor],
    at_neutral: Tensor,
    seed: int,
) -> dict[str, Any]:
    """Projections of unseen answers, how well they tell the sides apart, and how well random directions do.

    Args:
        evaluation: Rollouts of both sides on unseen questions.
        at_extraction, at_evaluation: Response means (n, n_layers + 1, d) of the positive and of the negative side.
        at_neutral: The same of neutral answers.
    """
    layers = list(range(1, vector.n_layers + 1))
    questions = [[r.question_index for r in evaluation if r.side == side] for side in ("positive", "negative")]

    def along(readings: Tensor, layer: int) -> list[float]:
        return [round(float(p), 4) for p in readings[:, layer] @ vector.unit(layer)]

    positive, negative = (along(readings, vector.layer) for readings in at_evaluation)
    return {
        "projections": {"positive": positive, "negative": negative, "neutral": along(at_neutral, vector.layer)},
        "separation": {
            "auc": bootstrap_auc(positive, negative, questions[0], questions[1], seed).as_dict(),
            "by_layer": [round(auc(*(along(side, layer) for side in at_evaluation)), 4) for layer in layers],
            "null": separation_nulls(at_extraction, at_evaluation, layers, seed),
        },
    }


def coherent_coefficients(curve: Sequence[dict[str, Any]]) -> list[float]:
    """The coefficients around 0 whose mean coherence is at least 80 % of the natural one, without a gap."""
    natural = next(p["coherence"]["mean"] for p in curve if p["coefficient"] == 0)
    coherent = [0.0]
    for sign in (-1, 1):
        for point in sorted((p for p in curve if sign * p["coefficient"] > 0), key=lambda p: abs(p["coefficient"])):
            if point["coherence"]["mean"] < NATURAL_SHARE * natural:
                break
            coherent.append(point["coefficient"])
    return sorted(coherent)
