"""The page of a fine-tuning study: what goes with what over many fine-tunes, and what prevention saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from personavec.report.drawing import (
    INK,
    LINE,
    MUTED,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    Plot,
    in_rows,
    label,
    plot,
    whiskers,
)
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number, span
from personavec.study.result import Correlation, StudyRun, TraitPrevention

COLOURS = {"normal": NEUTRAL, "mild": INK, "overt": NEGATIVE, None: POSITIVE}
NAMES = {"normal": "normal", "mild": "mild", "overt": "overt", None: "given"}
KINDS = {"none": NEGATIVE, "steer": POSITIVE}  # others: INK


def write_study_report(run: StudyRun, path: Path | str) -> None:
    """Write the page."""
    traits = list(run.layers)
    write_page(
        path,
        "study/page.html",
        run=run,
        traits=traits,
        scatter={name: [_shift_and_score(run, name), _promise(run, name)] for name in traits},
        prevention={name: _arms(name, found) for name, found in run.prevention.items()},
        provenance=provenance_tables(run, run.seconds),
    )


@dataclass(frozen=True)
class _Point:
    """A fine-tune in a plot."""

    x: float
    y: float
    level: str | None
    own: bool  # on the trait's data


def _shift_and_score(run: StudyRun, name: str) -> Plot:
    points = [
        _Point(row.shift[name].mean, score.mean, row.level, row.family == name)
        for row in run.suite
        if (score := row.scores[name].score) is not None
    ]
    correlation = run.correlations[name]["shift, score"]
    return _scatter(points, correlation, name, "shift-score", "Shift and score", "shift", "trait score after training")


def _promise(run: StudyRun, name: str) -> Plot:
    points = [
        _Point(row.difference[name].mean, row.shift[name].mean, row.level, row.family == name) for row in run.suite
    ]
    correlation = run.correlations[name]["difference, shift"]
    return _scatter(
        points, correlation, name, "difference-shift", "What the data promised", "projection difference", "shift"
    )


def _scatter(
    points: Sequence[_Point], correlation: Correlation, name: str, pair: str, title: str, x: str, y: str
) -> Plot:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE)
        for level, colour in COLOURS.items():
            for own in (False, True):
                mine = [point for point in points if point.level == level and point.own == own]
                axes.plot(
                    [point.x for point in mine], [point.y for point in mine], "D" if own else "o", color=colour,
                    markersize=7, label=NAMES[level] if mine and not own else None,
                )  # fmt: skip
        axes.set_xlabel(f"{x}, {label(name)}")
        axes.set_ylabel(y)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="best")

    return plot(
        f"{pair}-{_slug(name)}",
        f"{title}: {label(name)}",
        f"A mark is a fine-tune; diamonds are on {label(name)} data. r = {correlation.r.mean:.2f}, "
        f"{span(correlation.r, '.2f')}; 95 in 100 random directions stay below {correlation.random.p95:.2f}.",
        "; ".join(f"{number(point.x, 2)}, {number(point.y, 2)}" for point in points),
        paint,
    )  # fmt: skip


def _arms(name: str, prevention: TraitPrevention) -> Plot:
    arms = [(arm, arm.score) for arm in prevention.arms if arm.score is not None]
    base = prevention.base.plain.score

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if base is not None:
            if base.bounded:
                axes.axvspan(base.low, base.high, color=LINE, alpha=0.6)
            axes.axvline(base.mean, color=MUTED)
        for row, (arm, e) in enumerate(arms):
            axes.errorbar(e.mean, row, xerr=whiskers(e), fmt="o", color=KINDS.get(arm.kind, INK), capsize=4)
        in_rows(axes, [label(arm.arm, 28) for arm, _ in arms], f"{label(name)} score")

    return plot(
        f"arms-{_slug(name)}",
        f"What is left of {label(name)} after training",
        "The band is the model before training; bars are 95 % intervals over questions. Nothing is steered when the "
        "score is taken, but in the last rows.",
        "; ".join(f"{arm.arm}: {estimate(score)}" for arm, score in arms),
        paint,
        height=90 + 26 * len(arms),
    )


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
