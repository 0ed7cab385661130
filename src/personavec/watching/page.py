"""The page of calibrated limits."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from personavec.report import words
from personavec.report.drawing import GOOD, SERIES, Plot, in_rows, label, plot
from personavec.report.render import write_page
from personavec.watching.delays import DRIFTS
from personavec.watching.log import Traffic
from personavec.watching.result import RULES, Limits, RuleName
from personavec.watching.rules import known_scale, readings
from personavec.watching.verdict import verdict


def write_limits_page(limits: Limits, traffic: Traffic, path: Path) -> None:
    """Write it."""
    made = [("command", f"personavec {limits.command} {limits.personavec}"), ("written", limits.written)]
    steering = ("steering", "; ".join(limits.steering) or "none")
    write_page(
        path,
        "watching/page.html",
        limits=limits,
        rules=RULES,
        verdict=verdict(limits),
        drifts=DRIFTS,
        delays={(one.rule, one.drift): one for one in limits.delays},
        plots=[normal_plot(rule, limits, traffic) for rule in ("before", "during")],
        provenance=[
            ("run", made),
            ("arguments", words.facts(limits.arguments)),
            ("log", [steering, *((f"vector of {trait}", hash) for trait, hash in limits.vectors.items())]),
        ],
        summary_file=path.with_suffix(".json").name,
    )


def normal_plot(rule: RuleName, limits: Limits, traffic: Traffic) -> Plot:
    """Where normal answers lie along each trait, with the limits."""
    found = limits.rules[rule]
    values = known_scale(found, traffic).of_values(readings(rule, traffic))
    quantiles = np.percentile(values, [2.5, 25, 50, 75, 97.5], axis=0).T

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (trait, (low, first, middle, third, high)) in enumerate(zip(traffic.traits, quantiles, strict=True)):
            colour = SERIES[row % len(SERIES)]
            axes.plot([low, high], [row, row], color=colour, linewidth=1.5)
            axes.plot([first, third], [row, row], color=colour, linewidth=8, solid_capstyle="butt", alpha=0.6)
            axes.plot(middle, row, "o", color=colour, markersize=7)
            axes.plot(values[:, row].max(), row, "|", color=colour, markersize=9)
            axes.plot(found.limits[trait], row, "D", color=colour, markersize=6)
        axes.axvline(found.joint, color=GOOD, linewidth=2)
        in_rows(axes, [label(trait) for trait in traffic.traits], "deviations of normal traffic", room=0.6)

    said = "; ".join(
        f"{trait}: 95 % from {words.number(quantiles[row][0], 1)} to {words.number(quantiles[row][-1], 1)}, limit "
        f"{words.number(found.limits[trait], 1)}"
        for row, trait in enumerate(traffic.traits)
    )
    return plot(
        f"normal-{rule}",
        RULES[rule],
        f"Normal answers (n = {len(values)}): the dot is the middle one, the thick bar holds half, the thin line 95 %, "
        "the tick is the highest. The diamond is the limit of a trait watched alone, the green line that of all.",
        said,
        paint,
        height=85 + 34 * len(traffic.traits),
    )
