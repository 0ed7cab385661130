"""What chance gives: the nulls that stand beside every figure (random directions, with the same choice of layer)."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass
from torch import Tensor

from personavec.stats.bootstrap import auc
from personavec.stats.numbers import finite

DIRECTIONS = 200  # random directions for separation


@dataclass(frozen=True)
class Null:
    """What random directions gave: mean, 95th percentile, maximum and number of the values; four digits."""

    mean: float
    p95: float
    max: float
    n: int


def null_summary(values: ArrayLike) -> Null:
    """A null's summary.

    Raises:
        ValueError: No values, or values that are not finite.
    """
    array = finite(values, 1)
    return Null(
        mean=round(float(array.mean()), 4),
        p95=round(float(np.percentile(array, 95)), 4),
        max=round(float(array.max()), 4),
        n=len(array),
    )


@dataclass(frozen=True)
class Place:
    """A figure among those of random directions, all by their absolute value.

    Attributes:
        percentile: Share of the random directions below it, 0..100.
        p_value: (1 + how many are as large) / (K + 1).
        p95: 95th percentile of the random directions.
        n: K.
    """

    percentile: float
    p_value: float
    p95: float
    n: int

    def rounded(self) -> "Place":
        """To four digits after the point, as files hold it."""
        return Place(round(self.percentile, 4), round(self.p_value, 4), round(self.p95, 4), self.n)


def place(value: float, nulls: ArrayLike) -> Place:
    """Where |value| stands among the absolute values of nulls (K,).

    Raises:
        ValueError: No nulls, or numbers that are not finite.
    """
    sizes = np.abs(finite(nulls, 1))
    size = abs(float(finite([value], 1)[0]))
    above = int((sizes >= size).sum())
    return Place(
        percentile=100 * (1 - above / len(sizes)),
        p_value=(1 + above) / (len(sizes) + 1),
        p95=float(np.percentile(sizes, 95)),
        n=len(sizes),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, corrected so that all below 5 % are wrong in 5 % of cases at most (Holm 1979)."""
    corrected, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda each: p_values[each])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p_values}


def covariance_directions(readings: Tensor, sides: Sequence[str], count: int, seed: int) -> Tensor:
    """Random directions with the covariance that readings have within their side.

    Args:
        readings: (n, layers, d).
        sides: n names; the mean of each side is taken out first, so that the trait's own direction is not favoured.

    Returns:
        (count, layers, d): the same random mixture of rollouts at every layer; not normalised.
    """
    centred = _centred(readings, sides)
    weights = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, len(readings)))).float()
    mixed: Tensor = torch.einsum("kn,nld->kld", weights, centred) / len(readings) ** 0.5
    return mixed


def shuffled_directions(
    readings: Tensor, sides: Sequence[str], questions: Sequence[Hashable], count: int, seed: int
) -> Tensor:
    """Differences of means between two sides, as a vector is made, where chance says which answer is on which side.

    The sides are shuffled within each question: what a question does to all of its answers cancels out here as it does
    in the vector. The mean of each side is taken out first; a strong trait would else be in every shuffled difference.

    Args:
        readings: (n, layers, d).
        sides: n names, "positive" or another.
        questions: n.

    Returns:
        (count, layers, d), not normalised.
    """
    positive = np.array([side == "positive" for side in sides])
    _, codes = np.unique(np.array([str(question) for question in questions]), return_inverse=True)
    chance = np.random.default_rng(seed).random((count, len(codes)))
    order = np.lexsort((chance, np.broadcast_to(codes, chance.shape)))  # question by question, in a random order
    shuffled = np.empty(chance.shape, dtype=bool)
    np.put_along_axis(shuffled, order, positive[np.argsort(codes, kind="stable")][None], axis=1)
    weights = np.where(shuffled, 1 / max(positive.sum(), 1), -1 / max((~positive).sum(), 1))
    return torch.einsum("kn,nld->kld", torch.from_numpy(weights).float(), _centred(readings, sides))


def _centred(readings: Tensor, sides: Sequence[str]) -> Tensor:
    """Readings minus the mean of their side."""
    centred = readings.clone()
    for side in set(sides):
        mine = torch.tensor([s == side for s in sides])
        centred[mine] -= readings[mine].mean(0)
    return centred


def isotropic_directions(shape: tuple[int, int], count: int, seed: int) -> Tensor:
    """Random directions (count, layers, d), every direction alike, drawn anew for each layer."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, *shape))).float()


def separation(
    directions: Tensor, chosen_on: tuple[Tensor, Tensor], reported_on: tuple[Tensor, Tensor], layers: Sequence[int]
) -> list[float]:
    """How well directions tell the sides apart when each may choose its best layer and its sign.

    Args:
        directions: (k, layers, d).
        chosen_on, reported_on: Readings (n, layers, d) of the positive and the negative side; the layer and the sign
            are chosen on the first, the AUC is that of the second.
        layers: Which layers may be chosen.

    Returns:
        k AUCs.
    """
    table = []
    for positive, negative in (chosen_on, reported_on):
        by_layer = []
        for layer in layers:
            along = directions[:, layer].T
            by_layer.append(auc((positive[:, layer] @ along).numpy(), (negative[:, layer] @ along).numpy()))
        table.append(np.stack(by_layer))  # (layers, k)
    choice, report = table
    best = np.abs(choice - 0.5).argmax(0)
    columns = np.arange(choice.shape[1])
    flipped = choice[best, columns] < 0.5
    values = report[best, columns]
    return [float(v) for v in np.where(flipped, 1 - values, values)]


def separation_nulls(
    extraction: tuple[Tensor, Tensor],
    evaluation: tuple[Tensor, Tensor],
    layers: Sequence[int],
    asked: tuple[Sequence[Hashable], Sequence[Hashable]],
    seed: int,
) -> dict[str, Null]:
    """Summaries of `separation` for isotropic random directions and for such made of shuffled sides.

    Args:
        extraction, evaluation, layers: See `separation`.
        asked: The questions of `extraction`, side by side.
    """
    positive, negative = extraction
    everything = torch.cat([positive, negative])
    sides = ["positive"] * len(positive) + ["negative"] * len(negative)
    shape = (everything.shape[1], everything.shape[2])
    draws = {
        "isotropic": isotropic_directions(shape, DIRECTIONS, seed),
        "shuffled": shuffled_directions(everything, sides, [*asked[0], *asked[1]], DIRECTIONS, seed + 1),
    }
    return {name: null_summary(separation(d, extraction, evaluation, layers)) for name, d in draws.items()}
