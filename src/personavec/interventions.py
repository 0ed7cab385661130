"""What is done to the residual stream while the model runs: the operations (steering, ablation, cap, floor) by persona
vectors."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model.blocks import Blocks, Edit, find_blocks
from personavec.model.edits import Intervention, SteeringPlan
from personavec.operations import ABLATE, ADD, CAP, FLOOR, Layers, Operation, Positions
from personavec.vector import PersonaVector

# An edit of so many times the norm of the stream leaves nothing of it: bfloat16 tells apart 256 steps.
LARGEST = 1000
LARGEST_NORM = 1e6  # where the stream's own norm is not known


def interventions(
    operation: Operation,
    vector: PersonaVector,
    number: float | None = None,
    *,
    layers: Layers = "best",
    positions: Positions = "response",
) -> list[Intervention]:
    """What an operation by a persona vector does to the stream, an edit for each layer.

    Args:
        number: The coefficient or the bound, as the operation takes it; a bound is in deviations of the single tokens
            of the model's neutral answers from their mean, so that a number means the same for every model. (Monitoring
            counts in deviations of whole answers, a figure of its own.)
        layers: "best" is the vector's own layer, a number is that layer, "all" is every layer: with a coefficient the
            increments `u_l = v_l - v_(l-1)`, so that effects do not pile up (paper appendix J.3), with a bound each
            layer's own.

    Raises:
        UserError: A number that is missing, not wanted or not finite, a layer out of range, or a bound where the
            vector's file has no statistics of tokens; a number so large that nothing of the stream would be left.
    """
    vector = vector.steering
    if (number is None) != (operation.takes == "nothing"):
        raise UserError(
            f"{operation.option} by {vector.trait} takes {'no' if operation.takes == 'nothing' else 'a'} number.",
            f"Give {operation.metavar}.",
        )
    if number is not None and not math.isfinite(number):
        raise UserError(
            f"The {operation.option} {operation.takes} {number} is not a finite number.",
            f"Choose one such as {operation.example}.",
        )
    check_positions(positions)
    if operation.takes == "coefficient":
        coefficient = number or 0.0
        steps = vector.increments() if layers == "all" else {(at := _layer(vector, layers)): vector.at(at)}
        for layer in steps:
            size = abs(coefficient) * float(vector.at(layer).norm())
            _check_size(operation, vector, layer, size, f"The coefficient {coefficient:g}")
        return [Intervention(operation, layer, coefficient * step, positions) for layer, step in steps.items()]
    items = []
    for layer in vector.steerable_layers if layers == "all" else [_layer(vector, layers)]:
        if number is None:
            items.append(Intervention(operation, layer, vector.unit(layer), positions))
        else:
            mean, deviation = vector.neutral(layer, of="token")
            # Far on its own side a bound does nothing, on the other it moves every token.
            _check_size(
                operation, vector, layer, operation.side * number * deviation, f"The {operation.option} {number:g}"
            )
            items.append(Intervention(operation, layer, vector.unit(layer), positions, mean + number * deviation))
    return items


def steering(
    vector: PersonaVector, coefficient: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that add `coefficient` times the persona vector; see `interventions`.

    Warns of a coefficient at which answers may be noise; see `noise_doubts`.
    """
    added = interventions(ADD, vector, coefficient, layers=layers, positions=positions)
    _warn(ADD, vector, coefficient, layers)
    return added


def noise_doubts(
    asked: Sequence[tuple[Operation, PersonaVector, float | None]], layers: Layers = "best", model: Any = None
) -> list[str]:
    """Sentences on what may leave nothing but noise, of edits that act together.

    A coefficient is held against the range in which answers were measured to stay coherent. Where there is none (an
    imported vector, another layer than its own, a bound) the change of the stream is held against the stream's norm.

    Args:
        asked: Operations with their vectors and numbers; coefficients of one vector are summed.
        model: Its norm is measured where a vector's file does not have it; None: then nothing is said.
    """
    together: dict[str, tuple[Operation, PersonaVector, float]] = {}
    for place, (operation, vector, number) in enumerate(asked):
        if number is not None:
            key = str(vector.identity) if operation.sums else str(place)
            together[key] = (operation, vector, number + (together[key][2] if key in together else 0.0))
    found = (
        _beyond_coherence(vector, number)
        if operation.takes == "coefficient" and _has_range(vector, layers)
        else _beyond_norm(operation, vector, number, layers, model)
        for operation, vector, number in together.values()
    )
    return [doubt for doubt in found if doubt is not None]


