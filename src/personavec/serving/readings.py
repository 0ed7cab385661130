"""What is read of a response while it is written: projections on persona vectors, in numbers that people can use."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import JsonValue
from torch import Tensor

from personavec.errors import UserError
from personavec.model.blocks import Edit
from personavec.monitoring.projections import WINDOW as WINDOW
from personavec.monitoring.projections import highest as highest_of
from personavec.vector import PersonaVector, reading_sides

Reading = Sequence[float]  # by vector
Condition = tuple[str, Literal["<", ">"], float]  # a trait, and the limit in z that its reading must lie above or below


class Meter:
    """Reads single tokens along persona vectors, each at its layer.

    Attributes:
        names: Of the vectors' traits.
    """

    def __init__(self, vectors: Sequence[PersonaVector]) -> None:
        self.vectors = reading_sides(vectors)
        self.names = [vector.trait for vector in self.vectors]
        self._neutral = {
            (vector.trait, of): neutral_of(vector, of) for vector in self.vectors for of in ("answer", "prompt")
        }
        layers = sorted({vector.layer for vector in self.vectors})
        self._members = {layer: [i for i, v in enumerate(self.vectors) if v.layer == layer] for layer in layers}
        self._directions = {
            layer: torch.stack([self.vectors[i].unit(layer) for i in members], 1)
            for layer, members in self._members.items()
        }

    def edits(self, seen: dict[int, Tensor]) -> dict[int, Edit]:
        """For `Blocks.watching`: projections (rows, vectors of the layer) of each row's last token, into `seen`."""

        def noting(layer: int) -> Edit:
            def note(hidden: Tensor) -> None:
                directions = self._directions[layer] = self._directions[layer].to(hidden.device)
                seen[layer] = hidden[:, -1].float() @ directions

            return note

        return {layer: noting(layer) for layer in self._members}

    def readings(self, seen: dict[int, Tensor], rows: int) -> list[Reading]:
        """One for each row."""
        table = torch.empty(rows, len(self.names))
        for layer, members in self._members.items():
            table[:, members] = seen[layer].cpu()
        return list(table.tolist())

    def at_prompt(self, reading: Reading, names: Sequence[str]) -> dict[str, JsonValue]:
        """What the last prompt token holds, before the answer is written, as `monitor` says it."""
        return {
            name: {"value": rounded(value), "z": self._z(name, value, "prompt")}
            for name, value in zip(self.names, reading, strict=True)
            if name in names
        }

    def at_token(self, reading: Reading, names: Sequence[str]) -> dict[str, JsonValue]:
        """Projections of one token."""
        return {name: rounded(v) for name, v in zip(self.names, reading, strict=True) if name in names}

    def summary(self, readings: Sequence[Reading], names: Sequence[str]) -> dict[str, JsonValue]:
        """Of an answer: the projection of its mean, as `monitor` says it, and the highest mean of a window of tokens.

        The mean dilutes what a long answer holds in one place; the windowed maximum does not, but grows with length by
        chance alone. Its z is in the same deviations, of means over whole answers, so windows have larger ones.
        """
        found: dict[str, JsonValue] = {}
        if not readings:  # an answer without a token, or one that nobody asked to read
            return found
        tokens = torch.tensor(readings, dtype=torch.float64)
        figures = zip(self.names, tokens.mean(0).tolist(), highest_of(tokens).tolist(), strict=True)
        for name, mean, highest in figures:
            if name in names:
                found[name] = {
                    "mean": rounded(mean),
                    "z": self._z(name, mean, "answer"),
                    "max": rounded(highest),
                    "max_z": self._z(name, highest, "answer"),
                }
        return found

    def met(
        self,
        conditions: Sequence[Condition],
        reading: Reading,
        of: Literal["answer", "prompt"],
    ) -> bool:
        """Whether a reading lies beyond all limits, in z."""
        found = dict(zip(self.names, reading, strict=True))
        for name, sign, limit in conditions:
            z = self._z(name, found[name], of)
            if z is None or not (z > limit if sign == ">" else z < limit):
                return False
        return True

    def _z(self, name: str, value: float, of: Literal["answer", "prompt"]) -> float | None:
        neutral = self._neutral[name, of]
        return None if neutral is None else round((value - neutral[0]) / neutral[1], 4)


def neutral_of(vector: PersonaVector, of: Literal["answer", "prompt", "token"]) -> tuple[float, float] | None:
    """Mean and deviation of the neutral answers' readings at the vector's layer; None: not known, or all alike."""
    try:
        mean, deviation = vector.neutral(vector.layer, of=of)
    except UserError:
        return None
    return (mean, deviation) if deviation > 0 else None


def rounded(value: float) -> float:
    """To six digits: float32 holds seven."""
    return float(f"{value:.6g}")
