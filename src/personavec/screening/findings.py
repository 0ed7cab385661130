"""What a screening found along one trait: the data set's figures, and what else differs as much."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from personavec.projection.measure import SampleMeasurements
from personavec.screening.against import WorstDomain, worst_domain
from personavec.screening.attribution import (
    CHANCE,
    Corrected,
    Rival,
    adjusted_shift,
    domain_explanation,
    explanation,
    separation,
)
from personavec.screening.differences import ScoredScan
from personavec.screening.judge import judge_counts
from personavec.screening.marks import Marks
from personavec.screening.result import AgainstDomains, Covariates, Nulls, ReferencePlace, TraitFindings, WholeReadings
from personavec.screening.scan import Scan
from personavec.screening.track import UNKNOWN, Track
from personavec.stats.bootstrap import auc, bootstrap_leads
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place, covariance_directions, holm, isotropic_directions, place
from personavec.stats.numbers import Floats

DIRECTIONS = 200  # random directions of each kind, or more where many traits are screened


def directions_for(traits: int) -> int:
    """How many random directions it takes for the smallest p to pass when it is corrected for so many traits."""
    return max(DIRECTIONS, math.ceil(2 * traits / CHANCE))


class Gaps:
    """Data and clean reference where readings were kept whole: any direction can be tried on the same differences.

    Args:
        data, clean: Scans.
        depth: Place of the layer among those that were read.
    """

    def __init__(self, data: Scan, clean: Scan, depth: int) -> None:
        self._gaps = [scan.theirs[:, depth] - scan.ours[:, depth] for scan in (data, clean)]
        self._asked = [scan.known.asked[: len(scan.theirs)] for scan in (data, clean)]

    def __len__(self) -> int:
        """Samples of the data."""
        return len(self._gaps[0])

    def along(self, directions: Tensor) -> tuple[Floats, Floats]:
        """Differences (n, K) of the data and (m, K) of the reference along directions (K, d)."""
        units = torch.nn.functional.normalize(directions, dim=-1)
        data, clean = (_on(gap, units) for gap in self._gaps)
        return data, clean

    def shifts(self, directions: Tensor) -> list[float]:
        """Data minus clean along each direction, in deviations of clean."""
        return _shifts(*self.along(directions))

    def random(self, treat: Callable[[Tensor], Tensor], count: int, seed: int) -> dict[str, tuple[Floats, Floats]]:
        """As `along`, for about `count` random directions of each kind: any way, and with the covariance of clean gaps.

        That of answers would lean towards what prompts are about, and gaps, like a persona vector, do not. Directions
        are drawn from one half of the clean samples and read on the other, and the other way round: samples vary most
        along what is made of them, so that data would seem to lie too near along random directions.

        Args:
            treat: What is made of all directions.
        """
        data, clean = self._gaps
        size = len(clean) // 2
        halves = [(clean[:size], clean[-size:]), (clean[-size:], clean[:size])] if size > 3 else [(clean, clean)]
        each = -(-count // len(halves))
        found: dict[str, list[tuple[Floats, Floats]]] = {"isotropic": [], "covariance": []}
        for fold, (made, read) in enumerate(halves):
            draws = {
                "isotropic": isotropic_directions((1, clean.shape[1]), each, seed + 2 * fold),
                "covariance": covariance_directions(made[:, None], ["clean"] * len(made), each, seed + 1 + 2 * fold),
            }
            for kind, drawn in draws.items():
                units = treat(torch.nn.functional.normalize(drawn.squeeze(1), dim=-1))
                found[kind].append((_on(data, units), _on(read, units)))
        return {
            kind: (np.hstack([a for a, _ in some]), np.hstack([b for _, b in some])) for kind, some in found.items()
        }

    def rivals(self, own: Tensor, others: Mapping[str, Tensor], seed: int) -> dict[str, Rival]:
        """Other directions (d,), by name, beside one's own."""
        if not others:
            return {}
        directions = torch.stack([own, *others.values()])
        data, clean = self.along(directions)
        ours, theirs = (asked.tolist() for asked in self._asked)
        leads = bootstrap_leads(data, clean, ours, theirs, seed)
        _, *shifts = self.shifts(directions)
        return {name: Rival(shift, lead) for name, shift, lead in zip(others, shifts, leads, strict=True)}


