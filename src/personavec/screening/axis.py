"""What is screened along: each trait's direction, the other traits' beside it, and what was taken out of them all."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.projection.measure import Tokens, readings, tokenise
from personavec.projection.panel import Panel
from personavec.screening.refusal_readings import refusal_readings
from personavec.screening.specific import Apart, Specific, Whitening, length_direction, refusal_direction
from personavec.vector import PersonaVector

FOR_DIRECTIONS = 96  # clean samples from which the directions of length and refusal are taken


@dataclass(frozen=True, eq=False)
class Axis:
    """One trait's direction at its layer, of length 1 as all that stand beside it.

    Attributes:
        vector: The trait's.
        direction: (d,) the vector's own, or made specific.
        rivals: Directions (d,) of other traits at this layer, by name; made specific if the trait's is.
        treatment: Makes a direction that is put in the place of the named trait's specific; None: nothing is made.
        share: Cosine of the vector with the direction: how much of it is left.
    """

    vector: PersonaVector
    direction: Tensor
    rivals: Mapping[str, Tensor]
    treatment: Callable[[Tensor, str], Specific] | None = None
    share: float = 1.0

    @property
    def trait(self) -> str:
        """The trait's name."""
        return self.vector.trait

    def treat(self, directions: Tensor) -> Tensor:
        """(m, d) of (m, d): every direction as the trait's own was made."""
        if self.treatment is None:
            return directions
        return torch.stack([self.treatment(direction, self.trait).direction for direction in directions])

    def made(self, treatment: Callable[[Tensor, str], Specific]) -> "Axis":
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
    """The directions, to project on."""
    names, layers = (tuple(each) for each in zip(*((axis.trait, axis.vector.layer) for axis in axes), strict=True))
    return Panel(names, layers, torch.stack([axis.direction for axis in axes]))


def specific_axes(engine: Engine, axes: Sequence[Axis], clean: Dataset, kind: Literal["span", "whiten"]) -> list[Axis]:
    """The same made specific: without what other traits, length and refusals share, or whitened by clean answers.

    Raises:
        UserError: See `Apart` and `Whitening`.
    """
    samples, tokens = _first(engine, clean, FOR_DIRECTIONS)
    depths = panel_of(axes).depths
    answering = readings(engine, [each.conversations for each in tokens], depths).answers
    refusing = refusal_readings(engine, samples, depths)
    lengths = torch.tensor([each.answer_tokens for each in tokens]).log1p()

    def treatment(axis: Axis) -> Callable[[Tensor, str], Specific]:
        at = depths.index(axis.vector.layer)
        answers = answering[:, at]
        if kind == "whiten":
            return Whitening(answers)
        common = [length_direction(answers, lengths), refusal_direction(refusing[:, at], answers)]
        return Apart({axis.trait: axis.direction, **axis.rivals}, common)

    return [axis.made(treatment(axis)) for axis in axes]


def _first(engine: Engine, clean: Dataset, count: int) -> tuple[list[Sample], list[Tokens]]:
    """The first samples of a reference that the model can read."""
    samples: list[Sample] = []
    tokens: list[Tokens] = []
    for record in clean:
        with suppress(UserError):
            if isinstance(record, Sample):
                tokens.append(tokenise(engine, record, "last"))
                samples.append(record)
        if len(samples) == count:
            break
    return samples, tokens