def _warn(operation: Operation, vector: PersonaVector, number: float, layers: Layers) -> None:
    for doubt in noise_doubts([(operation, vector, number)], layers):
        warnings.warn(doubt, stacklevel=3)  # of who asked for the edit


def _has_range(vector: PersonaVector, layers: Layers) -> bool:
    return vector.info.coherent_range is not None and layers in ("best", "all", vector.layer)


def _beyond_coherence(vector: PersonaVector, coefficient: float) -> str | None:
    assert vector.info.coherent_range is not None
    low, high = vector.info.coherent_range
    if low <= coefficient <= high:
        return None
    return (
        f"Coefficient {coefficient:+g} of {vector.trait} is outside of {low:+g} to {high:+g}, where answers were "
        "measured to stay coherent: they may be noise."
    )


def _beyond_norm(operation: Operation, vector: PersonaVector, number: float, layers: Layers, model: Any) -> str | None:
    """A coefficient or bound that changes states by more than their own norm; of a bound, neutral tokens' states."""
    if vector.residual_norm is None and model is None:
        return None
    norms = _own_norms(model) if vector.residual_norm is None else vector.residual_norm.tolist()
    times = {}
    for layer in vector.steerable_layers if layers == "all" else [_layer(vector, layers)]:
        if operation.takes == "coefficient":
            change = abs(number) * float(vector.at(layer).norm())
        else:
            change = operation.side * number * vector.neutral(layer, of="token")[1]
        times[layer] = change / norms[layer] if norms[layer] else 0.0
    most = max(times, key=lambda layer: times[layer])
    if not times[most] > 1:
        return None
    what = f"Coefficient {number:+g}" if operation.takes == "coefficient" else f"The {operation.option} {number:g}"
    return (
        f"{what} of {vector.trait} changes the model's states by {times[most]:.1f} times their own norm at layer "
        f"{most}: answers may be noise."
    )


def _check_size(operation: Operation, vector: PersonaVector, layer: int, size: float, what: str) -> None:
    """Refuse an edit after which nothing of the stream would be left.

    Args:
        size: Norm of what is added to a token's state.
        what: Names it, for the message.
    """
    own = 0.0 if vector.residual_norm is None else float(vector.residual_norm[layer])
    if size <= (LARGEST * own if own else LARGEST_NORM):
        return
    advice = "Choose one such as 1.5 or -1.5; `personavec vectors show` tells where answers stay coherent."
    if operation.takes == "bound":
        advice = f"Choose one such as {operation.example}, in deviations of the tokens of neutral answers."
    times = f"{size / own:.1g} times the norm of" if own else f"a vector of norm {size:.1g} to"
    raise UserError(
        f"{what} of {vector.trait!r} adds {times} the model's own states at layer {layer}: nothing of them is left.",
        advice,
    )