@dataclass(frozen=True)
class _Chance:
    """A trait's shift where readings were kept whole, beside that along random directions.

    Attributes:
        gaps: There.
        own: The shift along the trait's direction.
        likely: Differences along random directions with the gaps' covariance, of data and reference.
        nulls: Place of `own` among either kind.
    """

    gaps: Gaps
    own: float
    likely: tuple[Floats, Floats]
    nulls: Mapping[str, Place]

    @classmethod
    def of(cls, track: Track, data: Scan, clean: Scan, count: int, seed: int) -> "_Chance":
        gaps = Gaps(data, clean, track.depth)
        (own,) = gaps.shifts(track.axis.direction[None])
        random = gaps.random(track.axis.treat, count, seed)
        nulls = {kind: place(own, _shifts(*sides)) for kind, sides in random.items()}
        return cls(gaps, own, random["covariance"], nulls)


def all_findings(
    tracks: Sequence[Track], data: Scan, clean: Scan, beside: Mapping[str, ScoredScan], marks: Marks, seed: int
) -> dict[str, TraitFindings]:
    """By trait its projection difference, beside that of the clean reference and of directions that mean nothing.

    Nulls and other traits are compared on the samples whose readings were kept whole. What the vector has lost when it
    was made specific, random directions have lost too. AUC and covariates are those of `Survey.some`.

    Args:
        data, clean: The scans that the tracks were made from.
        beside: Further reference sets, by name.
        seed: Of the random directions.
    """
    count = directions_for(len(tracks))
    chances = {track.trait: _Chance.of(track, data, clean, count, seed) for track in tracks}
    worst = {track.trait: _worst(track, data, clean, count, seed) for track in tracks if track.axis.left_out}
    plain = {trait: chance.nulls["covariance"].p_value for trait, chance in chances.items()}
    corrected = holm({**plain, **{trait: found.p_value for trait, found in worst.items()}})
    return {
        track.trait: _trait_findings(
            track,
            data,
            clean,
            beside,
            marks,
            chances[track.trait],
            Corrected(corrected[track.trait], len(tracks)),
            worst.get(track.trait),
            seed,
        )
        for track in tracks
    }


def _trait_findings(
    track: Track,
    data: Scan,
    clean: Scan,
    beside: Mapping[str, ScoredScan],
    marks: Marks,
    chance: _Chance,
    corrected: Corrected,
    worst: WorstDomain | None,
    seed: int,
) -> TraitFindings:
    axis, gaps, nulls = track.axis, chance.gaps, chance.nulls
    total, reference = track.data.total.estimate(track.looks), track.clean.total.estimate()
    shift = _shift(total, reference, track.clean.deviation)
    there = [side.ravel() for side in gaps.along(axis.direction[None])]
    rivals = gaps.rivals(axis.direction, axis.rivals, seed)
    prompts = data.survey.some.asked, clean.survey.some.asked
    apart = separation(track.data.some, track.clean.some, *chance.likely, prompts)
    ours, theirs = (_covariates(scan.survey.some.measured) for scan in (data, clean))
    adjusted = adjusted_shift(track.data.some, track.clean.some, ours, theirs, prompts=prompts)
    domains = None if worst is None else _against_domains(worst, track.known, marks.instead[track.trait])
    said = (
        explanation(track.trait, shift, nulls["covariance"], rivals, adjusted, chance.own, corrected)
        if domains is None
        else domain_explanation(track.trait, domains, corrected)
    )
    limit = track.threshold
    return TraitFindings(
        projection_difference=total,
        generation=track.data.total.generation,
        generated=track.data.total.generated,
        reference=reference,
        deviation=track.clean.deviation,
        shift=shift,
        r_squared=track.data.r_squared,
        own=WholeReadings(shift=chance.own, auc=float(auc(*there)), n=len(gaps)),
        nulls=Nulls(isotropic=nulls["isotropic"], covariance=nulls["covariance"]),
        p_holm=corrected.p_value,
        others={name: rival.shift for name, rival in rivals.items()},
        leads={name: rival.lead for name, rival in rivals.items()},
        auc=apart.auc,
        auc_null=apart.null,
        covariates=Covariates(
            used=list(adjusted.used), raw=adjusted.raw, remaining=adjusted.remaining, explained=adjusted.explained
        ),
        specific=said.specific,
        sentences=list(said.sentences),
        threshold=track.level,
        false_alarms=None if limit is None else (limit.low, limit.high),
        flagged=int(marks.flags[track.trait].sum()),
        specific_share=axis.share,
        references=_reference_places(track, data, beside, len(chance.likely[0].T), seed),
        judge=judge_counts(marks.opinions[track.trait]) if marks.opinions else None,
        domains=domains,
    )


