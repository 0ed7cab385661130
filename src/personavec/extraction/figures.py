"""What an extraction found, as figures: what steering does, how the sides separate, and their nulls."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from personavec.errors import UserError
from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.effects import NATURAL_SHARE, by_direction, effect, null_effects, steered_points
from personavec.extraction.result import Projections
from personavec.extraction.style import style_held
from personavec.info import DosePoint, Separation, SeparationNull, Steering, SteeringNull
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import auc, bootstrap_auc
from personavec.stats.nulls import null_summary, separation_nulls
from personavec.vector import PersonaVector

Sides = tuple[Tensor, Tensor]  # response means (n, n_layers + 1, d) of the positive and of the negative side


def dose_response(dose: Sequence[Rollout], norm: float, residual: float, seed: int) -> list[DosePoint]:
    """Score and coherence at every coefficient.

    Args:
        norm, residual: Of the vector, and mean norm of what it is added to.
    """
    return [DosePoint(share=point.coefficient * norm / residual, **dict(point)) for point in steered_points(dose, seed)]


def coherent_coefficients(coherence: Mapping[float, float]) -> list[float]:
    """The coefficients around 0 whose mean coherence is at least 80 % of the natural one, without a gap.

    Args:
        coherence: Its mean by coefficient; that at 0 is natural.
    """
    coherent = [0.0]
    for sign in (-1, 1):
        for coefficient in sorted((c for c in coherence if sign * c > 0), key=abs):
            if coherence[coefficient] < NATURAL_SHARE * coherence[0.0]:
                break
            coherent.append(coefficient)
    return sorted(coherent)


def steering_effect(dose: Sequence[Rollout], null: Sequence[Rollout], scale: float, seed: int) -> Steering:
    """The effect of steering beside that of chance.

    Args:
        dose: Answers to the evaluation questions at several coefficients, `scale` the largest.
        null: Answers under random directions, each at its layer, at plus and minus `scale`, to the first
            `NULL_QUESTIONS` of them.

    Raises:
        UserError: The judge scored no answer under a random direction.
    """
    effects = null_effects(null, scale)
    if not effects:
        raise UserError("The judge scored no answer under a random direction.", "Choose another judge.")
    same = effect([r for r in dose if r.question_index < NULL_QUESTIONS], scale, seed).mean
    as_strong = sum(abs(e) >= same for e in effects)
    sizes = null_summary([abs(e) for e in effects])
    arms = [r.coefficient or 0.0 for r in dose]
    return Steering(
        effect=effect(dose, scale, seed),
        effect_on_null_questions=same,
        coefficient=scale,
        null=SteeringNull(
            effects=tuple(effects),
            layers=tuple(answers[0].layer or 0 for answers in by_direction(null).values()),
            p=(1 + as_strong) / (1 + len(effects)),
            mean=sizes.mean,
            p95=sizes.p95,
            max=sizes.max,
            n=sizes.n,
        ),
        style=style_held(dose, arms, (scale, -scale), seed),
        from_plain=style_held(dose, arms, (scale, 0.0), seed),
    )


def projections(vector: PersonaVector, evaluation: Sides, neutral: Tensor) -> Projections:
    """Of unseen answers of both sides, and of neutral ones, at the vector's layer."""
    positive, negative, plain = (_along(vector, readings, vector.layer) for readings in (*evaluation, neutral))
    return Projections(positive=tuple(positive), negative=tuple(negative), neutral=tuple(plain))


def separation(
    vector: PersonaVector,
    made_of: Sequence[Rollout],
    extraction: Sides,
    rollouts: Sequence[Rollout],
    evaluation: Sides,
    seed: int,
) -> Separation:
    """How well projections tell unseen answers of the two sides apart, and how well random directions do.

    Args:
        made_of: Extraction rollouts that made the vector, of both sides.
        extraction: Their readings, of which random directions are made too, and on which these choose their layer.
        rollouts: Of both sides on unseen questions.
        evaluation: Readings of `rollouts`.
    """
    layers = list(range(1, vector.n_layers + 1))
    asked, opposite = _questions(rollouts)
    positive, negative = (_along(vector, readings, vector.layer) for readings in evaluation)
    nulls = separation_nulls(extraction, evaluation, layers, _questions(made_of), seed)
    return Separation(
        auc=bootstrap_auc(positive, negative, asked, opposite, seed),
        by_layer=tuple(float(auc(*(_along(vector, side, layer) for side in evaluation))) for layer in layers),
        null=SeparationNull(isotropic=nulls["isotropic"], shuffled=nulls["shuffled"]),
    )


def _questions(rollouts: Sequence[Rollout]) -> tuple[list[int], list[int]]:
    """Those of the positive and of the negative side."""
    positive, negative = ([r.question_index for r in rollouts if r.side == side] for side in ("positive", "negative"))
    return positive, negative


def _along(vector: PersonaVector, readings: Tensor, layer: int) -> list[float]:
    return [round(float(p), 4) for p in readings[:, layer] @ vector.unit(layer)]
