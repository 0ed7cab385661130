"""What the pages of `finetune` and `shift` share: how far a fine-tune moved along every trait, beside chance."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from personavec.report.drawing import LINE, MARKERS, NEUTRAL, SCORE, SERIES, Plot, in_rows, label, plot, whiskers
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number
from personavec.shifts.result import ShiftRun, SystemPrompt, TraitShift

STEP = 0.17  # of a row, from one system prompt to the next


def system_names(systems: Sequence[SystemPrompt]) -> list[str]:
    """What the pages call system prompts."""
    return [prompt.title or f"“{label(prompt.system, 34)}”" for prompt in systems]


def shifts(traits: Mapping[str, TraitShift], systems: Sequence[SystemPrompt] = ()) -> Plot | None:
    """The shift along every trait with its interval, in front of what random directions reach.

    Args:
        systems: The system prompts that it was measured under too, in the order of each trait's "systems".
    """
    if not traits:
        return None
    names = list(traits)
    series = ["no system prompt", *system_names(systems)]
    colours = [SCORE, *SERIES[1:]]
    reach = 0.25 + STEP * len(series) / 2

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE)
        for row, name in enumerate(names):
            trait = traits[name]
            for null in (trait.nulls.isotropic, trait.nulls.covariance):
                text = "95 in 100 random directions" if row == 0 and null is trait.nulls.isotropic else None
                axes.add_patch(
                    Rectangle((-null.p95, row - reach), 2 * null.p95, 2 * reach, color=NEUTRAL, alpha=0.22, label=text)
                )
            for at, e in enumerate([trait.shift, *(under.shift for under in trait.systems)]):
                axes.errorbar(
                    e.mean, row + STEP * (at - (len(series) - 1) / 2), xerr=whiskers(e),
                    fmt=list(MARKERS)[at % len(MARKERS)], color=colours[at % len(colours)], capsize=3, markersize=7,
                    label=series[at] if row == 0 and (systems or at) else None,
                )  # fmt: skip
        in_rows(axes, [label(name) for name in names], "shift along the trait's vector", room=reach + 0.15)
        axes.margins(x=0.1)
        figure.legend(loc="outside upper left", ncols=1)

    return plot(
        "shifts",
        "How far did the model move?",
        "Right of zero the model moved toward the trait, left away from it. Bars are 95 % intervals over the trait's "
        "evaluation questions; grey bands are what random directions reach (the wider one leans the way the model's "
        "own activity varies). Only a mark clear of both bands says something about the trait.",
        "; ".join(
            f"{name}: {estimate(trait.shift, 2)}, random directions up to {number(trait.nulls.reach, 2)}"
            for name, trait in traits.items()
        ),
        paint,
        height=110 + 18 * len(series) + (24 + 14 * len(series)) * len(names),
    )


def write_shift_report(run: ShiftRun, path: Path | str) -> None:
    """Write the character sheet of a fine-tune."""
    write_page(
        path,
        "shifts/page.html",
        run=run,
        plots={"shifts": shifts(run.traits, run.systems)},
        names=system_names(run.systems),
        provenance=provenance_tables(run),
    )
