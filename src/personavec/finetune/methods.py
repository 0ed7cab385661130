"""How traits are kept from being learned: every method in one place, with what it does and what it takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from personavec.data import Sample
from personavec.errors import UserError
from personavec.finetune.instructions import instruction
from personavec.interventions import ablation, interventions
from personavec.model.edits import Intervention
from personavec.operations import ABLATE, ADD, OPERATIONS, Layers, Operation
from personavec.traits import Trait
from personavec.vector import PersonaVector


@dataclass(frozen=True)
class Method:
    """A way to keep traits from being learned.

    Attributes:
        name: As the command line spells it.
        phrase: What sentences call it.
        along_vectors: Whether it acts along vectors, which then must be named.
        example: A coefficient such as people give; None: it takes none.
        auto: Whether the coefficient can be chosen while the model is trained.
        options: Fields of `Training` beside `method` that it has a use for, of those that not every method has.
        mixes: Whether safe samples are mixed into the data.
        asks: Whether training asks for the trait by a system prompt.
    """

    name: str
    phrase: str
    along_vectors: bool = False
    example: str | None = None
    auto: bool = False
    options: frozenset[str] = frozenset()
    mixes: bool = False
    asks: bool = False

    @property
    def takes(self) -> str:
        """What the number that stands behind a vector is."""
        return "coefficient"

    def check_vectors(self, named: bool) -> None:
        """Refuse vectors, or none of them.

        Raises:
            UserError: It acts along none and some are named, or the other way round.
        """
        if named and not self.along_vectors:
            raise UserError(
                f"`method` {self.name} prevents nothing along a vector.",
                "Name it with `watch` to see its shift, or choose `method` steer.",
            )
        if self.along_vectors and not named:
            raise UserError(f"`method` {self.name} needs a vector.", "Name one with `prevent`.")

    def check_coefficients(self, coefficients: Sequence[float | str | None], layers: Layers) -> None:
        """Refuse coefficients that it does not take.

        Args:
            coefficients: Numbers, "auto", or None.

        Raises:
            UserError: One too many, none, or "auto" where that is not measured.
        """
        if self.example is None and any(one is not None for one in coefficients):
            raise UserError(f"`method` {self.name} takes no coefficient.", "Name the vector alone in `prevent`.")
        if self.example is not None and None in coefficients:
            raise UserError(f"`method` {self.name} needs a coefficient.", f"Name one in `prevent`: {self.example}.")
        if "auto" in coefficients and not self.auto:
            able = either([method.name for method in METHODS.values() if method.auto])
            raise UserError(f"auto is for `method` {able} only.", f"Name one in `prevent`: {self.example}.")
        if "auto" in coefficients and layers != "best":
            raise UserError("auto is for steering at the vector's own layer only.", "Give a number in `prevent`.")

    def doubts(self, trait: str, coefficient: float) -> list[str]:
        """What speaks against a coefficient that was given."""
        return []

    def system_prompt(self, sample: Sample, traits: Sequence[Trait], seed: int) -> str | None:
        """What goes before a training sample; None: nothing."""
        return instruction(sample, traits, seed) if self.asks else None


@dataclass(frozen=True)
class StreamMethod(Method):
    """A method that acts in training forwards; see `Prevention`."""

    along_vectors: bool = True
    penalises = False  # whether it adds to the loss instead of editing the stream

    def weights(self, vectors: Sequence[PersonaVector], coefficient: float | Sequence[float] | None) -> list[float]:
        """One number for each vector.

        Raises:
            UserError: Coefficients that do not fit the vectors, or that it does not take.
        """
        if self.example is None:
            if coefficient is not None:
                raise UserError(f"The method {self.name} takes no coefficient.", "Leave it out.")
            return [1.0] * len(vectors)
        if coefficient is None:
            raise UserError(
                f"The method {self.name} needs a coefficient.", f"Give one for each vector, such as {self.example}."
            )
        values = [float(one) for one in coefficient] if isinstance(coefficient, Sequence) else [float(coefficient)]
        if len(values) != len(vectors):
            raise UserError(f"{len(vectors)} vectors and {len(values)} coefficients.", "Give one for each vector.")
        if not all(math.isfinite(value) for value in values):
            raise UserError(f"The coefficients {values} are not all finite numbers.", "Choose numbers such as 3.")
        return values

    def interventions(
        self, vectors: Sequence[PersonaVector], weights: Sequence[float], layers: Layers
    ) -> list[Intervention]:
        """What is done to the stream, at every position."""
        raise NotImplementedError

    def directions(
        self, vectors: Sequence[PersonaVector], weights: Sequence[float], layers: Layers
    ) -> dict[int, Tensor]:
        """What acts at each layer, (k, d) in float32."""
        rows = _by_layer(self.interventions(vectors, weights, layers))
        return {layer: torch.stack(some) for layer, some in rows.items()}


@dataclass(frozen=True)
class OperationMethod(StreamMethod):
    """An operation of `operations.OPERATIONS` that acts while the model learns as it does at inference.

    Attributes:
        operation: Which.
    """

    operation: Operation = ADD

    @property
    def takes(self) -> str:
        """See `Operation`."""
        return self.operation.takes

    @classmethod
    def of(
        cls, operation: Operation, phrase: str | None = None, example: str | None = None, *, auto: bool = False
    ) -> Self:
        """The method that bears the operation's name."""
        return cls(
            operation.option,
            phrase or f"the {operation.name} in training",
            example=None if operation.takes == "nothing" else example or operation.example,
            auto=auto,
            options=frozenset({"layers", "positions"}),
            operation=operation,
        )

    def interventions(
        self, vectors: Sequence[PersonaVector], weights: Sequence[float], layers: Layers
    ) -> list[Intervention]:
        """One vector after the other, or the sum at each layer."""
        items = []
        for vector, weight in zip(vectors, weights, strict=True):
            number = None if self.example is None else weight
            items += interventions(self.operation, vector, number, layers=layers, positions="all")
        if not self.operation.sums:
            return items
        rows = _by_layer(items)
        return [Intervention(self.operation, layer, torch.stack(some).sum(0), "all") for layer, some in rows.items()]


