"""The page of a fine-tuning study: what goes with what over many fine-tunes, and what prevention saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from personavec.report.drawing import INK, LINE, MUTED, NEGATIVE, NEUTRAL, POSITIVE, Plot, label, plot
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number

COLOURS = {"normal": NEUTRAL, "mild": INK, "overt": NEGATIVE, None: POSITIVE}
NAMES = {"normal": "normal", "mild": "mild", "overt": "overt", None: "given"}
KINDS = {"none": NEGATIVE, "steer": POSITIVE}  # others: INK


def write_study_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page.

    Args:
        run: The content of run.json, see `study.finetune.study_finetune`.
        path: Of the page.
    """
    traits = list(run["layers"])
    write_page(
        path,
        "study/page.html",
        run=run,
        traits=traits,
        scatter={
            name: [
                _scatter(run, name, "shift, score", "Shift and score", "shift", "trait score after training"),
                _scatter(run, name, "difference, shift", "What the data promised", "projection difference", "shift"),
            ]
            for name in traits
        },
        prevention={name: _arms(name, found) for name, found in run["prevention"].items()},
        provenance=provenance_tables(run),
    )


def _value(row: Mapping[str, Any], name: str, what: str) -> float | None:
    if what == "trait score after training":
        score = row["scores"][name]["score"]
        return None if score is None else float(score["mean"])
    return float(row["shift" if what == "shift" else "difference"][name]["mean"])


def _scatter(run: Mapping[str, Any], name: str, pair: str, title: str, x: str, y: str) -> Plot:
    points = [
        (x_value, y_value, row["level"], row["family"] == name)
        for row in run["suite"]
        if (x_value := _value(row, name, x)) is not None and (y_value := _value(row, name, y)) is not None
    ]
    found = run["correlations"][name][pair]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE)
        for level, colour in COLOURS.items():
            for own in (False, True):
                mine = [p for p in points if p[2] == level and p[3] == own]
                axes.plot(
                    [p[0] for p in mine], [p[1] for p in mine], "D" if own else "o", color=colour, markersize=7,
                    label=NAMES[level] if mine and not own else None,
                )  # fmt: skip
        axes.set_xlabel(f"{x}, {label(name)}")
        axes.set_ylabel(y)
        axes.legend(loc="best")

    return plot(
        f"{pair.replace(', ', '-')}-{_slug(name)}",
        f"{title}: {label(name)}",
        f"A mark is a fine-tune; diamonds are on {label(name)} data. r = {found['r']['mean']:.2f}, 95 % interval "
        f"{found['r']['low']:.2f} to {found['r']['high']:.2f}; 95 in 100 random directions stay below "
        f"{found['random']['p95']:.2f}.",
        "; ".join(f"{number(x, 2)}, {number(y, 2)}" for x, y, _, _ in points),
        paint,
    )  # fmt: skip


def _arms(name: str, found: Mapping[str, Any]) -> Plot:
    arms: Sequence[Mapping[str, Any]] = [arm for arm in found["arms"] if arm["score"]]
    base = found["base"]["plain"]["score"]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if base:
            axes.axvspan(base["low"], base["high"], color=LINE, alpha=0.6)
            axes.axvline(base["mean"], color=MUTED)
        for row, arm in enumerate(arms):
            e = arm["score"]
            bars = [[e["mean"] - e["low"]], [e["high"] - e["mean"]]]
            axes.errorbar(e["mean"], row, xerr=bars, fmt="o", color=KINDS.get(arm["kind"], INK), capsize=4)
        axes.set_yticks(range(len(arms)), [label(arm["arm"], 28) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(False)
        axes.grid(axis="x")
        axes.set_xlabel(f"{label(name)} score")

    return plot(
        f"arms-{_slug(name)}",
        f"What is left of {label(name)} after training",
        "The band is the model before training; bars are 95 % intervals over questions. Nothing is steered when the "
        "score is taken, but in the last rows.",
        "; ".join(f"{arm['arm']}: {estimate(arm['score'])}" for arm in arms),
        paint,
        height=90 + 26 * len(arms),
    )


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
