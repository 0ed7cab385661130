"""Directions that tell one trait's texts from everything else that is known, and which readings are known at all.

All in float64 inside; made directions are float32 and of length 1.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from personavec.projection.bank import Bank, TextSides
from personavec.projection.specific import Apart, Specific
from personavec.stats.numbers import Floats

# Chosen with answers of Qwen2.5-7B to half of the questions at hand, read by SmolLM2-135M; the table that stands in
# benchmarks/results is of the other half.
PENALTY = 0.3  # times the mean variance of a coordinate
LACKING, OTHERS, OTHERS_LACKING, CLEAN = 0.35, 0.2, 0.5, 1.0  # weight of each kind of what lacks the trait, to 1 of it

ASPECTS = 32  # directions in which a reading's distance from a domain is measured
WITHIN = 0.99  # share of clean samples that lie within the bank

CONSTANTS = (PENALTY, LACKING, OTHERS, OTHERS_LACKING, CLEAN, ASPECTS, WITHIN)  # what decides a result, beside the bank

Mask = NDArray[np.bool_]


class Group(NamedTuple):
    """Readings (n, d), and how much they weigh together."""

    rows: Tensor
    weight: float


def groups_against(bank: Bank, trait: str) -> list[Group]:
    """What a trait's positive texts are told from, each kind with its weight, shared evenly by its members."""
    others = [sides for name, sides in bank.texts.items() if name != trait]
    kinds = (
        (LACKING, [bank.texts[trait].negative]),
        (OTHERS, [sides.positive for sides in others]),
        (OTHERS_LACKING, [sides.negative for sides in others]),
        (CLEAN, list(bank.first.values())),
    )
    return [Group(rows, weight / len(members)) for weight, members in kinds for rows in members]


class Discriminant:
    """Makes directions (d,) as weighted least squares makes one from labels, with a ridge penalty.

    The regression of +1 (readings that show a trait, total weight 1) and -1 (groups that do not) on the reading has the
    slopes (C + penalty t I)^-1 (m1 - m0) up to their length: C the weighted covariance within the two classes, m1 and
    m0 their weighted means, t the mean variance of a coordinate in all rows together (Hoerl and Kennard 1970; Fisher's
    discriminant where the penalty is 0). Put in place of m1 - m0, any other direction gets the same treatment: it
    counts less where what is known varies anyway, between domains and traits as within them.

    Attributes:
        contrast: (d,) m1 - m0.
    """

    def __init__(self, positive: Tensor, against: Sequence[Group], penalty: float = PENALTY) -> None:
        self._positive, self._against, self._penalty = Group(positive, 1.0), against, penalty
        self.contrast = operator.sub(*(weights @ rows for rows, weights in self._classes()))

    def _classes(self) -> list[tuple[Tensor, Tensor]]:
        """Rows (n, d) of either class, and their weights (n,)."""
        return [_pooled([self._positive]), _pooled(self._against)]

    @cached_property
    def direction(self) -> Tensor:
        """(d,) what is made of the contrast."""
        return self(self.contrast).direction

    @cached_property
    def _system(self) -> tuple[Tensor, Tensor, float]:
        """Deviations (n, d) from the class means, weighted; a Cholesky factor; what the penalty adds to each variance.

        The factor is of C + penalty (d, d), or where there are fewer rows than numbers of their products (n, n).
        """
        share = 1 / (1 + sum(group.weight for group in self._against))  # of the positive class among all
        parts = zip(self._classes(), (share, 1 - share), strict=True)
        within = torch.cat(
            [(rows - weights @ rows) * (weights * part).sqrt()[:, None] for (rows, weights), part in parts]
        )
        total = float((within**2).sum() + share * (1 - share) * self.contrast @ self.contrast)
        floor = self._penalty * total / within.shape[1]
        square = within @ within.T if _wide(within) else within.T @ within
        return within, torch.linalg.cholesky(square + floor * torch.eye(len(square)).double()), floor

    def __call__(self, direction: Tensor, trait: str | None = None) -> Specific:
        """What it makes of one direction, whichever trait's place it is in."""
        unit = direction.double() / direction.double().norm()
        made = self._made(unit[None])[0]
        return Specific(made.float(), float(made @ unit))

    def each(self, directions: Tensor) -> Tensor:
        """(m, d) float32 of directions (m, d)."""
        return self._made(directions.double()).float()

    def _made(self, directions: Tensor) -> Tensor:
        """(m, d) of length 1."""
        within, factor, floor = self._system
        if _wide(within):  # Woodbury's identity
            inner = torch.cholesky_solve(within @ directions.T, factor)
            made = (directions - inner.T @ within) / floor
        else:
            made = torch.cholesky_solve(directions.T, factor).T
        return torch.nn.functional.normalize(made, dim=1)


def _wide(rows: Tensor) -> bool:
    return len(rows) < rows.shape[1]


