"""What is screened along: each trait's direction, the other traits' beside it, and what was taken out of them all."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from personavec.data import Dataset
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.projection.bank import read_bank
from personavec.projection.common import common_directions, first_readable
from personavec.projection.discriminant import Discriminant, Scene, placebos
from personavec.projection.measure import readings
from personavec.projection.panel import Panel
from personavec.projection.specific import Apart, Treatment, Whitening
from personavec.vector import PersonaVector


@dataclass(frozen=True, eq=False)
class Axis:
    """One trait's direction at its layer, of length 1 as all that stand beside it.

    Attributes:
        vector: The trait's.
        direction: (d,) the vector's own, or made specific.
        rivals: Directions (d,) of other traits at this layer, by name; made specific if the trait's is.
        treatment: Makes a direction that is put in the place of the named trait's specific; None: nothing is made.
        share: Cosine of the vector with the direction: how much of it is left.
        scene: What is known at its layer, of a direction that was made of it.
        placebos: (m, d) directions of shuffled labels, treated like it; None: there are no texts for the trait.
        left_out: By each clean domain of the scene, the same made without that domain.
    """

    vector: PersonaVector
    direction: Tensor
    rivals: Mapping[str, Tensor]
    treatment: Treatment | None = None
    share: float = 1.0
    scene: Scene | None = None
    placebos: Tensor | None = None
    left_out: Mapping[str, "Axis"] = field(default_factory=dict)

    @property
    def trait(self) -> str:
        """The trait's name."""
        return self.vector.trait

    def treat(self, directions: Tensor) -> Tensor:
        """(m, d) of (m, d): every direction as the trait's own was made."""
        if self.treatment is None:
            return directions
        if isinstance(self.treatment, Discriminant):
            return self.treatment.each(directions)
        return torch.stack([self.treatment(direction, self.trait).direction for direction in directions])

    def made(self, treatment: Treatment) -> "Axis":
        """The same, treated; rivals of which nothing is left drop out."""
        direction, share = treatment(self.direction, self.trait)
        rivals: dict[str, Tensor] = {}
        for name, rival in self.rivals.items():
            with suppress(UserError):  # nothing is left of it
                rivals[name] = treatment(rival, name).direction
        return replace(self, direction=direction, rivals=rivals, treatment=treatment, share=share)


def plain_axes(vectors: Sequence[PersonaVector], others: Sequence[PersonaVector]) -> list[Axis]:
    """The vectors' own directions, and beside each the other vectors'.

    Raises:
        UserError: No vectors, or two of the same trait.
    """
    panel = Panel.of(vectors)
    return [
        Axis(vector, unit, {v.trait: v.unit(vector.layer) for v in [*vectors, *others] if v.trait != vector.trait})
        for vector, unit in zip(vectors, panel.units, strict=True)
    ]


def panel_of(axes: Sequence[Axis]) -> Panel:
    """The directions, to project on; behind them those of each layer's scene, in the order of the layers."""
    found = [(axis.trait, axis.vector.layer, axis.direction) for axis in axes]
    scenes = {axis.vector.layer: axis.scene for axis in axes if axis.scene is not None}
    for layer, scene in sorted(scenes.items()):
        found += [(f"{layer}.{k}", layer, direction) for k, direction in enumerate(scene.directions)]
    names, layers, directions = zip(*found, strict=True)
    return Panel(names, layers, torch.stack(directions))


def scene_columns(axes: Sequence[Axis]) -> dict[int, int]:
    """The first column of each layer's scene in `panel_of`."""
    at, starts = len(axes), {}
    for layer, scene in sorted({axis.vector.layer: axis.scene for axis in axes if axis.scene is not None}.items()):
        starts[layer] = at
        at += len(scene.directions)
    return starts


def specific_axes(
    engine: Engine,
    axes: Sequence[Axis],
    clean: Dataset,
    kind: Literal["span", "whiten"],
) -> list[Axis]:
    """The same made specific: without what other traits, length and refusals share, or whitened by clean answers.

    Raises:
        UserError: See `Apart` and `Whitening`.
    """
    depths = panel_of(axes).depths
    if kind == "whiten":
        tokens = [each.conversations for each in first_readable(engine, clean)[1]]
        made = dict(zip(depths, readings(engine, tokens, depths).answers.unbind(1), strict=True))
        return [axis.made(Whitening(made[axis.vector.layer])) for axis in axes]
    common = dict(zip(depths, common_directions(engine, clean, depths), strict=True))

    def treatment(axis: Axis) -> Treatment:
        return Apart({axis.trait: axis.direction, **axis.rivals}, common[axis.vector.layer])

    return [axis.made(treatment(axis)) for axis in axes]


def domain_axes(
    engine: Engine,
    axes: Sequence[Axis],
    references: Mapping[str, Dataset],
    given: frozenset[str],
    count: int,
    seed: int,
) -> list[Axis]:
    """Directions that tell a trait's texts from all else that is known, and the same without each clean domain in turn.

    Args:
        references: Further clean domains. The second half of each, and of those that come with personavec, makes no
            direction.
        given: Names of those that the user gave.
        count: Of the placebos.
        seed: Likewise.
    """
    layers = sorted({axis.vector.layer for axis in axes})
    banks = read_bank(engine, layers, references)
    scenes = {layer: Scene.of(replace(bank, given=given)) for layer, bank in banks.items()}
    fewer = {layer: {name: scene.without(name) for name in scene.bank.first} for layer, scene in scenes.items()}
    common: Mapping[int, Sequence[Tensor]] = {}
    if any(axis.trait not in scenes[axis.vector.layer].traits for axis in axes):
        clean = next(iter(references.values())).every(2)
        common = dict(zip(layers, common_directions(engine, clean, layers), strict=True))

    def made(axis: Axis, scene: Scene) -> Axis:
        if axis.trait in scene.traits:
            return text_axis(axis.vector, scene, count, seed)
        own = {axis.trait: axis.direction, **axis.rivals}
        return replace(axis.made(scene.apart(own, common[axis.vector.layer])), scene=scene)

    return [
        replace(
            made(axis, scenes[axis.vector.layer]),
            left_out={name: made(axis, scene) for name, scene in fewer[axis.vector.layer].items()},
        )
        for axis in axes
    ]


def text_axis(vector: PersonaVector, scene: Scene, count: int, seed: int) -> Axis:
    """The direction of a trait that a scene has texts for, with so many placebos; the vector gives no more than its
    name and layer."""
    found = scene.traits[vector.trait]
    unit = torch.nn.functional.normalize(vector.unit(vector.layer).float(), dim=0)
    return Axis(
        vector,
        found.direction,
        {name: other.direction for name, other in scene.traits.items() if name != vector.trait},
        found,
        float(unit @ found.direction),
        scene,
        found.each(placebos(scene.bank, vector.trait, count, seed)),
    )
