"""The page of a screening: where the data lie against clean data, what else explains it, and the samples behind it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from personavec.report.drawing import INK, LINE, MUTED, NEGATIVE, NEUTRAL, POSITIVE, SCORE, Plot, label, plot
from personavec.report.render import write_page
from personavec.report.words import estimate, number

BINS = 40


def histogram(data: ArrayLike, clean: ArrayLike) -> dict[str, Any]:
    """Shares of samples per bin over the range that holds 99.8 % of both; what lies outside goes into the end bins.

    Returns:
        {"edges": (bins + 1), "data", "clean": (bins) shares}
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (data, clean))
    low, high = np.percentile(np.concatenate([a, b]), [0.1, 99.9])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(np.clip(x, low, high), edges)[0] / len(x) for x in (a, b)]
    return {
        "edges": edges.round(5).tolist(),
        "data": shares[0].round(6).tolist(),
        "clean": shares[1].round(6).tolist(),
    }


def write_screen_report(summary: dict[str, Any], shown: dict[str, Any], path: Path | str) -> None:
    """Write the page.

    Args:
        summary: The content of summary.json.
        shown: {"histograms": {trait: see `histogram`}, "samples": {trait: [{"place", "where", "difference", "z",
            "asked", "tokens": [(text, value)]}]}, "rows": [{"where", "asked",
            "answered", "flagged", "z": {trait: value}}]}
        path: Of the page.
    """
    script = Path(__file__).with_name("search.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    traits = summary["traits"]
    write_page(
        path,
        "screening/page.html",
        run=summary,
        shown=shown,
        script=script,
        script_hash=f"'sha256-{allowed}'",
        plots={
            "shifts": _shifts(traits),
            **{name: _histogram(name, found, shown["histograms"][name]) for name, found in traits.items()},
            **{f"null {name}": _nulls(name, found) for name, found in traits.items()},
            **{f"place {name}": _place(name, found) for name, found in traits.items() if found.get("references")},
        },
        provenance=_provenance(summary),
    )


def _shifts(traits: dict[str, Any]) -> Plot:
    names = list(traits)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE)
        for row, name in enumerate(names):
            e = traits[name]["shift"]
            colour = POSITIVE if e["low"] > 0 else NEGATIVE if e["high"] < 0 else NEUTRAL
            axes.errorbar(
                e["mean"], row, xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]], fmt="o", color=colour,
                capsize=4, markersize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(False)
        axes.grid(axis="x")
        axes.margins(x=0.12)
        axes.set_xlabel("shift (deviations of clean samples)")

    return plot(
        "shifts",
        "Which way would the data push?",
        "Right of zero: the method predicts that fine-tuning on these data strengthens the trait; left: weakens it. "
        "Bars are 95 % intervals; grey ones hold zero.",
        "; ".join(f"{name}: {estimate(traits[name]['shift'], 2)}" for name in names),
        paint,
        height=90 + 34 * len(names),
    )


def _histogram(name: str, found: dict[str, Any], given: dict[str, Any]) -> Plot:
    edges = np.array(given["edges"])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(given["clean"], edges, fill=True, color=NEUTRAL, alpha=0.45, label="clean reference")
        axes.stairs(given["data"], edges, color=SCORE, linewidth=2, label="these data")
        threshold = found["threshold"]
        if edges[0] < threshold < edges[-1]:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.5, label="threshold")
        axes.set_yticks([])
        axes.set_xlabel("projection difference of a sample")
        figure.legend(loc="outside upper left", ncols=3)

    return plot(
        f"histogram-{_slug(name)}",
        f"Samples along {label(name)}",
        f"Each curve shows how the samples are spread; what lies right of the dashed line is flagged "
        f"({found['flagged']} samples).",
        f"Data: {estimate(found['projection_difference'], 2)}; clean reference: {estimate(found['reference'], 2)}; "
        f"threshold {number(found['threshold'], 2)}.",
        paint,
        height=240,
    )


def _nulls(name: str, found: dict[str, Any]) -> Plot:
    own, rivals = found["own"]["shift"], found["others"]
    rows = [("this vector", own, SCORE), *((label(n), value, NEUTRAL) for n, value in rivals.items())]
    rows.sort(key=lambda row: -abs(row[1]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for p95, alpha in ((found["nulls"]["covariance"]["p95"], 0.2), (found["nulls"]["isotropic"]["p95"], 0.2)):
            axes.axvspan(-p95, p95, color=NEUTRAL, alpha=alpha)
        axes.axvline(0, color=LINE)
        for row, (_, value, colour) in enumerate(rows):
            axes.plot(value, row, "D" if colour == SCORE else "o", color=colour, markersize=8)
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
        "them; "
        "the wide one leans the way clean activity varies). Where the diamond is not clear of them, the data differ "
        "from "
        f"clean ones, but not in {name} more than in other things.",
        "; ".join(f"{text}: {number(value, 2)}" for text, value, _ in rows),
        paint,
        height=100 + 27 * len(rows),
    )


def _place(name: str, found: dict[str, Any]) -> Plot:
    rows = [("these data", found["shift"], SCORE)]
    rows += [(one["name"].rpartition("/")[2], one["shift"], NEUTRAL) for one in found["references"]]
    rows.sort(key=lambda row: -row[1]["mean"])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE)
        for row, (_, e, colour) in enumerate(rows):
            axes.errorbar(
                e["mean"], row, xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]], fmt="o", color=colour,
                capsize=4, markersize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False)
        axes.grid(axis="x")
        axes.margins(x=0.12)
        axes.set_xlabel("shift (deviations of clean samples)")

    return plot(
        f"place-{_slug(name)}",
        f"Among the reference sets, along {label(name)}",
        "Zero is the clean reference, which sets the scale. Bars are 95 % intervals.",
        "; ".join(f"{text}: {estimate(e, 2)}" for text, e, _ in rows),
        paint,
        height=90 + 30 * len(rows),
    )


def _slug(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _provenance(summary: dict[str, Any]) -> Sequence[tuple[str, list[tuple[str, str]]]]:
    from personavec.report.provenance import provenance_tables

    return provenance_tables(summary)
