"""What is done to the residual stream while the model runs: steering, ablation and capping by persona vectors."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from personavec.errors import UserError
from personavec.model.blocks import Blocks, find_blocks
from personavec.model.intervene import Intervention, Positions, Steering
from personavec.vector import PersonaVector

Layers = Literal["best", "all"] | int
# An edit of so many times the norm of the stream leaves nothing of it: bfloat16 tells apart 256 steps.
LARGEST = 1000
LARGEST_NORM = 1e6  # where the stream's own norm is not known


def steering(
    vector: PersonaVector, coefficient: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that add `coefficient` times the persona vector; warns of one at which answers are incoherent.

    Args:
        layers: "best" is the vector's own layer, a number is that layer; "all" adds the increments
            `u_l = v_l - v_(l-1)` at every layer, so that effects do not pile up (paper appendix J.3).

    Raises:
        UserError: The coefficient is not finite or so large that nothing of the stream would be left, or the layer is
            out of range.
    """
    added = additions(vector, coefficient, layers=layers, positions=positions)
    doubt = beyond_coherence(vector, coefficient, layers)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=2)
    return added


def additions(
    vector: PersonaVector, coefficient: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """What `steering` returns and raises, without its warning."""
    if not math.isfinite(coefficient):
        raise UserError(f"The coefficient {coefficient} is not a finite number.", "Choose one such as 1.5 or -1.5.")
    check_positions(positions)
    chosen = vector.increments() if layers == "all" else {(layer := _layer(vector, layers)): vector.at(layer)}
    for layer in chosen:
        _check_size(
            vector, layer, abs(coefficient) * float(vector.at(layer).norm()), f"The coefficient {coefficient:g}"
        )
    return [Intervention("add", layer, coefficient * step, positions) for layer, step in chosen.items()]


def beyond_coherence(vector: PersonaVector, coefficient: float, layers: Layers = "best") -> str | None:
    """A sentence where a coefficient lies outside of the range in which answers were measured to stay coherent.

    None too where that was not measured: an imported vector, or another layer than its own.
    """
    match vector.info.get("coherent_range"):
        case [int() | float() as low, int() | float() as high] if layers in ("best", "all", vector.layer):
            if low <= coefficient <= high:
                return None
            return (
                f"Coefficient {coefficient:+g} of {vector.trait} is outside of {low:+g} to {high:+g}, where answers "
                "were measured to stay coherent: they may be noise."
            )
    return None


def _check_size(vector: PersonaVector, layer: int, size: float, what: str) -> None:
    """Refuse an edit after which nothing of the stream would be left.

    Args:
        size: Norm of what is added to a token's state.
        what: Names it, for the message.
    """
    own = 0.0 if vector.residual_norm is None else float(vector.residual_norm[layer])
    if size <= (LARGEST * own if own else LARGEST_NORM):
        return
    times = f"{size / own:.1g} times the norm of" if own else f"a vector of norm {size:.1g} to"
    raise UserError(
        f"{what} of {vector.trait!r} adds {times} the model's own states at layer {layer}: nothing of them is left.",
        "Choose one such as 1.5 or -1.5; `personavec vectors show` tells where answers stay coherent.",
    )


def ablation(
    vector: PersonaVector, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that project the persona vector out, at its own layer, a given one, or every one."""
    check_positions(positions)
    chosen = vector.steerable_layers if layers == "all" else [_layer(vector, layers)]
    return [Intervention("ablate", layer, vector.unit(layer), positions) for layer in chosen]


def capping(
    vector: PersonaVector, ceiling: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that hold the projection of every token at or below a ceiling.

    Args:
        ceiling: In deviations of the single tokens of the model's neutral answers above their mean, so that a number
            means the same for every model; at 2, few tokens of neutral answers are touched. (Monitoring counts in
            deviations of whole answers, a figure of its own.)
        layers: "best" is the vector's own layer, a number is that layer, "all" is every layer, each with its ceiling.

    Raises:
        UserError: The ceiling is not finite or absurdly low, the layer is out of range, or the file has no statistics
            of tokens.
    """
    if not math.isfinite(ceiling):
        raise UserError(
            f"The cap {ceiling} is not a finite number.", "Choose one such as 2 (deviations above neutral)."
        )
    check_positions(positions)
    caps = []
    for layer in vector.steerable_layers if layers == "all" else [_layer(vector, layers)]:
        mean, deviation = vector.neutral(layer, of="token")
        _check_size(vector, layer, -ceiling * deviation, f"The cap {ceiling:g}")  # a high one does nothing
        caps.append(Intervention("cap", layer, vector.unit(layer), positions, ceiling=mean + ceiling * deviation))
    return caps


def _layer(vector: PersonaVector, layers: str | int) -> int:
    if layers == "best":
        return vector.layer
    if not isinstance(layers, int):
        raise UserError(f"Unknown layers {layers!r}.", "Choose best, all or a layer number.")
    return layers


def check_positions(positions: str) -> None:
    if positions not in get_args(Positions):
        raise UserError(f"Unknown positions {positions!r}.", "Choose all, prompt or response.")


# Proving the blocks runs a forward, which must not pass through an outer steering's hooks.
_known: WeakKeyDictionary[Any, Blocks] = WeakKeyDictionary()


def _blocks_of(model: Any) -> Blocks:
    if model not in _known:
        _known[model] = find_blocks(model)
    return _known[model]


@contextmanager
def intervening(model: Any, rows: Sequence[Sequence[Intervention]]) -> Iterator[Steering]:
    """Apply interventions to every forward of any transformers model (or ChatModel) inside the context.

    Args:
        rows: One list of interventions per row of the batches that will run; a single list serves every batch.

    Raises:
        UserError: A layer that the model does not have, or a direction of another width.
    """
    blocks = getattr(model, "blocks", None) or _blocks_of(model)
    state = Steering(rows)
    with blocks.watching(state.edits(), first=True):
        yield state
    if not state.fired and any(rows):
        warnings.warn("Steering was set, but no forward ran inside the context.", stacklevel=3)


@contextmanager
def steer(
    model: Any,
    vector: PersonaVector | Sequence[PersonaVector],
    coefficient: float | Sequence[float] | Sequence[Sequence[float]] = 1.0,
    *,
    layers: Layers = "best",
    positions: Positions = "response",
    other_weights: bool = False,
) -> Iterator[Steering]:
    """Steer any transformers model: `with steer(model, vector, -1.5): model.generate(...)`.

    Args:
        model: A ChatModel or any transformers causal language model.
        vector: One persona vector, or several.
        coefficient: One number for every row, or one per row of the batch. With several vectors: a sequence of such
            numbers per vector, (vectors, rows), or one number per vector given as one-element sequences.
        layers: "best", "all" (increments, paper appendix J.3) or a layer number.
        positions: Which tokens are steered; see `Intervention`.
        other_weights: See `PersonaVector.check`.

    Raises:
        UserError: A vector of another model or a coefficient that does not fit; nothing is touched then.
    """
    vectors = [vector] if not isinstance(vector, Sequence) else list(vector)
    given = [coefficient] if not isinstance(vector, Sequence) else coefficient
    if not isinstance(given, Sequence) or len(given) != len(vectors):
        raise UserError(
            f"{len(vectors)} vectors need as many coefficients.", "Give a sequence with one entry per vector."
        )
    per_vector = [[*entry] if isinstance(entry, Sequence) else [entry] for entry in given]
    count = max(map(len, per_vector))
    if any(len(entry) not in (1, count) for entry in per_vector):
        raise UserError("The vectors have coefficients for different numbers of rows.", "Give one per row for each.")
    for one in vectors:
        one.check(model, other_weights=other_weights)
    rows: list[list[Intervention]] = [[] for _ in range(count)]
    for one, entry in zip(vectors, per_vector, strict=True):
        for row, value in zip(rows, entry * count if len(entry) == 1 else entry, strict=True):
            row += additions(one, value, layers=layers, positions=positions)
            if (doubt := beyond_coherence(one, value, layers)) is not None:
                warnings.warn(doubt, stacklevel=3)  # of who opens the context
    with intervening(model, rows) as state:
        yield state
