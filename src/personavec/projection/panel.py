"""The directions that data are projected on: the traits' own, and what they are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.vector import PersonaVector, check_one_per_trait


@dataclass(frozen=True, eq=False)
class Panel:
    """Unit directions, each at one layer.

    Attributes:
        names: k names of traits, all different.
        layers: The layer of each.
        units: (k, d) float32.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    units: Tensor

    @classmethod
    def of(cls, vectors: Sequence[PersonaVector]) -> "Panel":
        """The vectors' directions at their layers.

        Raises:
            UserError: No vectors, or two of the same trait.
        """
        if not vectors:
            raise UserError("No vector was given.", "Name at least one with `vector`.")
        names = [vector.trait for vector in vectors]
        check_one_per_trait(vectors)
        units = torch.stack([vector.unit(vector.layer) for vector in vectors]).float()
        return cls(tuple(names), tuple(vector.layer for vector in vectors), units)

    @property
    def depths(self) -> list[int]:
        """The layers that must be read, in order."""
        return sorted(set(self.layers))

    def directions(self) -> Tensor:
        """(depths, k, d), as `readout.read` takes them: zero where a direction is of another layer."""
        table = torch.zeros(len(self.depths), len(self.names), self.units.shape[1])
        for k, layer in enumerate(self.layers):
            table[self.depths.index(layer), k] = self.units[k]
        return table

    def along(self, readings: Tensor) -> Tensor:
        """Projections (..., k) of readings (..., depths, d)."""
        return torch.einsum("...ld,lkd->...k", readings, self.directions())
