"""What given texts say about a direction: its layer, how well it reads texts it is not made of, and what else could."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from personavec.extraction.figures import Sides
from personavec.extraction.given.result import Controls, LayerChoice, StyleFeature
from personavec.rollouts import Side
from personavec.stats.bootstrap import bootstrap_auc
from personavec.stats.estimate import Estimate
from personavec.stats.folds import folds
from personavec.stats.nulls import DIRECTIONS, isotropic_directions, null_summary, separation
from personavec.stats.numbers import Floats
from personavec.texts import Text
from personavec.texts.style import Style, held_equal, table

DEPTHS = (0.35, 0.75)  # the layers that may be chosen, as shares of the model's depth
FOLDS = 5
SPLITS = 20  # of the texts into random halves


@dataclass(frozen=True)
class Half:
    """One half of the texts, and what the model reads in them.

    Attributes:
        readings: (n, n_layers + 1, d).
    """

    texts: tuple[Text, ...]
    readings: Tensor

    @property
    def positive(self) -> Tensor:
        """(n,) whether a text shows the trait."""
        return torch.tensor([text.side == "positive" for text in self.texts])

    @property
    def questions(self) -> list[str]:
        """Of each text."""
        return [text.question for text in self.texts]

    @property
    def sides(self) -> Sides:
        """Readings of either side."""
        return self.readings[self.positive], self.readings[~self.positive]

    def auc(self, values: Floats, seed: int) -> Estimate:
        """How well a value of each text tells the sides apart, over questions."""
        positive = self.positive.numpy()
        asked = {
            side: [q for q, p in zip(self.questions, positive, strict=True) if p == side] for side in (True, False)
        }
        return bootstrap_auc(values[positive], values[~positive], asked[True], asked[False], seed)


def difference(readings: Tensor, positive: Tensor) -> Tensor:
    """Mean of the positive readings minus mean of the others (paper section 2.2)."""
    return readings[positive].mean(0) - readings[~positive].mean(0)


def choose_layer(half: Half, seed: int) -> list[LayerChoice]:
    """How far apart the sides of left-out questions lie at every layer that may be chosen.

    Each text is projected on the direction of the other folds, from the middle of their sides.
    """
    n_layers = half.readings.shape[1] - 1
    low, high = (share * n_layers for share in DEPTHS)
    layers = list(range(max(1, math.ceil(low)), math.floor(high) + 1)) or [max(1, n_layers // 2)]
    rows, positive = half.readings[:, layers], half.positive
    along = torch.zeros(rows.shape[:2])
    fold_of = torch.from_numpy(folds(half.questions, FOLDS, seed))
    for fold in range(FOLDS):
        mine = fold_of == fold
        rest = [~mine & side for side in (positive, ~positive)]
        if not all(bool(side.any()) for side in rest):
            continue  # nothing tells these apart
        sides = [rows[side].mean(0) for side in rest]
        units = torch.nn.functional.normalize(sides[0] - sides[1], dim=-1)
        along[mine] = torch.einsum("nld,ld->nl", rows[mine] - (sides[0] + sides[1]) / 2, units)
    shows, lacks = along[positive], along[~positive]
    distance = (shows.mean(0) - lacks.mean(0)) / ((shows.var(0) + lacks.var(0)) / 2).sqrt().clamp(min=1e-9)
    return [LayerChoice(layer=layer, distance=float(d)) for layer, d in zip(layers, distance.tolist(), strict=True)]


def controls(directions: Tensor, layer: int, extract: Half, test: Half, seed: int) -> Controls:
    """What else tells the test half apart, and how alike vectors of random halves are; all at the vector's layer.

    Args:
        directions: (n_layers + 1, d).
    """
    rows = extract.readings[:, layer]
    random = isotropic_directions((1, rows.shape[1]), DIRECTIONS, seed)
    seen, unseen = ((half.sides[0][:, [layer]], half.sides[1][:, [layer]]) for half in (extract, test))
    along = (test.readings[:, layer] @ torch.nn.functional.normalize(directions[layer], dim=0)).double().numpy()
    styles = table([text.answer for text in test.texts])
    return Controls(
        isotropic=null_summary(separation(random, seen, unseen, [0])),
        style=tuple(
            StyleFeature(name=name.replace("_", " "), auc=test.auc(styles[:, place], seed))
            for place, name in enumerate(Style._fields)
        ),
        style_held_equal=test.auc(held_equal(along, styles), seed),
        halves_cosine=_halves_cosine(rows, extract, seed),
    )


def one_sided(texts: Sequence[Text]) -> int:
    """How many questions have answers of one side only."""
    return sum(len(sides) == 1 for sides in _sides_by_question(texts).values())


def _halves_cosine(rows: Tensor, half: Half, seed: int) -> float | None:
    """Mean cosine between the vectors of two random halves of the questions; None: no two halves have both sides."""
    cosines = []
    for split in range(SPLITS):
        first = torch.from_numpy(folds(half.questions, 2, seed + split)) == 0
        parts = [(rows[part], half.positive[part]) for part in (first, ~first)]
        if all(0 < int(positive.sum()) < len(positive) for _, positive in parts):
            a, b = (difference(*part) for part in parts)
            cosines.append(float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
    return sum(cosines) / len(cosines) if cosines else None


def _sides_by_question(texts: Sequence[Text]) -> dict[str, set[Side]]:
    found: dict[str, set[Side]] = {}
    for text in texts:
        found.setdefault(text.question, set()).add(text.side)
    return found
