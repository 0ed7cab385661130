"""The mechanism of interventions: edits of the residual stream, laid out for a batch in which every row has its own."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model.blocks import Edit
from personavec.operations import OPERATIONS, Operation, Positions


@dataclass(frozen=True, eq=False)
class Intervention:
    """One edit of the residual stream at one layer.

    Attributes:
        operation: What is done.
        layer: 1..n_layers, the block whose output is edited.
        direction: (d,) float32. What is added, coefficient included; for all other operations a unit vector.
        positions: "response" is the last prompt token (from which the first response token is predicted) and every
            response token; "prompt" is every prompt token; "all" is both.
        bound: The highest or lowest projection allowed, for operations that take one.
    """

    operation: Operation
    layer: int
    direction: Tensor
    positions: Positions = "response"
    bound: float = math.inf

    def fingerprint(self) -> str:
        """Short hash of all that it does, so that a run knows whether it is the same."""
        parts = (self.operation.name, self.layer, self.positions, self.bound, self.direction.tolist())
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class SteeringPlan:
    """The interventions of every row of a batch, laid out per layer so that a forward only adds and multiplies.

    Args:
        rows: One list of interventions per row of the batch; a single list serves batches of any size.

    Attributes:
        phase: What the running forward holds, set by who runs it: for each of "all", "prompt" and "response" True,
            False, or a (batch, 1, 1) tensor of 0 and 1. None: read off the shape, as fits `generate`: several tokens
            are a prompt whose last one starts the response, a single token is response.
        fired: How many forwards were edited; 1 for any number of compiled ones.
    """

    def __init__(self, rows: Sequence[Sequence[Intervention]]) -> None:
        self.rows = len(rows)
        self.phase: Mapping[str, bool | Tensor] | None = None
        self.fired = 0
        self._plans: dict[int, list[_Batched]] = {}
        for layer in sorted({item.layer for row in rows for item in row}):
            self._plans[layer] = _operations([[item for item in row if item.layer == layer] for row in rows])

    def edits(self) -> dict[int, Edit]:
        """One edit per steered layer, for `Blocks.watching`."""
        return {layer: self._edit(plan) for layer, plan in self._plans.items()}

    def take(self, other: "SteeringPlan") -> None:
        """Act as one of the same layout from now on. In place, so that compiled forwards stay as they are."""
        for layer, plan in self._plans.items():
            for mine, theirs in zip(plan, other._plans[layer], strict=True):
                mine.take(theirs)

    def _edit(self, plan: list["_Batched"]) -> Edit:
        def edit(hidden: Tensor) -> Tensor:
            # What reads a number that it changes is compiled anew every time.
            self.fired = 1 if torch.compiler.is_compiling() else self.fired + 1
            if self.rows not in (1, hidden.shape[0]):
                raise UserError(
                    f"Steering is set for {self.rows} rows, but the batch has {hidden.shape[0]}.",
                    "Give one list of interventions per row (per sequence, when several are sampled for one prompt).",
                )
            for operation in plan:
                if operation.width != hidden.shape[-1]:
                    raise UserError(
                        f"A direction of width {operation.width} does not fit a model of width {hidden.shape[-1]}.",
                        "Use a vector that was extracted on this model.",
                    )
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


class _Batched:
    """One operation at one layer and one choice of positions, for all rows at once."""

    def __init__(self, operation: Operation, positions: str, directions: Tensor, bounds: Tensor) -> None:
        self.operation, self.positions, self.width = operation, positions, directions.shape[-1]
        self._directions, self._bounds = directions, bounds  # (rows, 1, d) and (rows, 1, 1); zero where a row has none

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._directions.dtype != hidden.dtype or self._directions.device != hidden.device:
            directions = self._directions.to(hidden.device, hidden.dtype)
            bounds = self._bounds.to(hidden.device, hidden.dtype)
            lost = self._bounds.isfinite().to(hidden.device) & bounds.isinf()
            if bool(lost.any()) or not bool(directions.isfinite().all()):
                raise _overflow(hidden.dtype)
            self._directions, self._bounds = directions, bounds
        edited: Tensor = self.operation.apply(hidden, self._directions, self._bounds)
        # The other dtypes reach as far as float32, from which the directions come.
        if hidden.dtype == torch.float16 and bool((edited.isinf() & hidden.isfinite()).any()):
            raise _overflow(hidden.dtype)
        return edited

    def take(self, other: "_Batched") -> None:
        """The numbers of another one of the same shape."""
        self._directions.copy_(other._directions)
        self._bounds.copy_(other._bounds)


def _overflow(dtype: torch.dtype) -> UserError:
    name = str(dtype).removeprefix("torch.")
    advice = "Choose a smaller coefficient" + (", or load the model in bfloat16 or float32." if "16" in name else ".")
    return UserError(f"The steering is too strong: the model's states exceed what {name} can hold.", advice)


def _operations(rows: Sequence[Sequence[Intervention]]) -> list[_Batched]:
    """Sums of additions first, then the other operations one after the other, wherever each of them acts."""
    widths = sorted({item.direction.shape[0] for row in rows for item in row})
    if len(widths) > 1:
        raise UserError(f"The directions have different widths {widths}.", "Use vectors of one model.")
    plan: list[_Batched] = []
    for operation, positions in product(OPERATIONS.values(), get_args(Positions)):
        chosen = [[item for item in row if (item.operation, item.positions) == (operation, positions)] for row in rows]
        if operation.sums:
            together = [chosen] if any(chosen) else []
        else:
            together = [[row[depth : depth + 1] for row in chosen] for depth in range(max(map(len, chosen)))]
        for items in together:
            directions, bounds = torch.zeros(len(rows), 1, widths[0]), torch.zeros(len(rows), 1, 1)
            for i, item in ((i, item) for i, row in enumerate(items) for item in row):
                directions[i, 0] += item.direction.float().cpu()
                bounds[i] = item.bound
            plan.append(_Batched(operation, positions, directions, bounds))
    return plan
