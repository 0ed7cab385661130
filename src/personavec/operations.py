"""The ways to edit the residual stream: what each does to it, what it takes, how it prints and how it is asked for.

A further way is one more `Operation` in `OPERATIONS`: batches, the Python functions, the command line and fine-tuning
go by that table. Nothing heavy is imported here, since the command line reads it before it knows what is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Tensor = Any  # a torch.Tensor

Takes = Literal["coefficient", "bound", "nothing"]
Positions = Literal["all", "prompt", "response"]  # which tokens are edited
TrainedPositions = Literal["all", "response"]  # the same in training, where the response is what bears loss
Layers = Literal["best", "all"] | int  # "best" is the vector's own


@dataclass(frozen=True)
class Operation:
    """One way to edit the stream along a persona vector.

    Attributes:
        name: What it is called.
        option: What asks for it: a field in Python, `--option` on the command line.
        takes: "coefficient": the direction is the persona vector times a number. "bound": a unit vector and a limit of
            the projection, given in deviations of the single tokens of neutral answers from their mean. "nothing": a
            unit vector alone.
        apply: From hidden states (batch, tokens, d), directions (rows, 1, d) and bounds (rows, 1, 1) to edited hidden
            states. A direction of zeros leaves its row as it is.
        sums: Whether several in one row act as the sum of their directions; else they act one after the other.
        trains: Whether it makes sense in the forwards of a training, to keep a trait from being learned.
        words: What it does, with {trait} and {number}.
        help: A sentence for whoever looks for it.
        short: A short spelling on the command line.
        example: A number that could be asked for.
        side: Of a bound: which way it pushes the tokens that lie beyond it, 1 along the direction or -1 against it.
    """

    name: str
    option: str
    takes: Takes
    apply: Callable[[Tensor, Tensor, Tensor], Tensor]
    sums: bool
    trains: bool
    words: str
    help: str
    short: str = ""
    example: str = ""
    side: int = 0

    @property
    def metavar(self) -> str:
        """What stands behind the option on the command line."""
        return {"coefficient": "FILE=COEFFICIENT", "bound": "FILE=Z", "nothing": "FILE"}[self.takes]


def add(hidden: Tensor, delta: Tensor) -> Tensor:
    """`h + alpha v` (paper section 3.2): steering. `delta` broadcasts against `hidden` (batch, tokens, d)."""
    return hidden + delta


def ablate(hidden: Tensor, unit: Tensor) -> Tensor:
    """`h - (h . v^) v^` (CAFT, paper section 5.2): the direction is projected out."""
    return hidden - (hidden * unit).sum(-1, keepdim=True) * unit


def cap(hidden: Tensor, unit: Tensor, ceiling: float | Tensor) -> Tensor:
    """`h - max(h . v^ - ceiling, 0) v^`: the projection is held at or below `ceiling`."""
    return hidden - ((hidden * unit).sum(-1, keepdim=True) - ceiling).clamp_min(0) * unit


def floor(hidden: Tensor, unit: Tensor, least: float | Tensor) -> Tensor:
    """`h - min(h . v^ - least, 0) v^`: the projection is held at or above `least` (Lu et al. 2026)."""
    return hidden - ((hidden * unit).sum(-1, keepdim=True) - least).clamp_max(0) * unit


ADD = Operation(
    "add", "steer", "coefficient", lambda hidden, directions, _: add(hidden, directions), sums=True, trains=True,
    words="{trait} {number:+g}", help="Add a vector times a coefficient.", short="-s", example="-1.5",
)  # fmt: skip
ABLATE = Operation(
    "ablate", "ablate", "nothing", lambda hidden, directions, _: ablate(hidden, directions), sums=False, trains=True,
    words="{trait} ablated", help="Project a vector's direction out.",
)  # fmt: skip
CAP = Operation(
    "cap", "cap", "bound", cap, sums=False, trains=False,
    words="{trait} capped at {number:+g} deviations of neutral tokens",
    help="Cap each token's projection, Z deviations above neutral tokens.", example="2", side=-1,
)  # fmt: skip
FLOOR = Operation(
    "floor", "floor", "bound", floor, sums=False, trains=True,
    words="{trait} held above {number:+g} deviations of neutral tokens",
    help="Hold each token's projection at or above Z deviations from neutral tokens.", example="-1", side=1,
)  # fmt: skip
OPERATIONS = {operation.name: operation for operation in (ADD, ABLATE, CAP, FLOOR)}  # in the order in which they act
