"""What is known of the vectors that are served: what their numbers mean, how far they may be pushed, what they do."""

from typing import Any

from personavec.interventions import interventions
from personavec.model.default import BUNDLED
from personavec.operations import ADD
from personavec.ready import ready_vectors
from personavec.serving.answers import Json
from personavec.serving.persona import Cast
from personavec.serving.readings import neutral_of, rounded
from personavec.vector import PersonaVector
from personavec.watching.result import Limits

EXAMPLES = 3  # questions that were asked in an extraction to see what the vector does


def facts(cast: Cast, model: str, limits: Limits | None = None) -> Json:
    """Of all vectors, as `GET /v1/persona/vectors` has it.

    Args:
        model: What the user calls it.
        limits: That alarms are raised by.
    """
    default: dict[str, Any] = {}
    for operation, trait, number in cast.default.steps:
        default.setdefault(operation.option, {})[trait] = number
    return {
        "object": "list",
        "model": model,
        "load_as": next((one.name for one in BUNDLED.values() if one.hub_id == model), model),
        "layers": cast.layers,
        "positions": cast.positions,
        "default": default,
        "data": [{**_vector(vector, cast), **_limit(vector, limits)} for vector in cast.vectors],
    }


def _vector(vector: PersonaVector, cast: Cast) -> Json:
    info = vector.steering.info
    ready = ready_vectors().get(vector.trait)
    is_ready = ready is not None and PersonaVector.load(ready.path).identity == vector.identity
    trait: Any = info.trait or {}
    read: Any = vector.reading.info.as_stored()
    steer: Any = info.as_stored().get("steering") or {}
    return {
        "trait": vector.trait,
        "description": trait.get("description"),
        "opposite": trait.get("opposite"),
        "examples": (trait.get("evaluation_questions") or [])[:EXAMPLES],
        "ready": is_ready,
        "word": ready.word if ready is not None and is_ready else None,
        "layer": vector.reading.layer,
        "steered_at": vector.layer,
        "coherent_range": None if info.coherent_range is None else [*info.coherent_range],
        "normal": {of: neutral_of(vector.reading, of) for of in ("answer", "prompt", "token")},
        "auc": (read.get("separation") or {}).get("auc"),
        "effect": steer.get("effect"),
        "effect_at": steer.get("coefficient"),
        "chance": (steer.get("null") or {}).get("p95"),
        "push": {other.trait: _push(vector, other, cast) for other in cast.vectors},
    }


def _limit(vector: PersonaVector, limits: Limits | None) -> Json:
    """Where the highest passage of an answer raises the alarm over all traits, in the units of readings."""
    if limits is None or vector.trait not in limits.traits:
        return {}
    rule = limits.rules["during"]
    at = rule.centre[vector.trait] + rule.joint * rule.deviation[vector.trait]
    mean, deviation = neutral_of(vector.reading, "answer") or (0.0, 1.0)
    return {"alarm_at": rounded(mean + deviation * at)}


def _push(vector: PersonaVector, other: PersonaVector, cast: Cast) -> float | None:
    """How far steering by 1 times a vector moves the readings along another by itself, whatever the text.

    What is added at the layer that is read shifts the reading by its projection; what is added above it does not reach
    it. Less that, the reading of a steered answer is what the text alone would give. None: not so, since what is added
    below the layer goes through blocks first, or to prompts alone.
    """
    if cast.positions == "prompt":
        return None
    read = other.reading
    edits = interventions(ADD, vector, 1.0, layers=cast.layers, positions=cast.positions)
    if any(edit.layer < read.layer for edit in edits):
        return None
    return rounded(sum(float(edit.direction @ read.unit(read.layer)) for edit in edits if edit.layer == read.layer))
