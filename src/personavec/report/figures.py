"""Plots as inline SVG whose colours are the page's, so that they follow light, dark and print."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Colours that occur nowhere else; each becomes the CSS variable beside it.
INK, FAINT = "#010203", "#040506"
ACCENT, SECOND, THIRD = "#070809", "#0a0b0c", "#0d0e0f"
VARIABLES = {INK: "--ink", FAINT: "--faint", ACCENT: "--accent", SECOND: "--second", THIRD: "--third"}
WIDTH, HEIGHT = 5.2, 3.2  # inches: text stays readable on a phone's width

_numbers = itertools.count()


def draw(title: str, paint: Callable[[Axes], None], *, height: float = HEIGHT) -> str:
    """One figure as an <svg> element that scales to its container.

    Args:
        title: Read out by screen readers.
        paint: Draws on the axes.
    """
    settings = {
        "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "svg.hashsalt": "personavec",
        "text.color": INK, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), title)


def _themed(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([^;\"]*?)'[^']*'[^;\"]*", r"font: \1sans-serif", svg)
    prefix = f"f{next(_numbers)}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{prefix}\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    return svg.replace('role="img">', f'role="img"><title>{title}</title>', 1)


def _band(axes: Axes, points: Sequence[dict[str, Any]], key: str, colour: str, label: str, style: str = "-") -> None:
    x = [p["coefficient"] for p in points]
    axes.plot(x, [p[key]["mean"] for p in points], style, marker="o", color=colour, label=label, markersize=4)
    axes.fill_between(
        x, [p[key]["low"] for p in points], [p[key]["high"] for p in points], color=colour, alpha=0.18, lw=0
    )


def dose_response(run: dict[str, Any]) -> str:
    """Score and coherence by coefficient, with the coherent range."""

    def paint(axes: Axes) -> None:
        low, high = run["coherent_range"]
        axes.axvspan(low, high, color=FAINT, alpha=0.12, lw=0, label="coherent")
        _band(axes, run["dose_response"], "score", ACCENT, f"{run['trait']['name']} score")
        _band(axes, run["dose_response"], "coherence", SECOND, "coherence", "--")
        axes.set(
            xlabel="coefficient (multiples of the vector)", ylabel="0 to 100", ylim=(-16, 104), yticks=range(0, 101, 20)
        )
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.0), fontsize=9, ncols=3)
        share = run["vector_norm"] / run["residual_norm"]
        top = axes.secondary_xaxis("top", functions=(lambda c: c * share, lambda s: s / share))
        top.set_xlabel("as a share of the residual norm")

    return draw("Dose-response", paint, height=3.6)


def layer_sweep(run: dict[str, Any]) -> str:
    """Score and coherence by layer."""

    def paint(axes: Axes) -> None:
        points = run["layer_sweep"]
        coefficients = sorted({p["coefficient"] for p in points})
        for coefficient, colour in zip(coefficients[-2:], (SECOND, ACCENT), strict=False):
            mine = [p for p in points if p["coefficient"] == coefficient]
            x = [p["layer"] for p in mine]
            error = [
                [p["score"]["mean"] - p["score"]["low"] for p in mine],
                [p["score"]["high"] - p["score"]["mean"] for p in mine],
            ]
            axes.errorbar(x, [p["score"]["mean"] for p in mine], error, marker="o", color=colour, capsize=2,
                          label=f"score at {coefficient:+g}")  # fmt: skip
            axes.plot(
                x, [p["coherence"]["mean"] for p in mine], ":", color=colour, label=f"coherence at {coefficient:+g}"
            )
        axes.axvline(run["layer"], color=FAINT, lw=6, alpha=0.25)
        axes.set(xlabel="layer", ylabel="0 to 100", ylim=(-24, 104), yticks=range(0, 101, 20))
        axes.set_xticks(sorted({p["layer"] for p in points}))
        axes.legend(loc="lower center", fontsize=8, ncols=2)

    return draw("Score by layer", paint)


def score_distributions(run: dict[str, Any]) -> str:
    """Judge scores of both sides, all and kept."""

    def paint(axes: Axes) -> None:
        bins = np.linspace(0, 100, 21)
        for side, colour in (("positive", ACCENT), ("negative", SECOND)):
            scored = [s for s in run["scores"][side] if s["score"] is not None]
            axes.hist([s["score"] for s in scored], bins, histtype="step", color=colour, lw=1.3, label=f"{side}, all")
            axes.hist([s["score"] for s in scored if s["kept"]], bins, color=colour, alpha=0.35, label=f"{side}, kept")
        axes.axvline(run["judge"]["threshold"], color=FAINT, ls="--")
        axes.set(xlabel="trait score", ylabel="rollouts")
        axes.legend(fontsize=9)

    return draw("Scores before and after filtering", paint)


def projections(run: dict[str, Any]) -> str:
    """Projections of both sides and of neutral answers."""

    def paint(axes: Axes) -> None:
        groups = run["projections"]
        everything = np.concatenate([np.asarray(v) for v in groups.values()])
        bins = np.linspace(everything.min(), everything.max(), 25)
        for name, colour in (("positive", ACCENT), ("negative", SECOND), ("neutral", THIRD)):
            axes.hist(groups[name], bins, color=colour, alpha=0.4, label=f"{name} (n = {len(groups[name])})")
        axes.set(xlabel=f"projection at layer {run['layer']}", ylabel="answers")
        axes.legend(fontsize=9)

    return draw("Projections", paint)


def separation(run: dict[str, Any]) -> str:
    """AUC by layer against the nulls."""

    def paint(axes: Axes) -> None:
        values = run["separation"]["by_layer"]
        axes.plot(range(1, len(values) + 1), values, marker=".", color=ACCENT, label="this vector, each layer")
        for (name, null), colour in zip(run["separation"]["null"].items(), (THIRD, SECOND), strict=True):
            axes.axhspan(null["mean"], null["p95"], color=colour, alpha=0.2, lw=0,
                         label=f"{name} random directions, mean to 95th percentile")  # fmt: skip
        axes.axvline(run["layer"], color=FAINT, lw=6, alpha=0.25)
        axes.set(xlabel="layer", ylabel="AUC on unseen questions", ylim=(0, 1.02))
        axes.legend(fontsize=8, loc="lower right")

    return draw("Separation by layer", paint)


def steering_null(run: dict[str, Any]) -> str:
    """The steering effect against those of random directions."""

    def paint(axes: Axes) -> None:
        steering = run["steering"]
        effects = steering["null"]["effects"]
        axes.scatter(effects, np.zeros(len(effects)), color=SECOND, label=f"random directions (n = {len(effects)})")
        axes.scatter(
            [steering["effect_on_null_questions"]],
            [0],
            color=ACCENT,
            marker="D",
            s=60,
            label="this vector, same questions",
        )
        e = steering["effect"]
        axes.errorbar([e["mean"]], [0.5], xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]], fmt="D", color=ACCENT,
                      capsize=3, mfc="none", label=f"this vector, all questions (n = {e['n']})")  # fmt: skip
        axes.axvline(0, color=FAINT, lw=1)
        axes.set(
            xlabel=f"score at +{steering['coefficient']:g} minus score at -{steering['coefficient']:g}",
            yticks=[],
            ylim=(-0.5, 1.9),
        )
        axes.legend(fontsize=8, loc="upper left")

    return draw("Steering against chance", paint, height=2.4)


def matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], form: str, title: str,
           labels: tuple[str, str], limit: float) -> str:  # fmt: skip
    """A heatmap with named axes; a missing value is an empty cell."""

    def paint(axes: Axes) -> None:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value is None:
                    continue
                colour = ACCENT if value >= 0 else SECOND
                axes.add_patch(_cell(j, i, colour, min(1.0, abs(value) / limit)))
                axes.text(j, i, form.format(value), ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=labels[1], ylabel=labels[0])
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
        axes.set_yticks(range(len(rows)), rows)

    return draw(title, paint, height=1.6 + 0.34 * len(rows))


def _cell(x: int, y: int, colour: str, strength: float) -> Rectangle:
    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, alpha=0.6 * strength, lw=0)


def drift(turns: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """z-scores over the turns of one conversation, before and during each answer."""

    def paint(axes: Axes) -> None:
        axes.axhspan(-2, 2, color=FAINT, alpha=0.15, lw=0, label="normal range (±2)")
        x = np.arange(1, len(turns) + 1)
        for name, colour in zip(names, itertools.cycle((ACCENT, SECOND, THIRD)), strict=False):
            for moment, style in (("during", "-o"), ("before", ":s")):
                z = [t[moment].get(name) for t in turns]
                axes.plot(
                    x, [np.nan if v is None else v for v in z], style, color=colour, label=f"{name}, {moment}", ms=4
                )
        axes.set(xlabel="answer", ylabel="deviations from neutral", xticks=x[:: max(1, len(x) // 12)])
        axes.legend(fontsize=8)

    return draw("Drift over the conversation", paint)