def ablation(
    vector: PersonaVector, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that project the persona vector out; see `interventions`."""
    return interventions(ABLATE, vector, layers=layers, positions=positions)


def capping(
    vector: PersonaVector, ceiling: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that hold the projection of every token at or below a ceiling; see `interventions`.

    At 2, few tokens of neutral answers are touched.
    """
    held = interventions(CAP, vector, ceiling, layers=layers, positions=positions)
    _warn(CAP, vector, ceiling, layers)
    return held


def flooring(
    vector: PersonaVector, least: float, *, layers: Layers = "best", positions: Positions = "response"
) -> list[Intervention]:
    """Interventions that hold the projection of every token at or above a floor; see `interventions`.

    At -2, few tokens of neutral answers are touched.
    """
    held = interventions(FLOOR, vector, least, layers=layers, positions=positions)
    _warn(FLOOR, vector, least, layers)
    return held


def _layer(vector: PersonaVector, layers: str | int) -> int:
    if layers == "best":
        return vector.layer
    if not isinstance(layers, int):
        raise UserError(f"Unknown layers {layers!r}.", "Choose best, all or a layer number.")
    return layers


def check_positions(positions: str) -> None:
    """Refuse a word that names no positions."""
    if positions not in get_args(Positions):
        raise UserError(f"Unknown positions {positions!r}.", "Choose all, prompt or response.")


# Proving the blocks runs a forward, which must not pass through an outer steering's hooks.
_known: WeakKeyDictionary[Any, Blocks] = WeakKeyDictionary()


def _blocks_of(model: Any) -> Blocks:
    if model not in _known:
        _known[model] = find_blocks(model)
    return _known[model]


# Mean norm of the states after each block, by model.
_measured: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()


def _own_norms(model: Any) -> list[float]:
    """Mean norm of a few tokens' states at each layer; without the first token, which is like no other."""
    inner = getattr(model, "model", model) if hasattr(model, "blocks") else model
    if inner not in _measured:
        blocks = getattr(model, "blocks", None) or _blocks_of(model)
        weight = inner.get_input_embeddings().weight
        ids = torch.linspace(0, weight.shape[0] - 1, 18).long()[1:-1]  # no words, but a sequence that any model takes
        if hasattr(model, "prompt_ids"):
            ids = torch.tensor(model.prompt_ids([{"role": "user", "content": "Tell me about a walk that you liked."}]))
        norms: dict[int, float] = {}

        def noting(layer: int) -> Edit:
            def note(hidden: Tensor) -> None:
                norms[layer] = float(hidden[0, 1:].float().norm(dim=-1).mean())

            return note

        with torch.no_grad(), blocks.unwatched(), blocks.watching({n: noting(n) for n in range(len(blocks) + 1)}):
            inner(input_ids=ids[None].to(getattr(inner, "device", weight.device)), use_cache=False)
        _measured[inner] = [norms[layer] for layer in sorted(norms)]
    return _measured[inner]


@contextmanager
def intervening(model: Any, rows: Sequence[Sequence[Intervention]]) -> Iterator[SteeringPlan]:
    """Apply interventions to every forward of any transformers model (or ChatModel) inside the context.

    Args:
        rows: One list of interventions per row of the batches that will run; a single list serves every batch.

    Raises:
        UserError: A layer that the model does not have, or a direction of another width.
    """
    with _acting(model, rows) as state:
        yield state
    _tell_if_unused(state, rows)


@contextmanager
def _acting(model: Any, rows: Sequence[Sequence[Intervention]]) -> Iterator[SteeringPlan]:
    blocks = getattr(model, "blocks", None) or _blocks_of(model)
    state = SteeringPlan(rows)
    with blocks.watching(state.edits(), first=True):
        yield state


def _tell_if_unused(state: SteeringPlan, rows: Sequence[Sequence[Intervention]]) -> None:
    if not state.fired and any(rows):
        # Behind this function and the caller, a context manager's own, is contextlib; then comes who opened it.
        warnings.warn("Steering was set, but no forward ran inside the context.", stacklevel=4)


@contextmanager
def steer(
    model: Any,
    vector: PersonaVector | Sequence[PersonaVector],
    coefficient: float | Sequence[float] | Sequence[Sequence[float]] = 1.0,
    *,
    layers: Layers = "best",
    positions: Positions = "response",
    other_weights: bool = False,
) -> Iterator[SteeringPlan]:
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
            row += interventions(ADD, one, value, layers=layers, positions=positions)
    for column in range(count):
        asked = [(ADD, one, entry[column % len(entry)]) for one, entry in zip(vectors, per_vector, strict=True)]
        for doubt in noise_doubts(asked, layers, model):
            warnings.warn(doubt, stacklevel=3)  # of who opens the context
    with _acting(model, rows) as state:
        yield state
    _tell_if_unused(state, rows)
