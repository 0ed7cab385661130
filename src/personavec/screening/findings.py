"""What a screening found along one trait: the data set's figures, and what else differs as much."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from personavec.projection.measure import Measurements
from personavec.screening.attribution import (
    adjusted_shift,
    auc_interval,
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
from personavec.stats.bootstrap import auc
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place, covariance_directions, isotropic_directions, place
from personavec.stats.numbers import Floats

DIRECTIONS = 200  # random directions of each kind


class Gaps:
    """Data and clean reference where readings were kept whole: any direction can be tried on the same differences.

    Args:
        data, clean: Scans.
        depth: Place of the layer among those that were read.
    """

    def __init__(self, data: Scan, clean: Scan, depth: int) -> None:
        self._gaps = [scan.theirs[:, depth] - scan.ours[:, depth] for scan in (data, clean)]

    def __len__(self) -> int:
        """Samples of the data."""
        return len(self._gaps[0])

    def along(self, directions: Tensor) -> tuple[Floats, Floats]:
        """Differences (n, K) of the data and (m, K) of the reference along directions (K, d)."""
        units = torch.nn.functional.normalize(directions, dim=-1)
        data, clean = ((gap @ units.T).double().numpy() for gap in self._gaps)
        return data, clean

    def shifts(self, directions: Tensor) -> list[float]:
        """Data minus clean along each direction, in deviations of clean."""
        data, clean = self.along(directions)
        shifts: list[float] = ((data.mean(0) - clean.mean(0)) / clean.std(0, ddof=1)).tolist()
        return shifts


def trait_findings(
    track: Track, data: Scan, clean: Scan, beside: Mapping[str, ScoredScan], marks: Marks, seed: int
) -> TraitFindings:
    """A trait's projection difference, beside that of the clean reference and of directions that mean nothing.

    Nulls and other traits are compared on the samples whose readings were kept whole. What the vector has lost when it
    was made specific, random directions have lost too. AUC and covariates are those of `Survey.some`.

    Args:
        data, clean: The scans that the track was made from.
        beside: Further reference sets, by name.
        seed: Of the random directions.
    """
    axis = track.axis
    total, reference = track.data.total.estimate(track.looks), track.clean.total.estimate()
    shift = _shift(total, reference, track.clean.deviation)
    gaps = Gaps(data, clean, track.depth)
    own_direction = axis.direction[None]
    (own,) = gaps.shifts(own_direction)
    there = [side.ravel() for side in gaps.along(own_direction)]
    draws = _random_directions(track, clean, seed)
    nulls = {name: place(own, gaps.shifts(drawn)) for name, drawn in draws.items()}
    names, rivals = list(axis.rivals), list(axis.rivals.values())
    others = dict(zip(names, gaps.shifts(torch.stack(rivals)), strict=True)) if rivals else {}
    apart = separation(track.data.some, track.clean.some, *gaps.along(draws["covariance"]))
    ours, theirs = (_covariates(scan.survey.some.measured) for scan in (data, clean))
    adjusted = adjusted_shift(track.data.some, track.clean.some, ours, theirs)
    domains = _domains(track, data, draws["covariance"], marks)
    said = (
        explanation(track.trait, shift, nulls["covariance"], others, adjusted, own)
        if domains is None
        else domain_explanation(track.trait, domains, int(marks.flags[track.trait].sum()))
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
        own=WholeReadings(shift=own, auc=float(auc(*there)), n=len(gaps)),
        nulls=Nulls(isotropic=nulls["isotropic"], covariance=nulls["covariance"]),
        others=others,
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
        references=_reference_places(track, beside, total, reference),
        judge=judge_counts(marks.opinions[track.trait]) if marks.opinions else None,
        domains=domains,
    )


def _domains(track: Track, data: Scan, random: Tensor, marks: Marks) -> AgainstDomains | None:
    """The data against each domain of the scene, along the trait and along directions treated alike."""
    axis = track.axis
    if axis.scene is None:
        return None
    theirs = data.theirs[:, track.depth]
    halves = axis.scene.bank.second

    def against(directions: Tensor) -> Floats:
        """AUCs (domains, K)."""
        ours = (theirs @ directions.T).numpy()
        return np.stack([np.asarray(auc(ours, (rows @ directions.T).numpy())) for rows in halves.values()])

    own = against(axis.direction[None])[:, 0]
    worst = list(halves)[int(own.argmin())]

    def beyond(directions: Tensor) -> Place:
        found = against(directions)
        least = np.maximum(found.min(0), 1 - found.max(0))  # the better sign
        return place(max(float(own.min()) - 0.5, 0), np.maximum(least - 0.5, 0))

    mine, rows = (each @ axis.direction for each in (theirs, halves[worst]))
    low, high = auc_interval(mine.double().numpy(), rows.double().numpy())
    instead = {reason: int(marked.sum()) for reason, marked in marks.instead[track.trait].items()}
    return AgainstDomains(
        worst=worst,
        auc=Estimate(float(own.min()), low, high, len(theirs) + len(halves[worst])),
        aucs=dict(zip(halves, own.tolist(), strict=True)),
        random=beyond(random),
        placebos=None if axis.placebos is None else beyond(axis.placebos),
        unknown=instead.pop(UNKNOWN, 0),
        instead=instead,
    )


def _random_directions(track: Track, clean: Scan, seed: int) -> dict[str, Tensor]:
    """Unit directions (K, d) of each kind, treated as the trait's own was."""
    answers = clean.theirs[:, [track.depth]]
    draws = {
        "isotropic": isotropic_directions((1, len(track.axis.direction)), DIRECTIONS, seed),
        "covariance": covariance_directions(answers, ["clean"] * len(answers), DIRECTIONS, seed + 1),
    }
    return {
        name: track.axis.treat(torch.nn.functional.normalize(drawn.squeeze(1), dim=-1)) for name, drawn in draws.items()
    }


def _reference_places(
    track: Track, beside: Mapping[str, ScoredScan], total: Estimate, reference: Estimate
) -> list[ReferencePlace]:
    """The data set's place among further reference sets."""
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
            )
        )
    return places


def _shift(data: Estimate, clean: Estimate, deviation: float) -> Estimate:
    """The difference of two estimates in deviations; their errors are independent."""
    mean = (data.mean - clean.mean) / deviation
    low = math.hypot(data.mean - data.low, clean.high - clean.mean) / deviation
    high = math.hypot(data.high - data.mean, clean.mean - clean.low) / deviation
    return Estimate(mean, mean - low, mean + high, data.n)


def _covariates(measured: Measurements) -> Floats:
    """(n, 3), in the order of `attribution.COVARIATES`."""
    columns: Sequence[Floats] = (
        np.log1p(measured.answer_tokens), measured.refusals, np.log1p(measured.prompt_tokens),
    )  # fmt: skip
    return np.stack(columns, 1)
