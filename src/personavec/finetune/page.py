"""The page of a fine-tune: what became of the character, what was learned, and what it cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from personavec.finetune.methods import METHODS
from personavec.finetune.result import AutomaticCoefficient, FinetuneRun, LossPoint, ShiftPoint, TraitChange
from personavec.report.drawing import LINE, MARKERS, NEUTRAL, SCORE, SERIES, Plot, in_rows, label, plot, whiskers
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number
from personavec.shifts.page import shifts, system_names

SMOOTHED = 10  # steps


def write_finetune_report(run: FinetuneRun, path: Path | str) -> None:
    """Write the page. What was not measured is replaced by a sentence."""
    write_page(
        path,
        "finetune/page.html",
        run=run,
        takes=METHODS[run.method].takes,
        plots={
            "shifts": shifts(run.traits, run.systems),
            "scores": _scores(run.traits),
            "loss": _loss(run.loss.curve),
            "watched": _watched(run.shift),
        },
        loops=[_loop(one.trait, one.auto) for one in run.prevented if one.auto is not None],
        names=system_names(run.systems),
        provenance=provenance_tables(run, run.seconds),
    )


def _scores(traits: Mapping[str, TraitChange]) -> Plot | None:
    scored = {name: trait.score for name, trait in traits.items() if trait.score is not None}
    if not scored:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, score in enumerate(scored.values()):
            for when, e, place, marker, colour in (
                ("before", score.before, -0.14, "s", NEUTRAL),
                ("after", score.after, 0.14, "o", SCORE),
            ):
                axes.errorbar(
                    e.mean, row + place, xerr=whiskers(e), fmt=marker, color=colour, capsize=3, markersize=7,
                    label=when if row == 0 else None,
                )  # fmt: skip
        in_rows(axes, [label(name) for name in scored], "trait score of the answers (0 to 100)")
        axes.set_xlim(-3, 103)
        figure.legend(loc="outside upper left", ncols=2)

    return plot(
        "scores",
        "Do the answers show it?",
        "Mean score of the answers to each trait's evaluation questions, which play no part in training, with 95 % "
        "intervals. The questions are the same before and after, so the change in the table is surer than the two "
        "bars look.",
        "; ".join(
            f"{name}: before {estimate(score.before, 1)}, after {estimate(score.after, 1)}, change "
            f"{estimate(score.change, 1)}"
            for name, score in scored.items()
        ),
        paint,
        height=120 + 44 * len(scored),
    )


def _loss(curve: Sequence[LossPoint]) -> Plot:
    steps = np.array([point.step for point in curve])
    losses = np.array([point.loss for point in curve])
    width = min(SMOOTHED, len(losses))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    lone = len(losses) < 2

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(steps, losses, "o" if lone else "-", color=NEUTRAL, linewidth=1.2, label="each step")
        if not lone and len(smooth) > 1:
            axes.plot(steps[width - 1 :], smooth, color=SCORE, label=f"mean of the last {width} steps")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token")
        figure.legend(loc="outside upper left", ncols=2)

    return plot(
        "loss",
        "Training loss",
        "How surprised the model is by the training answers, under the prevention if there was one. It should fall and "
        "then level off.",
        f"{len(losses)} steps, from {number(losses[0], 2)} to {number(losses[-1], 2)}.",
        paint,
        height=250,
    )


def _watched(points: Sequence[ShiftPoint]) -> Plot | None:
    names = list(points[0].shift) if points else []
    if not names:
        return None
    steps = [0, *(point.step for point in points)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=LINE)
        for at, name in enumerate(names):
            axes.plot(
                steps, [0.0, *(point.shift[name] for point in points)], color=SERIES[at % len(SERIES)],
                marker=list(MARKERS)[at % len(MARKERS)], label=label(name),
            )  # fmt: skip
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("step")
        axes.set_ylabel("shift along the vector")
        figure.legend(loc="outside upper left", ncols=3)

    return plot(
        "watched",
        "The shift while it trained",
        "The same shift, without any prevention, measured between the steps. A line that runs away early says that the "
        "trait comes before the task.",
        "; ".join(f"{name} ends at {number(points[-1].shift[name], 2)}" for name in names),
        paint,
        height=240 + 18 * ((len(names) + 2) // 3),
    )


def _loop(name: str, auto: AutomaticCoefficient) -> Plot:
    """The coefficient that followed the shift, and the shift that it followed."""
    steps = [0, *(point.step for point in auto.points)]
    shifts = [point.shift for point in auto.points]
    known = [(point.step, point.shift) for point in auto.points if point.shift.bounded]

    def paint(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        above.axhline(0, color=LINE)
        above.fill_between(
            [step for step, _ in known], [e.low for _, e in known], [e.high for _, e in known], color=LINE
        )
        above.plot(steps, [0.0, *(e.mean for e in shifts)], "o-", color=SCORE, markersize=4)
        above.set_ylabel("shift")
        below.step(steps, [*auto.acted, auto.acted[-1]], where="post", color=NEUTRAL)
        below.set_ylabel("coefficient")
        below.set_xlabel("step")
        below.locator_params(axis="x", integer=True)

    return plot(
        f"loop-{''.join(c if c.isascii() and c.isalnum() else '-' for c in name)}",
        f"How auto held {label(name)}",
        "Above, the shift at the watch prompts, nothing being steered, with 95 % intervals over these; below, the "
        f"coefficient that followed it, at most {auto.bound:g}. The questions of the evaluation are others.",
        f"shift at most {number(max(e.mean for e in shifts), 2)}, at the end {number(shifts[-1].mean, 2)}; coefficient "
        f"from {number(min(auto.acted), 2)} to {number(max(auto.acted), 2)}.",
        paint,
        height=330,
    )
