"""The data against clean domains, one by one, each along directions that were made without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from personavec.screening.attribution import auc_interval
from personavec.screening.axis import Axis
from personavec.stats.bootstrap import auc, bootstrap_worst_leads
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place, place
from personavec.stats.numbers import Floats

TAIL = 0.025  # how often the truth may lie beyond either end of an interval


@dataclass(frozen=True)
class WorstDomain:
    """How well a trait's direction tells readings from the clean domain that they differ from least.

    Attributes:
        name: That domain.
        auc: Probability that a reading lies above one of it. The interval holds for the least of the domains' figures,
            whichever is truly least: its lower end is the least of theirs, its upper end too, of such as hold for all
            of them together (Bonferroni).
        aucs: The same for every domain.
        random, placebos: Place among random directions and among directions of shuffled labels, all treated alike and
            each free to choose its sign, by the distance from 1/2; None: there are no texts for the trait.
        leads: How much higher the figure is than along the direction of each other trait, whose worst domain may be
            another one; by a paired bootstrap.
    """

    name: str
    auc: Estimate
    aucs: dict[str, float]
    random: Place
    placebos: Place | None
    leads: dict[str, Estimate]

    @property
    def p_value(self) -> float:
        """That of the null which is harder to beat: both must be."""
        return max(each.p_value for each in (self.random, self.placebos) if each is not None)


def worst_domain(axis: Axis, rows: Tensor, asked: Sequence[int], drawn: Tensor, seed: int) -> WorstDomain:
    """Compare readings with each clean domain of an axis, along what is made without that domain.

    No sample of the domain has made the direction, so that all of them count, and the figure is what is to be expected
    of a domain that the bank lacks.

    Args:
        axis: With `left_out`.
        rows: (n, d) readings of the data.
        asked: (n,) what tells their prompts apart.
        drawn: (m, d) random directions.
    """
    folds = list(axis.left_out.items())
    assert axis.scene is not None and folds
    theirs = [axis.scene.bank.whole(name) for name, _ in folds]
    rivals = [name for name in axis.rivals if all(name in fold.rivals for _, fold in folds)]

    def along(of: Callable[[Axis], Tensor]) -> list[tuple[Floats, Floats]]:
        """Projections (n, K) of the data and (m, K) of each domain."""
        found = [(rows @ of(fold).T, other @ of(fold).T) for (_, fold), other in zip(folds, theirs, strict=True)]
        return [(a.double().numpy(), b.double().numpy()) for a, b in found]

    def beyond(of: Callable[[Axis], Tensor]) -> Place:
        found = np.stack([np.asarray(auc(a, b)) for a, b in along(of)])
        least = np.maximum(found.min(0), 1 - found.max(0))  # the better sign
        return place(max(worst - 0.5, 0), np.maximum(least - 0.5, 0))

    def all_traits(fold: Axis) -> Tensor:
        return torch.stack([fold.direction, *(fold.rivals[name] for name in rivals)])

    sides = along(all_traits)
    aucs = {name: float(auc(a[:, 0], b[:, 0])) for (name, _), (a, b) in zip(folds, sides, strict=True)}
    name = min(aucs, key=lambda each: aucs[each])
    worst = aucs[name]

    def ends(tail: float) -> list[tuple[float, float]]:
        return [auc_interval(a[:, 0], b[:, 0], (asked, np.arange(len(b))), tail) for a, b in sides]

    low = min(lower for lower, _ in ends(TAIL))
    high = min(upper for _, upper in ends(TAIL / len(folds)))
    leads = bootstrap_worst_leads(np.stack([a for a, _ in sides]), [b for _, b in sides], asked, seed)
    return WorstDomain(
        name=name,
        auc=Estimate(worst, low, high, len(rows)),
        aucs=aucs,
        random=beyond(lambda fold: fold.treat(drawn)),
        placebos=None if axis.placebos is None else beyond(_placebos),
        leads=dict(zip(rivals, leads, strict=True)),
    )


def unseen_level(axis: Axis, rate: float) -> float:
    """How high samples lie of a domain that has made no direction: above it is `rate` of them, in deviations of others.

    Each domain is left out in turn, and its samples are placed among the second halves of the others. Every domain
    counts the same, whatever its size.

    Args:
        axis: With `left_out`.
    """
    assert axis.scene is not None
    placed, weights = [], []
    for name, fold in axis.left_out.items():
        assert fold.scene is not None
        theirs = torch.cat(list(fold.scene.bank.second.values())) @ fold.direction
        own = axis.scene.bank.whole(name) @ fold.direction
        placed.append(((own - theirs.mean()) / theirs.std()).double().numpy())
        weights.append(np.full(len(own), 1 / len(own)))
    values, shares = np.concatenate(placed), np.concatenate(weights) / len(weights)
    order = np.argsort(values)
    at = int(np.searchsorted(np.cumsum(shares[order]), 1 - rate - 1e-9))
    return float(values[order[min(at, len(order) - 1)]])


def _placebos(axis: Axis) -> Tensor:
    assert axis.placebos is not None
    return axis.placebos
