"""Is it this trait's direction, or any? Cosines and cross-effects with the other traits of the same model."""

from collections.abc import Sequence
from dataclasses import replace

from personavec.errors import UserError
from personavec.extraction.effects import effect
from personavec.extraction.result import Specificity
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.rollouts import Rollout
from personavec.stats.estimate import Estimate
from personavec.vector import PersonaVector, cosine

QUESTIONS = 8  # of the dose-response that other traits' judges also score


def cross_effects(
    model: ChatModel, dose: Sequence[Rollout], coefficient: float, others: Sequence[PersonaVector], seed: int
) -> dict[str, Estimate]:
    """How far steering by one vector moves the scores of other traits, by trait.

    The answers at plus and minus `coefficient` to a few evaluation questions are scored by each other trait's judge;
    a trait whose vector carries none is left out.
    """
    answers = [r for r in dose if r.coefficient in (-coefficient, coefficient)]
    chosen = sorted({r.question_index for r in answers})[:QUESTIONS]
    answers = [r for r in answers if r.question_index in chosen]
    effects = {}
    with progress("Scoring by the other traits", total=len(others), unit="traits") as job:
        for other in others:
            try:
                judge = judge_of(model, other)
            except UserError:
                continue
            copies = [replace(r, pair=None, side=None) for r in answers]
            judge.score(copies)
            effects[other.trait] = effect(copies, coefficient, seed).rounded()
            job.advance()
    return effects


def matrix(vectors: Sequence[PersonaVector], layer: int | None = None) -> Specificity:
    """Cosines between vectors of one model, and what is known of their cross-effects.

    A vector that is read along another direction than it is steered by stands for two.

    Args:
        layer: Where the cosines are taken; None: each pair at the layer of the vector in the row.
    """
    if len({v.model.get("weights") for v in vectors}) > 1:
        raise UserError("The vectors belong to models with different weights.", "Compare vectors of one model.")
    named = [pair for vector in vectors for pair in _directions(vector)]
    return Specificity(
        vectors=tuple(name for name, _ in named),
        cosine=tuple(tuple(cosine(a, b, layer or a.layer) for _, b in named) for _, a in named),
        effect=tuple(tuple(_effect_on(a, b.trait) for _, b in named) for _, a in named),
    )


def _directions(vector: PersonaVector) -> list[tuple[str, PersonaVector]]:
    """The one of a vector, or the two, with their names."""
    if vector.read is None:
        return [(vector.trait, vector)]
    return [(f"{vector.trait} (read)", vector.reading), (f"{vector.trait} (steer)", vector.steering)]


def _effect_on(vector: PersonaVector, trait: str) -> Estimate | None:
    """What the vector's file knows of the effect of steering by it on a trait's score."""
    if trait != vector.trait:
        return (vector.info.cross_effects or {}).get(trait)
    return vector.info.steering.effect if vector.info.steering is not None else None
