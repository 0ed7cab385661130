"""Is it this trait's direction, or any? Cosines and cross-effects with the other traits of the same model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from personavec.effects import effect
from personavec.errors import UserError
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.rollouts import Rollout
from personavec.statistics import Estimate
from personavec.vector import PersonaVector, cosine

QUESTIONS = 8  # of the dose-response that other traits' judges also score


def siblings(folder: Path, vector: PersonaVector) -> list[PersonaVector]:
    """The other traits' vectors of the same model in the runs beside this one, by name."""
    found: dict[str, PersonaVector] = {}
    for path in sorted(folder.resolve().parent.glob("*/vector.safetensors")):
        if path.parent == folder.resolve():
            continue
        try:
            other = PersonaVector.load(path)
        except UserError:
            continue
        alike = other.model.get("weights") == vector.model.get("weights") and not other.normed_last_row
        if alike and other.directions.shape == vector.directions.shape and other.trait != vector.trait:
            found.setdefault(other.trait, other)
    return [found[name] for name in sorted(found)]


def cross_effects(
    model: ChatModel, dose: Sequence[Rollout], coefficient: float, others: Sequence[PersonaVector], seed: int
) -> dict[str, dict[str, float | int]]:
    """How far steering by one vector moves the scores of other traits: {trait: effect with interval}.

    The answers at plus and minus `coefficient` to a few evaluation questions are scored by each other trait's judge.
    """
    answers = [r for r in dose if r.coefficient in (-coefficient, coefficient)]
    chosen = sorted({r.question_index for r in answers})[:QUESTIONS]
    answers = [r for r in answers if r.question_index in chosen]
    result = {}
    with progress("Scoring by the other traits", total=len(others), unit="traits") as job:
        for other in others:
            try:
                judge = judge_of(model, other)
            except UserError:
                continue
            copies = [replace(r, pair=None, side=None) for r in answers]
            judge.score(copies)
            result[other.trait] = effect(copies, coefficient, seed).as_dict()
            job.advance()
    return result


def matrix(vectors: Sequence[PersonaVector], layer: int | None = None) -> dict[str, Any]:
    """Cosines between vectors of one model, and what is known of their cross-effects.

    Args:
        layer: Where the cosines are taken; None: each pair at the layer of the vector in the row.

    Returns:
        {"vectors": names (rows), "scores": names (columns), "cosine": rows x rows, "effect": rows x columns: score at
        plus minus score at minus the sweep's coefficient, "interval": its 95 % interval, "n": its number of questions;
        None where it was not measured}.
    """
    if len({v.model.get("weights") for v in vectors}) > 1:
        raise UserError("The vectors belong to models with different weights.", "Compare vectors of one model.")
    names = [v.trait for v in vectors]
    cells = [[_effect_on(v, name) for name in names] for v in vectors]
    return {
        "vectors": names,
        "scores": names,
        "cosine": [[round(cosine(a, b, layer or a.layer), 4) for b in vectors] for a in vectors],
        "effect": [[e and e.mean for e in row] for row in cells],
        "interval": [[e and [e.low, e.high] for e in row] for row in cells],
        "n": [[e and e.n for e in row] for row in cells],
    }


def _effect_on(vector: PersonaVector, trait: str) -> Estimate | None:
    """What the vector's file knows of the effect of steering by it on a trait's score."""
    info = vector.info
    try:
        known = info["steering"]["effect"] if trait == vector.trait else info["cross_effects"][trait]
        found = Estimate(float(known["mean"]), float(known["low"]), float(known["high"]), int(known["n"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if all(map(math.isfinite, (found.mean, found.low, found.high))) else None
