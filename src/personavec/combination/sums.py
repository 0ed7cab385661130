"""Sums and differences of persona vectors of one model."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from personavec.errors import UserError
from personavec.info import Part, VectorInfo
from personavec.traits.trait import name_faults
from personavec.vector import POSITIONS, PersonaVector, check_one_model

LEAST_LEFT = 1e-3  # of the longest part; below it a sum of float32 directions is rounding and chance


def combine(parts: Sequence[tuple[PersonaVector, float]], name: str | None = None) -> PersonaVector:
    """The sum of vectors, each times its coefficient, at every layer.

    It is used at the layer of the first. What was measured of the parts does not hold for their sum and is left out;
    the judge's scale stays where all are vectors of the trait that the sum is called after. The statistics of neutral
    answers are those of a single part; of a sum of several they are not known. Where a part is read along another
    direction than it is steered by, the sum is too: of what each part is read along.

    Args:
        parts: Vectors of one model, and numbers.
        name: Of the sum; None: the parts' traits, with the signs of their coefficients.

    Raises:
        UserError: Nothing to sum, vectors of different models, coefficients that are 0 or not finite, parts that
            cancel, or a name that no trait may have.
    """
    if not parts:
        raise UserError("No vector was given.", "Give one or more, each with a coefficient.")
    for vector, coefficient in parts:
        if not math.isfinite(coefficient) or coefficient == 0:
            raise UserError(f"The coefficient {coefficient} of {vector.trait!r} makes no vector.", "Give 1 or -0.5.")
    check_one_model([vector for vector, _ in parts])
    name = name or _name(parts)
    for fault in name_faults(name):
        raise UserError(f"The name of the vector: {fault}.", "Give a word or two with `name`.")
    made = _sum([(vector.steering, coefficient) for vector, coefficient in parts], name)
    if all(vector.read is None for vector, _ in parts):
        return made
    return replace(made, read=_sum([(vector.reading, coefficient) for vector, coefficient in parts], name))


def _sum(parts: Sequence[tuple[PersonaVector, float]], name: str) -> PersonaVector:
    """Of vectors with one direction."""
    vectors, coefficients = [vector for vector, _ in parts], [coefficient for _, coefficient in parts]
    first = vectors[0]
    weights = torch.tensor(coefficients)
    directions = torch.einsum("p,pld->ld", weights, torch.stack([vector.directions for vector in vectors]))
    longest = max(abs(c) * float(v.at(first.layer).norm()) for v, c in parts)
    if float(directions[first.layer].norm()) <= LEAST_LEFT * longest:
        raise UserError(f"The vectors cancel each other at layer {first.layer}.", "Choose other coefficients.")
    made = PersonaVector(
        trait=name,
        directions=directions,
        layer=first.layer,
        model=first.model,
        alternatives={
            position: torch.einsum("p,pld->ld", weights, torch.stack([v.alternatives[position] for v in vectors]))
            for position in POSITIONS[1:]
            if all(position in vector.alternatives for vector in vectors)
        },
        residual_norm=next((v.residual_norm for v in vectors if v.residual_norm is not None), None),
        info=_info(parts, name),
        normed_last_row=any(vector.normed_last_row for vector in vectors),
    )
    return made if len(parts) > 1 else _with_neutral(made, first, math.copysign(1.0, coefficients[0]))


def _name(parts: Sequence[tuple[PersonaVector, float]]) -> str:
    traits = dict.fromkeys(vector.trait for vector, _ in parts)
    if len(traits) == 1:
        return next(iter(traits))
    signed = "".join(f"{'+' if coefficient > 0 else '-'}{vector.trait}" for vector, coefficient in parts)
    return signed.removeprefix("+")


def _info(parts: Sequence[tuple[PersonaVector, float]], name: str) -> VectorInfo:
    first = parts[0][0].info
    info = VectorInfo(
        personavec=version("personavec"),
        written=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        parts=tuple(
            Part(trait=v.trait, layer=v.layer, directions=v.hash, coefficient=coefficient) for v, coefficient in parts
        ),
    )
    if any(vector.trait != name for vector, _ in parts):
        return info
    known = {field: value for field in ("trait", "judge") if (value := getattr(first, field)) is not None}
    return info.model_copy(update=known)


def _with_neutral(made: PersonaVector, original: PersonaVector, sign: float) -> PersonaVector:
    """With the neutral statistics of the one vector that it is a multiple of."""
    kept: dict[str, Any] = {}
    for of in ("neutral", "neutral_prompt", "neutral_token"):
        mean = getattr(original, f"{of}_mean")
        kept[f"{of}_mean"] = None if mean is None else sign * mean
        kept[f"{of}_deviation"] = getattr(original, f"{of}_deviation")
    return replace(made, **kept)
