"""What a screening found along one trait: the data set's figures, and what else differs as much."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personavec.projection.measure import Measured
from personavec.projection.panel import Panel
from personavec.screening.attribution import adjusted_shift, explanation, separation
from personavec.screening.differences import Differences
from personavec.screening.scan import Scan
from personavec.stats.bootstrap import auc
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions, isotropic_directions, place
from personavec.stats.numbers import Floats

DIRECTIONS = 200  # random directions of each kind


@dataclass(frozen=True, eq=False)
class Compared:
    """A data set or a reference, with its differences along every direction of the panel."""

    scan: Scan
    along: Sequence[Differences]


def trait_findings(
    panel: Panel,
    k: int,
    data: Compared,
    clean: Compared,
    others: Mapping[str, Tensor],
    looks: int,
    seed: int,
    treat: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """The k-th trait's projection difference, beside that of the clean reference and of directions that mean nothing.

    Nulls and other traits are compared on the samples whose readings were kept whole: there, any direction can be tried
    on exactly the same differences. AUC and covariates are those of `Scan.some`, at most 65,536 samples.

    Args:
        others: Directions (d,) of other traits at this trait's layer, by name; made specific if the panel's are.
        looks: How many looks the interval must hold for together.
        treat: What made the panel's direction specific, of random directions (m, d): what the vector has lost, they
            must have lost.

    Returns:
        {"projection_difference": estimate, "generation": half width that is due to baselines that were predicted,
        "generated": how many were not, "reference": estimate, "deviation": of the reference's samples, "shift":
        estimate in those deviations, "r_squared": of predicting own answers from prompts, None without prediction,
        "own": {"shift", "auc", "n"} measured as the nulls and the others are, "nulls": {"isotropic", "covariance"}:
        see `Place`, "others": {trait: shift}, "auc": estimate, "auc_null", "covariates": {"used", "raw", "remaining":
        estimate or None, "explained"}, "specific": bool, "sentences"}
    """
    mine, theirs = data.along[k], clean.along[k]
    total, reference = mine.total.estimate(looks), theirs.total.estimate()
    deviation = float(theirs.some.std(ddof=1))
    layer = panel.depths.index(panel.layers[k])
    gaps = [scan.theirs[:, layer] - scan.ours[:, layer] for scan in (data.scan, clean.scan)]
    own = _shifts(gaps, panel.units[k : k + 1])[0]
    clean_answers = clean.scan.theirs[:, [layer]]
    draws = {
        "isotropic": isotropic_directions((1, panel.units.shape[1]), DIRECTIONS, seed)[:, 0],
        "covariance": covariance_directions(clean_answers, ["clean"] * len(clean_answers), DIRECTIONS, seed + 1)[:, 0],
    }
    draws = {name: treat(torch.nn.functional.normalize(drawn, dim=-1)) for name, drawn in draws.items()}
    nulls = {name: place(own, _shifts(gaps, directions)) for name, directions in draws.items()}
    rivals = dict(zip(others, _shifts(gaps, torch.stack(list(others.values()))), strict=True)) if others else {}
    shift = _shift(total, reference, deviation)
    random = [_along(gap, draws["covariance"]) for gap in gaps]
    apart = separation(mine.some, theirs.some, *random)
    there = float(auc(*(_along(gap, panel.units[k : k + 1])[:, 0] for gap in gaps)))
    adjusted = adjusted_shift(
        mine.some, theirs.some, _covariates(data.scan.some.measured), _covariates(clean.scan.some.measured)
    )
    said = explanation(panel.names[k], shift, nulls["covariance"], rivals, adjusted, own)
    return {
        "projection_difference": total.as_dict(),
        "generation": round(mine.total.generation, 4),
        "generated": mine.total.generated,
        "reference": reference.as_dict(),
        "deviation": round(deviation, 4),
        "shift": shift.as_dict(),
        "r_squared": mine.r_squared if mine.r_squared is None else round(mine.r_squared, 4),
        "own": {"shift": round(own, 4), "auc": round(there, 4), "n": len(gaps[0])},
        "nulls": {name: _rounded(asdict(found)) for name, found in nulls.items()},
        "others": {name: round(value, 4) for name, value in rivals.items()},
        "auc": apart.auc.as_dict(),
        "auc_null": apart.null,
        "covariates": {
            "used": list(adjusted.used),
            "raw": adjusted.raw.as_dict(),
            "remaining": None if adjusted.remaining is None else adjusted.remaining.as_dict(),
            "explained": None if adjusted.explained is None else round(adjusted.explained, 4),
        },
        "specific": said.specific,
        "sentences": list(said.sentences),
    }


def placed(k: int, data: Compared, clean: Compared, beside: Mapping[str, Compared], looks: int) -> list[dict[str, Any]]:
    """The data set's place among reference sets along the k-th direction.

    Returns:
        For every reference set, the clean one left out: {"name", "samples", "projection_difference": estimate, "shift":
        estimate in deviations of clean samples, "above": the data minus this set, likewise}.
    """
    base = clean.along[k]
    total, zero = data.along[k].total.estimate(looks), base.total.estimate()
    deviation = float(base.some.std(ddof=1))
    rows = []
    for name, one in beside.items():
        theirs = one.along[k].total.estimate()
        rows.append(
            {
                "name": name,
                "samples": len(one.scan),
                "projection_difference": theirs.as_dict(),
                "shift": _shift(theirs, zero, deviation).as_dict(),
                "above": _shift(total, theirs, deviation).as_dict(),
            }
        )
    return rows


def _along(gaps: Tensor, directions: Tensor) -> Floats:
    """(n, K) projections of (n, d) on unit vectors along (K, d)."""
    units = torch.nn.functional.normalize(directions, dim=-1)
    projections: Floats = (gaps @ units.T).double().numpy()
    return projections


def _shifts(gaps: Sequence[Tensor], directions: Tensor) -> list[float]:
    """Data minus clean along each direction, in deviations of clean."""
    a, b = (_along(gap, directions) for gap in gaps)
    shifts: list[float] = ((a.mean(0) - b.mean(0)) / b.std(0, ddof=1)).tolist()
    return shifts


def _shift(data: Estimate, clean: Estimate, deviation: float) -> Estimate:
    """The difference of two estimates in deviations; their errors are independent."""
    mean = (data.mean - clean.mean) / deviation
    low = math.hypot(data.mean - data.low, clean.high - clean.mean) / deviation
    high = math.hypot(data.high - data.mean, clean.mean - clean.low) / deviation
    return Estimate(mean, mean - low, mean + high, data.n)


def _covariates(measured: Measured) -> Floats:
    """(n, 3), in the order of `attribution.COVARIATES`."""
    columns: Floats = np.stack(
        [np.log1p(measured.answer_tokens), measured.refusals, np.log1p(measured.prompt_tokens)], 1
    )
    return columns


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in values.items()}
