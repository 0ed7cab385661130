"""What is done to the residual stream while the model runs: add, ablate, cap; and at which layers, positions and rows."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model.blocks import Edit, find_blocks

if TYPE_CHECKING:
    from personavec.vector import PersonaVector

Positions = Literal["all", "prompt", "response"]
Layers = Literal["best", "all"] | int


def add(hidden: Tensor, delta: Tensor) -> Tensor:
    """`h + alpha v` (paper section 3.2): steering. `delta` broadcasts against `hidden` (batch, tokens, d)."""
    return hidden + delta


def ablate(hidden: Tensor, unit: Tensor) -> Tensor:
    """`h - (h . v^) v^` (CAFT, paper section 5.2): the direction is projected out."""
    return hidden - (hidden * unit).sum(-1, keepdim=True) * unit


def cap(hidden: Tensor, unit: Tensor, ceiling: float | Tensor) -> Tensor:
    """`h - max(h . v^ - ceiling, 0) v^`: the projection is held at or below `ceiling` (after Lu et al. 2026, who hold
    another direction above a floor; that is this function on `-v^` and `-floor`)."""
    return hidden - ((hidden * unit).sum(-1, keepdim=True) - ceiling).clamp_min(0) * unit


@dataclass(frozen=True, eq=False)
class Intervention:
    """One edit of the residual stream at one layer.

    Attributes:
        kind: What is done.
        layer: 1..n_layers, the block whose output is edited.
        direction: (d,) float32. For "add" what is added, coefficient included; else a unit vector.
        positions: "response" is the last prompt token (from which the first response token is predicted) and every
            response token; "prompt" is every prompt token; "all" is both.
        ceiling: For "cap": the highest projection allowed.
    """

    kind: Literal["add", "ablate", "cap"]
    layer: int
    direction: Tensor
    positions: Positions = "all"
    ceiling: float = math.inf


def steering(
    vector: "PersonaVector", coefficient: float, *, layers: Layers = "best", positions: Positions = "all"
) -> list[Intervention]:
    """Interventions that add `coefficient` times the persona vector.

    Args:
        layers: "best" is the vector's own layer, a number is that layer; "all" adds the increments
            `u_l = v_l - v_(l-1)` at every layer, so that effects do not pile up (paper appendix J.3).

    Raises:
        UserError: The coefficient is not finite, or the layer is out of range.
    """
    if not math.isfinite(coefficient):
        raise UserError(f"The coefficient {coefficient} is not a finite number.", "Choose one such as 1.5 or -1.5.")
    check_positions(positions)
    if layers == "all":
        chosen = {layer: step for layer, step in vector.increments().items()}
    else:
        layer = vector.layer if layers == "best" else int(layers)
        chosen = {layer: vector.at(layer)}
    return [Intervention("add", layer, coefficient * step, positions) for layer, step in chosen.items()]


def ablation(vector: "PersonaVector", *, layers: Layers = "best", positions: Positions = "all") -> list[Intervention]:
    """Interventions that project the persona vector out, at its own layer, a given one, or every one."""
    check_positions(positions)
    chosen = vector.steerable_layers if layers == "all" else [vector.layer if layers == "best" else int(layers)]
    return [Intervention("ablate", layer, vector.unit(layer), positions) for layer in chosen]


def capping(vector: "PersonaVector", ceiling: float, *, positions: Positions = "all") -> list[Intervention]:
    """Interventions that hold the projection at the vector's layer at or below a ceiling.

    Args:
        ceiling: In deviations of the model's neutral answers above their mean (2 is the edge of the normal range), so
            that a number means the same for every model.
    """
    if not math.isfinite(ceiling):
        raise UserError(
            f"The cap {ceiling} is not a finite number.", "Choose one such as 2 (deviations above neutral)."
        )
    check_positions(positions)
    mean, deviation = vector.neutral(vector.layer)
    return [Intervention("cap", vector.layer, vector.unit(vector.layer), positions, ceiling=mean + ceiling * deviation)]


def check_positions(positions: str) -> None:
    if positions not in get_args(Positions):
        raise UserError(f"Unknown positions {positions!r}.", "Choose all, prompt or response.")


class Steering:
    """The interventions of every row of a batch, laid out per layer so that a forward only adds and multiplies.

    Args:
        rows: One list of interventions per row of the batch; a single list serves batches of any size.

    Attributes:
        phase: What the running forward holds, set by who runs it: for each of "all", "prompt" and "response" True,
            False, or a (batch, 1, 1) tensor of 0 and 1. None: read off the shape, as fits `generate`: several tokens are
            a prompt whose last one starts the response, a single token is response.
        fired: How many forwards were edited.
    """

    def __init__(self, rows: Sequence[Sequence[Intervention]]) -> None:
        self.rows = len(rows)
        self.phase: Mapping[str, bool | Tensor] | None = None
        self.fired = 0
        self._plans: dict[int, list[_Operation]] = {}
        for layer in sorted({item.layer for row in rows for item in row}):
            self._plans[layer] = _operations([[item for item in row if item.layer == layer] for row in rows])

    def edits(self) -> dict[int, Edit]:
        """One edit per steered layer, for `Blocks.watching`."""
        return {layer: self._edit(plan) for layer, plan in self._plans.items()}

    def _edit(self, plan: list["_Operation"]) -> Edit:
        def edit(hidden: Tensor) -> Tensor:
            self.fired += 1
            if self.rows not in (1, hidden.shape[0]):
                raise UserError(
                    f"Steering is set for {self.rows} rows, but the batch has {hidden.shape[0]}.",
                    "Give one list of interventions per row (per sequence, when several are sampled for one prompt).",
                )
            for operation in plan:
                where = self._where(operation.positions, hidden)
                if where is False:
                    continue
                edited = operation(hidden)
                hidden = edited if where is True else torch.where(where.bool(), edited, hidden)
            return hidden

        return edit

    def _where(self, positions: str, hidden: Tensor) -> bool | Tensor:
        if self.phase is not None:
            return self.phase[positions]
        tokens = hidden.shape[1]
        if positions == "all":
            return True
        if positions == "prompt":
            return tokens > 1
        if tokens == 1:
            return True
        last = torch.zeros(1, tokens, 1, dtype=torch.bool, device=hidden.device)
        last[:, -1] = True
        return last


class _Operation:
    """One kind of edit at one layer and one choice of positions, for all rows at once."""

    def __init__(self, kind: str, positions: str, directions: Tensor, ceiling: Tensor) -> None:
        self.kind, self.positions = kind, positions
        self._directions, self._ceiling = directions, ceiling  # (rows, 1, d); zero where a row has none

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._directions.dtype != hidden.dtype or self._directions.device != hidden.device:
            self._directions = self._directions.to(hidden.device, hidden.dtype)
            self._ceiling = self._ceiling.to(hidden.device, hidden.dtype)
        if self.kind == "add":
            return add(hidden, self._directions)
        if self.kind == "ablate":
            return ablate(hidden, self._directions)
        return cap(hidden, self._directions, self._ceiling)


def _operations(rows: Sequence[Sequence[Intervention]]) -> list[_Operation]:
    """Sums of additions first, then ablations and caps one after the other."""
    width = next(item.direction.shape[0] for row in rows for item in row)
    plan: list[_Operation] = []
    for positions in get_args(Positions):
        sums = torch.zeros(len(rows), 1, width)
        others: list[list[Intervention]] = []
        adds = False
        for i, row in enumerate(rows):
            mine = [item for item in row if item.positions == positions]
            for item in mine:
                if item.kind == "add":
                    sums[i, 0] += item.direction.float().cpu()
                    adds = True
            others.append([item for item in mine if item.kind != "add"])
        if adds:
            plan.append(_Operation("add", positions, sums, torch.zeros(len(rows), 1, 1)))
        for kind in ("ablate", "cap"):
            chosen = [[item for item in row if item.kind == kind] for row in others]
            for depth in range(max(map(len, chosen), default=0)):
                directions, ceiling = torch.zeros(len(rows), 1, width), torch.zeros(len(rows), 1, 1)
                for i, row in enumerate(chosen):
                    if depth < len(row):
                        directions[i, 0] = row[depth].direction.float().cpu()
                        ceiling[i] = row[depth].ceiling
                plan.append(_Operation(kind, positions, directions, ceiling))
    return plan


@contextmanager
def intervening(model: Any, rows: Sequence[Sequence[Intervention]]) -> Iterator[Steering]:
    """Apply interventions to every forward of any transformers model (or ChatModel) inside the context.

    Args:
        rows: One list of interventions per row of the batches that will run; a single list serves every batch.

    Raises:
        UserError: A layer that the model does not have, or a direction of another width.
    """
    blocks = getattr(model, "blocks", None) or find_blocks(model)
    for item in (item for row in rows for item in row):
        if not 1 <= item.layer <= len(blocks):
            raise UserError(f"Layer {item.layer} is out of range.", f"The model has layers 1 to {len(blocks)}.")
    state = Steering(rows)
    with blocks.watching(state.edits(), first=True):
        yield state
    if not state.fired and any(rows):
        warnings.warn("Steering was set, but no forward ran inside the context.", stacklevel=3)


@contextmanager
def steer(
    model: Any,
    vector: "PersonaVector | Sequence[PersonaVector]",
    coefficient: "float | Sequence[float] | Sequence[Sequence[float]]" = 1.0,
    *,
    layers: Layers = "best",
    positions: Positions = "all",
) -> Iterator[Steering]:
    """Steer any transformers model: `with steer(model, vector, -1.5): model.generate(...)`.

    Args:
        model: A ChatModel or any transformers causal language model.
        vector: One persona vector, or several.
        coefficient: One number for every row, or one per row of the batch. With several vectors: a sequence of such
            numbers per vector, (vectors, rows), or one number per vector given as one-element sequences.
        layers: "best", "all" (increments, paper appendix J.3) or a layer number.
        positions: Which tokens are steered; see `Intervention`.

    Raises:
        UserError: A vector of another model or a coefficient that does not fit; nothing is touched then.
    """
    vectors = [vector] if not isinstance(vector, Sequence) else list(vector)
    given = [coefficient] if not isinstance(vector, Sequence) else coefficient
    if not isinstance(given, Sequence) or len(given) != len(vectors):
        raise UserError(
            f"{len(vectors)} vectors need as many coefficients.", "Give a sequence with one entry per vector."
        )
    per_vector = [[float(c) for c in entry] if isinstance(entry, Sequence) else [float(entry)] for entry in given]
    count = max(map(len, per_vector))
    if any(len(entry) not in (1, count) for entry in per_vector):
        raise UserError("The vectors have coefficients for different numbers of rows.", "Give one per row for each.")
    for one in vectors:
        one.check(model)
    rows: list[list[Intervention]] = [[] for _ in range(count)]
    for one, entry in zip(vectors, per_vector, strict=True):
        for row, value in zip(rows, entry * count if len(entry) == 1 else entry, strict=True):
            row += steering(one, value, layers=layers, positions=positions)
    with intervening(model, rows) as state:
        yield state