class Steer(OperationMethod):
    """Preventative steering (paper, section 5.2): `h_l <- h_l + alpha v_l`."""

    def doubts(self, trait: str, coefficient: float) -> list[str]:
        """At zero it does nothing, below the opposite."""
        if coefficient == 0:
            return [f"A coefficient of 0 does not prevent {trait}."]
        if coefficient > 0:
            return []
        return [
            f"A coefficient of {coefficient:g} steers away from {trait} in training, and the weights have to make up "
            "for that with more of it. To prevent a trait, steer toward it; negative coefficients are for `steer`, at "
            "inference."
        ]


class Ablate(OperationMethod):
    """CAFT (paper, appendix J): `h_l <- h_l - (h_l . v^_l) v^_l`."""

    def interventions(
        self, vectors: Sequence[PersonaVector], weights: Sequence[float], layers: Layers
    ) -> list[Intervention]:
        """Of several vectors the span is projected out."""
        rows = _by_layer(super().interventions(vectors, weights, layers))
        bases = {layer: torch.linalg.qr(torch.stack(some).T)[0].T.contiguous() for layer, some in rows.items()}
        return [Intervention(self.operation, layer, row, "all") for layer, basis in bases.items() for row in basis]


class Regularise(StreamMethod):
    """A penalty on the change of the projection; see `Prevention`."""

    penalises = True

    def weights(self, vectors: Sequence[PersonaVector], coefficient: float | Sequence[float] | None) -> list[float]:
        """None below 0."""
        values = super().weights(vectors, coefficient)
        if min(values) < 0:
            raise UserError(f"A weight of {min(values)} rewards the change of the projection.", "Choose one above 0.")
        return values

    def doubts(self, trait: str, coefficient: float) -> list[str]:
        """At zero it does nothing."""
        return [f"A coefficient of 0 does not prevent {trait}."] if coefficient == 0 else []

    def directions(
        self, vectors: Sequence[PersonaVector], weights: Sequence[float], layers: Layers
    ) -> dict[int, Tensor]:
        """Rows whose squared scalar products with the change of the stream make up the penalty."""
        rows: dict[int, list[Tensor]] = {}
        for vector, weight in zip(vectors, weights, strict=True):
            items = ablation(vector, layers=layers, positions="all")
            for item in items:
                per_vector = _plain(item) / vector.at(item.layer).norm()
                rows.setdefault(item.layer, []).append(per_vector * math.sqrt(weight / len(items)))
        return {layer: torch.stack(some) for layer, some in rows.items()}


def _by_layer(items: Sequence[Intervention]) -> dict[int, list[Tensor]]:
    rows: dict[int, list[Tensor]] = {}
    for item in items:
        rows.setdefault(item.layer, []).append(_plain(item))
    return rows


def _plain(item: Intervention) -> Tensor:
    return item.direction.detach().float().cpu()


OWN = {
    method.name: method
    for method in (
        Steer.of(ADD, "preventative steering", "3", auto=True),
        Ablate.of(ABLATE, "ablation"),
    )
}
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        *OWN.values(),
        *(OperationMethod.of(one) for one in OPERATIONS.values() if one.trains and one.option not in OWN),
        Regularise("regularise", "a penalty on the projection", example="0.1", options=frozenset({"layers"})),
        Method("prompt", "preventative prompting", along_vectors=True, asks=True),
        Method("interleave", "mixing safe data in", mixes=True, options=frozenset({"safe_share"})),
        Method("none", "no prevention"),
    )
}


def stream_method(name: str) -> StreamMethod:
    """A method that acts in training forwards, by its name.

    Raises:
        UserError: There is none of this name.
    """
    method = METHODS.get(name)
    if not isinstance(method, StreamMethod):
        able = [one.name for one in METHODS.values() if isinstance(one, StreamMethod)]
        raise UserError(f"Unknown method {name!r}.", f"Choose {either(able)}.")
    return method


def either(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "steer, ablate or regularise"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