def _pooled(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Rows (n, d) of all groups, and their weights (n,), 1 together."""
    weights = torch.cat([torch.full((len(rows),), weight / len(rows)).double() for rows, weight in groups])
    return torch.cat([rows for rows, _ in groups]).double(), weights / weights.sum()


def placebos(bank: Bank, trait: str, count: int, seed: int) -> Tensor:
    """Contrasts (count, d) as `Discriminant.contrast`, of texts whose labels are shuffled.

    As many texts as show the trait are drawn at random from those of all traits, of both sides, to stand against the
    other texts and the domains. Where the trait is shown in a chat model's words the drawn ones are as well, or the
    manner alone would tell it from them.
    """
    own, texts = bank.texts[trait], bank.texts.items()
    alike = [(name, sides if own.chat is None else sides.chat) for name, sides in texts]
    pool = torch.cat([own.shown, *_lacking([(name, sides) for name, sides in alike if sides], trait)]).double()
    clean = torch.stack([domain.double().mean(0) for domain in bank.first.values()]).mean(0)
    generator = np.random.default_rng(seed)
    shown = torch.zeros(count, len(pool)).double()
    for one in shown:
        one[torch.from_numpy(generator.permutation(len(pool))[: len(own.shown)])] = 1
    total = own.shown.double().sum(0) + torch.cat(_lacking(texts, trait)).double().sum(0)
    drawn, left = shown @ pool, sum(map(len, _lacking(texts, trait)))
    rest = LACKING + OTHERS + OTHERS_LACKING
    lack = (total - drawn) / left
    return drawn / len(own.shown) - (rest * lack + CLEAN * clean) / (rest + CLEAN)


def _lacking(texts: Iterable[tuple[str, TextSides]], trait: str) -> list[Tensor]:
    """What lacks a trait: texts that do, and those that show another."""
    return [rows for name, s in texts for rows in ([s.negative] if name == trait else [s.negative, s.positive])]


@dataclass(frozen=True, eq=False)
class Familiar:
    """Where clean answers lie.

    Along the directions in which samples of a domain vary most, each scaled by that variation, a reading's distance is
    that from the centre of the nearest domain of the bank's first half. Of the second half 99 in 100 samples lie within
    the limit.

    Attributes:
        axes: (m, d) float32, of length 1.
        scales: (m,) deviations within a domain along them.
        centres: (domains, m) in these deviations.
        limit: Distance beyond which a reading is of no known domain.
        given: (domains,) which of them the user gave.
    """

    axes: Tensor
    scales: Floats
    centres: Floats
    limit: float
    given: Mask

    @classmethod
    def of(cls, bank: Bank) -> "Familiar":
        """Of a bank."""
        centred = torch.cat([rows - rows.mean(0) for rows in bank.first.values()]).double()
        _, values, axes = torch.linalg.svd(centred / len(centred) ** 0.5, full_matrices=False)
        kept = int((values[:ASPECTS] > 1e-6 * values[0]).sum())
        units = axes[:kept].float()
        scales = values[:kept].numpy()
        centres = np.stack([(rows.double() @ axes[:kept].T).mean(0).numpy() / scales for rows in bank.first.values()])
        given = np.array([name in bank.given for name in bank.first])
        open_ended = cls(units, scales, centres, np.inf, given)
        second = torch.cat(list(bank.second.values()))
        limit = np.quantile(open_ended.distances((second @ units.T).numpy()), WITHIN)
        return replace(open_ended, limit=float(limit))

    def _gaps(self, along: Floats) -> Floats:
        """(n, domains)."""
        gaps: Floats = np.linalg.norm((along / self.scales)[:, None] - self.centres, axis=2)
        return gaps

    def distances(self, along: Floats) -> Floats:
        """(n,) of projections (n, m) on the axes."""
        nearest: Floats = self._gaps(along).min(1)
        return nearest

    def outside(self, along: Floats) -> Mask:
        """(n,) which of projections (n, m) lie beyond the limit."""
        beyond: Mask = self.distances(along) > self.limit
        return beyond

    def near_given(self, along: Floats) -> Mask:
        """(n,) which of projections (n, m) lie nearest to a domain that the user gave."""
        near: Mask = self.given[self._gaps(along).argmin(1)]
        return near


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known at one layer.

    Attributes:
        bank: Readings.
        traits: Of each trait that the bank has texts for.
    """

    bank: Bank
    traits: Mapping[str, Discriminant]

    @classmethod
    def of(cls, bank: Bank) -> "Scene":
        """What a bank tells."""
        texts = bank.texts.items()
        return cls(bank, {trait: Discriminant(both.shown, groups_against(bank, trait)) for trait, both in texts})

    @cached_property
    def familiar(self) -> Familiar:
        """Where clean answers lie."""
        return Familiar.of(self.bank)

    def without(self, domain: str) -> "Scene":
        """What is known without one clean domain."""
        first, second = (
            {name: rows for name, rows in half.items() if name != domain}
            for half in (self.bank.first, self.bank.second)
        )
        return Scene.of(Bank(first, second, self.bank.texts, self.bank.given))

    def apart(self, traits: Mapping[str, Tensor], common: Sequence[Tensor]) -> Apart:
        """Takes out what the domains' centres span too, and the contrasts of the traits that are known here."""
        centres = [rows.mean(0) for rows in self.bank.first.values()]
        known = {trait: made.contrast.float() for trait, made in self.traits.items()}
        return Apart({**known, **traits}, [*common, *centres])

    @property
    def directions(self) -> Tensor:
        """(k, d): of all traits, then those of `Familiar.axes`."""
        return torch.stack([*(made.direction for made in self.traits.values()), *self.familiar.axes])