def _worst(track: Track, data: Scan, clean: Scan, count: int, seed: int) -> WorstDomain:
    """The data against each domain of the scene, where readings were kept whole."""
    theirs = data.theirs[:, track.depth]
    drawn = covariance_directions(clean.theirs[:, [track.depth]], ["clean"] * len(clean.theirs), count, seed + 1)
    units = torch.nn.functional.normalize(drawn.squeeze(1), dim=-1)
    return worst_domain(track.axis, theirs, data.known.asked[: len(theirs)].tolist(), units, seed)


def _against_domains(found: WorstDomain, near: float, marked: Mapping[str, NDArray[np.bool_]]) -> AgainstDomains:
    """As files hold it, with why samples were not flagged."""
    instead = {reason: int(rows.sum()) for reason, rows in marked.items()}
    return AgainstDomains(
        worst=found.name,
        auc=found.auc,
        aucs=found.aucs,
        random=found.random,
        placebos=found.placebos,
        leads=found.leads,
        unknown=instead.pop(UNKNOWN, 0),
        near=near,
        instead=instead,
    )


def _on(gaps: Tensor, units: Tensor) -> Floats:
    """Projections (n, K)."""
    found: Floats = (gaps @ units.T).double().numpy()
    return found


def _shifts(data: Floats, clean: Floats) -> list[float]:
    shifts: list[float] = ((data.mean(0) - clean.mean(0)) / clean.std(0, ddof=1)).tolist()
    return shifts


def _reference_places(
    track: Track, data: Scan, beside: Mapping[str, ScoredScan], count: int, seed: int
) -> list[ReferencePlace]:
    """The data set's place among further reference sets, each beside about `count` random directions."""
    total, reference = track.data.total.estimate(track.looks), track.clean.total.estimate()
    places = []
    for name, scored in beside.items():
        theirs = scored.along[track.column].total.estimate()
        places.append(
            ReferencePlace(
                name=name,
                samples=len(scored),
                projection_difference=theirs,
                shift=_shift(theirs, reference, track.clean.deviation),
                above=_shift(total, theirs, track.clean.deviation),
                random=_Chance.of(track, data, scored.scan, count, seed).nulls["covariance"],
            )
        )
    return places


def _shift(data: Estimate, clean: Estimate, deviation: float) -> Estimate:
    """The difference of two estimates in deviations; their errors are independent."""
    mean = (data.mean - clean.mean) / deviation
    low = math.hypot(data.mean - data.low, clean.high - clean.mean) / deviation
    high = math.hypot(data.high - data.mean, clean.mean - clean.low) / deviation
    return Estimate(mean, mean - low, mean + high, data.n)


def _covariates(measured: SampleMeasurements) -> Floats:
    """(n, 3), in the order of `attribution.COVARIATES`."""
    columns: Sequence[Floats] = (
        np.log1p(measured.answer_tokens), measured.refusals, np.log1p(measured.prompt_tokens),
    )  # fmt: skip
    return np.stack(columns, 1)
