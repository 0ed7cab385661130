"""Steering as other engines take it: one constant for each layer, added to every token, and what is known of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from torch import Tensor

from personavec.errors import UserError
from personavec.files import cannot_write
from personavec.interventions import interventions, noise_doubts
from personavec.model.edits import Intervention
from personavec.operations import ADD, Layers
from personavec.vector import PersonaVector, check_one_model


@dataclass(frozen=True, eq=False)
class ConstantSteering:
    """What is added to the output of each block, at all positions.

    Attributes:
        parts: Vectors of one model with their coefficients; what they add is summed.
        layers: "best" is each vector's own, "all" every layer by increments, or a layer number.

    Raises:
        UserError: There is no vector, they are of different models, a coefficient or a layer is out of range, or
            nothing is left to add.
    """

    parts: Sequence[tuple[PersonaVector, float]]
    layers: Layers = "best"

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("There is no vector to export.", "Give one or more with their coefficients.")
        check_one_model([vector for vector, _ in self.parts])
        if not any(bool(delta.any()) for delta in self.added.values()):
            raise UserError("This steering adds nothing.", "Choose a `coefficient` other than 0.")

    @cached_property
    def added(self) -> Mapping[int, Tensor]:
        """`sum of c v_l` (d,) float32 by layer l, 1..n_layers."""
        sums: dict[int, Tensor] = {}
        for vector, coefficient in self.parts:
            for edit in interventions(ADD, vector, coefficient, layers=self.layers, positions="all"):
                sums[edit.layer] = edit.direction.float() + sums.get(edit.layer, 0.0)
        return dict(sorted(sums.items()))

    @property
    def edits(self) -> list[Intervention]:
        """The same as interventions."""
        return [Intervention(ADD, layer, delta, "all") for layer, delta in self.added.items()]

    @property
    def model(self) -> Mapping[str, Any]:
        """Identity of the vectors' model."""
        return self.parts[0][0].model

    @property
    def n_layers(self) -> int:
        """Of that model."""
        return self.parts[0][0].n_layers

    @property
    def name(self) -> str:
        """Traits with coefficients, such as "1.5 evil -2 humorous"."""
        return " ".join(f"{coefficient:g} {vector.trait}" for vector, coefficient in self.parts)

    def facts(self) -> str:
        """What a program can read of it, as JSON."""
        return json.dumps(
            {
                "operation": "add",
                "positions": "all",
                "hook_point": "output of a block, counted from 1",
                "layers": list(self.added),
                "n_layers": self.n_layers,
                "model": dict(self.model),
                "parts": [
                    {"trait": v.trait, "coefficient": c, "layer": v.layer, "directions": v.hash} for v, c in self.parts
                ],
            }
        )

    def sentences(self) -> list[str]:
        """What it does and what was measured of it, in words."""
        layers = ", ".join(map(str, self.added))
        said = [
            f"It adds {self.name} (coefficient and trait of each persona vector) to the output of block {layers} of "
            f"{self.n_layers}, counted from 1, at every token: the prompt is steered too.",
            f"Norm of what is added: {', '.join(f'{float(delta.norm()):.4g}' for delta in self.added.values())}.",
            f"Made for {self.model.get('id', 'an unknown model')}"
            + (f", weights {weights}." if (weights := self.model.get("weights")) else "."),
        ]
        for vector, coefficient in self.parts:
            said += _dose(vector, coefficient, self.layers)
        if len(self.parts) > 1:
            said.append("What the vectors do together was not measured.")
        return [*said, *noise_doubts([(ADD, vector, number) for vector, number in self.parts], self.layers)]


def _dose(vector: PersonaVector, coefficient: float, layers: Layers) -> list[str]:
    """What answers scored under the vector, and whether it was steered then as it is here."""
    ask = f"To measure it: `personavec evaluate` {vector.trait} with `steer` FILE={coefficient:g}, `positions` all" + (
        "." if layers == "best" else f", `layers` {layers}."
    )
    points = vector.info.dose_response
    if not points:
        return [f"What answers score under {vector.trait} was not measured. {ask}"]
    judge = "" if vector.info.judge is None else f" by {vector.info.judge.name}"
    scores = "; ".join(f"{point.coefficient:+.3g}: {point.score}" for point in points)
    positions = str((vector.info.arguments or {}).get("positions", "response"))
    found = (
        f"Trait score{judge}, 0 to 100, by coefficient of {vector.trait} [95 % interval], measured with steering at "
        f"layer {vector.layer}, {positions} positions: {scores}."
    )
    if positions == "all" and layers in ("best", vector.layer):
        return [f"{found} That is how it is steered here."]
    here = "all layers" if layers == "all" else f"layer {vector.layer if layers == 'best' else layers}"
    return [f"{found} No dose was measured at {here}, all positions, as it is steered here. {ask}"]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when the block ends well.

    Raises:
        UserError: There is something at `out`, or it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"There is something at {out} already.", "Choose another with `out`, or delete it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        made.chmod(0o755)
        try:
            yield made
            for file in made.iterdir():
                file.chmod(0o644)  # libraries keep what they write to whoever runs them
            made.replace(out)
        finally:
            rmtree(made, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error
