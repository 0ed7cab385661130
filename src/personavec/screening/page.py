"""The page of a screening: where the data lie against clean data, what else explains it, and the samples behind it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personavec.report.drawing import (
    INK,
    LINE,
    MUTED,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    SCORE,
    Plot,
    in_rows,
    label,
    plot,
    whiskers,
)
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number
from personavec.screening.result import Histogram, ReferencePlace, SampleViews, ScreeningRun, TraitFindings
from personavec.stats.estimate import Estimate


@dataclass(frozen=True)
class TraitPlots:
    """The drawings of one trait.

    Attributes:
        histogram: Samples.
        nulls: The shift beside other directions.
        places: Further reference sets; None: there are none.
    """

    histogram: Plot
    nulls: Plot
    places: Plot | None


def write_screen_report(run: ScreeningRun, views: SampleViews, path: Path | str) -> None:
    """Write the page.

    Args:
        views: What it shows of single samples.
        path: Of the page.
    """
    script = Path(__file__).with_name("search.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    write_page(
        path,
        "screening/page.html",
        run=run,
        settings=run.settings,
        views=views,
        script=script,
        script_hash=f"'sha256-{allowed}'",
        shifts=_shifts(run.traits),
        plots={
            name: TraitPlots(
                _histogram(name, findings, views.histograms[name]),
                _nulls(name, findings),
                _places(name, findings) if findings.references else None,
            )
            for name, findings in run.traits.items()
        },
        provenance=provenance_tables(run),
    )


class _Row(NamedTuple):
    """A row of a drawing of shifts."""

    text: str
    shift: Estimate
    colour: str


def _draw_shifts(axes: Axes, rows: Sequence[_Row], room: float = 0.5) -> None:
    """Points with their intervals, a row each, the first on top, beside the line of no shift."""
    axes.axvline(0, color=LINE)
    for at, row in enumerate(rows):
        axes.errorbar(row.shift.mean, at, xerr=whiskers(row.shift), fmt="o", color=row.colour, capsize=4, markersize=8)
    in_rows(axes, [row.text for row in rows], "shift (deviations of clean samples)", room)
    axes.margins(x=0.12)


def _shifts(traits: Mapping[str, TraitFindings]) -> Plot:
    def colour(shift: Estimate) -> str:
        return POSITIVE if shift.low > 0 else NEGATIVE if shift.high < 0 else NEUTRAL

    rows = [_Row(label(name), findings.shift, colour(findings.shift)) for name, findings in traits.items()]
    nulls = [findings.nulls.covariance.p95 for findings in traits.values()]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(range(len(rows)), [2 * p95 for p95 in nulls], 0.7, [-p95 for p95 in nulls], color=NEUTRAL, alpha=0.2)
        _draw_shifts(axes, rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)

    return plot(
        "shifts",
        "Where do the data lie?",
        "Right of zero the answers lie on the side of the trait, left on that of its opposite. Bars are 95 % "
        "intervals; grey ones hold zero. The grey band behind each holds 95 in 100 random directions, which mean "
        "nothing: a point inside it does not show this trait. How the data lie is no forecast of what training on them "
        "does.",
        "; ".join(
            f"{name}: {estimate(findings.shift, 2)}, random directions to {number(findings.nulls.covariance.p95, 2)}"
            for name, findings in traits.items()
        ),
        paint,
        height=90 + 34 * len(rows),
    )


def _histogram(name: str, findings: TraitFindings, shares: Histogram) -> Plot:
    edges, threshold = np.array(shares.edges), findings.threshold
    right = f"what lies right of the dashed line is flagged ({findings.flagged} samples)"
    if findings.domains is not None:
        right = (
            f"of what lies right of the dashed line {findings.flagged} samples are flagged, and not those that read "
            "higher along another trait or are like no known domain"
        )

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(shares.clean, edges, fill=True, color=NEUTRAL, alpha=0.45, label="clean reference")
        axes.stairs(shares.data, edges, color=SCORE, linewidth=2, label="these data")
        if edges[0] < threshold < edges[-1]:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.5, label="threshold")
        axes.set_yticks([])
        axes.set_xlabel("projection difference of a sample")
        figure.legend(loc="outside upper left", ncols=3)

    return plot(
        f"histogram-{_slug(name)}",
        f"Samples along {label(name)}",
        f"Each curve shows how the samples are spread; {right}.",
        f"Data: {estimate(findings.projection_difference, 2)}; clean reference: {estimate(findings.reference, 2)}; "
        f"threshold {number(threshold, 2)}.",
        paint,
        height=240,
    )


def _nulls(name: str, findings: TraitFindings) -> Plot:
    rows = [("this vector", findings.own.shift, SCORE)]
    rows += [(label(other), value, NEUTRAL) for other, value in findings.others.items()]
    rows.sort(key=lambda row: -abs(row[1]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for null in (findings.nulls.covariance, findings.nulls.isotropic):
            axes.axvspan(-null.p95, null.p95, color=NEUTRAL, alpha=0.2)
        axes.axvline(0, color=LINE)
        for at, (_, value, colour) in enumerate(rows):
            axes.plot(value, at, "D" if colour == SCORE else "o", color=colour, markersize=8)
        axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False)
        axes.margins(x=0.1)
        axes.tick_params(axis="y", labelcolor=MUTED)
        axes.set_xlabel("shift (deviations of clean samples)")

    return plot(
        f"nulls-{_slug(name)}",
        f"Is it {label(name)}, or anything?",
        "The same data along other traits' vectors (circles) and along random directions (grey bands: 95 in 100 of "
        "them; the wide one leans the way clean samples vary). Where the diamond is not clear of them, the data "
        f"differ from clean ones, but not in {name} more than in other things.",
        "; ".join(f"{text}: {number(value, 2)}" for text, value, _ in rows),
        paint,
        height=100 + 27 * len(rows),
    )


def _places(name: str, findings: TraitFindings) -> Plot:
    rows = [_Row("these data", findings.shift, SCORE)]
    rows += [_Row(_place_words(place), place.shift, NEUTRAL) for place in findings.references]
    rows.sort(key=lambda row: -row.shift.mean)

    def paint(figure: Figure) -> None:
        _draw_shifts(figure.subplots(), rows, room=0.6)

    return plot(
        f"place-{_slug(name)}",
        f"Among the reference sets, along {label(name)}",
        "Zero is the clean reference, which sets the scale. Bars are 95 % intervals. p: of random directions, the "
        "share along which these data lie as far from the set.",
        "; ".join(f"{row.text}: {estimate(row.shift, 2)}" for row in rows),
        paint,
        height=90 + 30 * len(rows),
    )


def _place_words(place: ReferencePlace) -> str:
    return f"{place.name.rpartition('/')[2]} (p = {place.random.p_value:.2f})"


def _slug(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
