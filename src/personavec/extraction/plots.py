"""The plots of an extraction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from personavec.extraction.result import ExtractionRun
from personavec.info import DosePoint
from personavec.report.drawing import (
    COHERENCE,
    GOOD,
    INK,
    LINE,
    MARKERS,
    MUTED,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    SCORE,
    WIDTH,
    Plot,
    dots,
    label,
    plot,
    whiskers,
)
from personavec.report.words import estimate, interval, number, signed
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate

BINS = 20
LAYERS_SHOWN = 8  # tick labels of a layer axis


def dose_response(trait: str, dose: Sequence[DosePoint], coherent: tuple[float, float]) -> Plot:
    """Score and coherence over the coefficient, with the coherent range shaded."""
    points = sorted(dose, key=lambda p: p.coefficient)
    name = label(trait)
    coefficients = [p.coefficient for p in points]
    percent = next((100 * p.share / p.coefficient for p in points if p.share and p.coefficient), 0.0)

    def push(coefficient: Any) -> Any:
        return coefficient * percent

    def coefficient(push: Any) -> Any:
        return push / percent

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        curve(axes, coefficients, [p.score for p in points], SCORE, "o", "score")
        curve(axes, coefficients, [p.coherence for p in points], COHERENCE, "s", "coherence")
        axes.axvspan(*coherent, color=GOOD, alpha=0.13, label="coherent range")
        scale_0_to_100(axes)
        axes.set_xticks(coefficients, [signed(float(f"{c:.3g}")) for c in coefficients])
        axes.set_xlabel("coefficient (multiples of the vector)")
        if percent:
            top = axes.secondary_xaxis("top", functions=(push, coefficient))
            top.set_xticks([push(c) for c in coefficients])
            top.set_xticklabels([f"{push(c):.0f}".replace("-", "−") for c in coefficients])
            top.set_xlabel("size of the push (% of the residual stream's norm)")
            top.spines["top"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3)

    ends = "; ".join(
        f"at {signed(p.coefficient)} score {estimate(p.score)}, coherence {estimate(p.coherence)}" for p in points
    )
    return plot(
        "dose",
        "The more is added, the more of the trait?",
        f"Read from left to right: a line of {name} scores that climbs while coherence stays high means that the "
        "vector works as a dial; bands are 95 % intervals, the green area is where answers stay coherent.",
        ends,
        paint,
        height=310,
    )


def layer_sweep(run: ExtractionRun) -> Plot:
    """Score and coherence by layer, a line for each coefficient tried."""
    points = run.layer_sweep
    coefficients = sorted({p.coefficient for p in points}, key=lambda c: (abs(c), c))
    sizes = sorted({abs(c) for c in coefficients}, reverse=True)

    def paint(figure: Figure) -> None:
        score, coherence = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for coefficient in coefficients:
            line = sorted((p for p in points if p.coefficient == coefficient), key=lambda p: p.layer)
            layers = [p.layer for p in line]
            colour = POSITIVE if coefficient > 0 else NEGATIVE if coefficient < 0 else NEUTRAL
            marker = list(MARKERS)[sizes.index(abs(coefficient)) % len(MARKERS)]
            curve(score, layers, [p.score for p in line], colour, marker, f"coefficient {signed(coefficient)}")
            curve(coherence, layers, [p.coherence for p in line], colour, marker, None)
        for axes, text in ((score, "trait score (points)"), (coherence, "coherence (points)")):
            scale_0_to_100(axes)
            axes.set_title(text)
            axes.axvline(run.layer, color=MUTED, linestyle=":", linewidth=1.5)
        layer_ticks(coherence, [p.layer for p in points])
        figure.legend(loc="outside upper left", ncols=2 if len(coefficients) > 1 else 1)

    return plot(
        "sweep",
        "Which layer steers best?",
        "The best layer is where the lines for adding and for subtracting lie furthest apart while coherence stays "
        "high; it was chosen (dotted line) on extraction questions, never on those that score it elsewhere on this "
        "page.",
        f"Layers tried: {', '.join(str(n) for n in sorted({p.layer for p in points}))}; chosen: {run.layer}.",
        paint,
        height=350,
    )


def chance_effects(run: ExtractionRun) -> Plot:
    """The steering effect of the vector beside those of random directions of equal norm."""
    steering = run.steering
    effects = sorted(steering.null.effects)
    same, coefficient, everything = steering.effect_on_null_questions, steering.coefficient, steering.effect

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        reach = max(map(abs, effects), default=0.0)
        axes.axvspan(-reach, reach, color=NEUTRAL, alpha=0.13)
        axes.axvline(0, color=LINE)
        axes.errorbar(
            everything.mean, 2, xerr=whiskers(everything), fmt="o", color=SCORE, capsize=4, markersize=8, zorder=3
        )
        axes.plot(same, 1, "D", color=SCORE, markersize=7)
        dots(axes, effects, 0.0, NEUTRAL, near=(max(reach, everything.mean, same) + reach) / 40)
        rows = (f"{len(effects)} random\ndirections", "this vector,\nfewer questions", "this vector,\nall questions")
        axes.set_yticks(range(3), rows)
        axes.set_ylim(-0.6, 2.5)
        axes.margins(x=0.07)
        axes.grid(False)
        axes.set_xlabel(f"change of the score from {signed(-coefficient)} to {signed(coefficient)} (points)")

    return plot(
        "chance",
        "Is that more than chance?",
        "Each grey dot is a random direction of the same size: the vector means something where its marks lie clearly "
        "outside the grey area that chance reaches; the bar is a 95 % interval, and the middle row uses only those "
        "questions that the random directions were tried on.",
        f"This vector moves the score by {estimate(everything)} points, by {same:.0f} on the questions of the random "
        f"directions; those move it by {', '.join(f'{e:.0f}' for e in effects)}.",
        paint,
        height=220,
    )


def scores(run: ExtractionRun) -> Plot | None:
    """Distribution of the extraction rollouts' scores, mirrored by side; kept ones filled."""
    sides = {"positive": run.scores.positive, "negative": run.scores.negative}
    table = {side: [(r.score, r.kept) for r in rows if r.score is not None] for side, rows in sides.items()}
    if not any(table.values()):
        return None
    threshold = run.judge.threshold
    edges = np.linspace(0, 100, BINS + 1)
    counts = {
        (side, chosen): np.histogram([score for score, kept in table[side] if kept or not chosen], edges)[0]
        for side in table
        for chosen in (False, True)
    }
    most = max(int(c.max()) for c in counts.values())

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for side, sign, colour in (("positive", 1, POSITIVE), ("negative", -1, NEGATIVE)):
            for chosen, alpha in ((False, 0.28), (True, 1.0)):
                axes.bar(
                    edges[:-1], sign * counts[side, chosen], np.diff(edges) * 0.9, align="edge",
                    color=colour, alpha=alpha, label=f"{side}, {'kept' if chosen else 'all'}",
                )  # fmt: skip
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(threshold, color=MUTED, linestyle=":", linewidth=1.5)
        axes.set_xlim(0, 100)
        axes.set_ylim(-most * 1.12, most * 1.12)
        ticks = [t for t in axes.get_yticks() if t == int(t) and abs(t) <= most * 1.12]
        axes.set_yticks(ticks, [f"{abs(t):.0f}" for t in ticks])
        axes.set_ylabel("rollouts")
        axes.set_xlabel("trait score given by the judge (points)")
        figure.legend(loc="outside upper left", ncols=2)

    kept = {side: sum(kept for _, kept in rows) for side, rows in table.items()}
    return plot(
        "scores",
        "What the judge made of the rollouts",
        "Bars upwards are answers that were told to show the trait, bars downwards answers that were told not to; "
        f"pale is everything, solid what passed the filter, and good rollouts lie right of {threshold:g} above and "
        "left of it below.",
        "; ".join(f"{side}: {len(table[side])} rollouts with a score, {kept[side]} kept" for side in table),
        paint,
        height=290,
    )


def projections(run: ExtractionRun) -> Plot | None:
    """Histograms of the projections on the vector: both sides and neutral answers, on one scale."""
    sides = (
        ("positive", run.projections.positive, POSITIVE),
        ("neutral", run.projections.neutral, NEUTRAL),
        ("negative", run.projections.negative, NEGATIVE),
    )
    rows = [(name, np.asarray(values, dtype=float), colour) for name, values, colour in sides if values]
    if not rows:
        return None
    together = np.concatenate([values for _, values, _ in rows])
    low, high = float(together.min()), float(together.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    means = {name: bootstrap_mean(values) for name, values, _ in rows}

    def paint(figure: Figure) -> None:
        many = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (name, values, colour) in zip(many, rows, strict=True):
            heights = np.histogram(values, edges)[0] / len(values) * 100
            axes.bar(edges[:-1], heights, np.diff(edges) * 0.9, align="edge", color=colour, alpha=0.75)
            axes.axvline(values.mean(), color=INK, linewidth=1.5)
            mean = means[name]
            axes.set_title(f"{name}: mean {number(mean.mean, 1)} ({interval(mean, 1)}), n = {mean.n}")
        many[len(rows) // 2].set_ylabel("share of the answers (%)")
        many[-1].set_xlabel("projection on the vector (residual stream units)")

    return plot(
        "projections",
        "Can the vector be seen inside the model?",
        "Each row shows how strongly the model's activity points along the vector while it answers unseen questions: "
        "the further the top row lies to the right of the bottom row, the better the vector tells the sides apart; "
        "upright lines are means, with their 95 % intervals above.",
        "; ".join(f"{name}: mean {estimate(means[name], 2)}" for name, _, _ in rows),
        paint,
        height=330,
    )


def separation(run: ExtractionRun) -> Plot:
    """AUC of the vector at every layer against what random directions reach."""
    values, chosen = run.separation.by_layer, run.separation.auc
    layers = list(range(1, len(values) + 1))
    alike, anything = run.separation.null.shuffled, run.separation.null.isotropic

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhspan(alike.mean, alike.p95, color=NEUTRAL, alpha=0.25, label="sides shuffled: mean to p95")
        axes.axhline(anything.p95, color=NEUTRAL, linestyle="--", linewidth=1.5, label="random, any way: p95")
        axes.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.5, label="coin toss")
        axes.plot(layers, values, color=SCORE, marker="o", markersize=3.5, label="this vector")
        axes.errorbar(run.layer, chosen.mean, yerr=whiskers(chosen), fmt="o", color=SCORE, capsize=4, markersize=8)
        axes.set_ylim(min(0.4, *values, chosen.low) - 0.03, 1.03)
        axes.set_ylabel("AUC (0.5 chance, 1 perfect)")
        layer_ticks(axes, layers)
        figure.legend(loc="outside upper left", ncols=1)

    return plot(
        "separation",
        "How well does it tell the sides apart?",
        "AUC is how often an answer with the trait projects higher than one without: above the grey band, the vector "
        "does better than 95 % of directions that were made the same way of shuffled sides and could pick their best "
        "layer; the bar is the 95 % interval at the chosen layer.",
        f"At layer {run.layer}: AUC {estimate(chosen, 2)}; over all layers {min(values):.2f} to {max(values):.2f}.",
        paint,
        height=320,
    )


def cosines(run: ExtractionRun) -> Plot | None:
    """Cosines between the vectors of the model, as a heat map."""
    table = run.specificity
    if len(table.vectors) < 2:
        return None
    return _heat_map(
        "cosines",
        "How alike are the vectors?",
        "Each cell compares two vectors of this model: 1 is the same direction (red), 0 unrelated (pale), −1 opposite "
        "(blue); a trait of its own is pale everywhere but on the diagonal. Each row is measured at that vector's own "
        "layer, so the two halves differ a little.",
        (table.vectors, "vector"),
        (table.vectors, "vector (cosine)"),
        table.cosine,
        [1.0] * len(table.vectors),
        2,
        run.trait.name,
    )


def cross_effects(run: ExtractionRun) -> Plot | None:
    """Effect of steering by each vector on each trait's score, as a heat map."""
    table = run.specificity
    means = [[None if e is None else e.mean for e in row] for row in table.effect]
    # Every trait has a judge of its own: colours compare within a column.
    most = [max((abs(mean) for mean in column if mean is not None), default=0.0) for column in zip(*means, strict=True)]
    if len(table.vectors) < 2 or not any(most):
        return None
    return _heat_map(
        "effects",
        "What else does steering change?",
        "Each row is a vector, each column the trait whose score it raises (red) or lowers (blue), in points of that "
        "trait's own judge. Compare within a column only, as the colours do: a score that its own vector moves most is "
        "strongest on the diagonal; a dot was not measured.",
        (table.vectors, "steered by"),
        (table.vectors, "score of (change in points)"),
        means,
        most,
        0,
        run.trait.name,
    )


def curve(
    axes: Any, x: Sequence[float], estimates: Sequence[Estimate], colour: str, marker: str, text: str | None
) -> None:
    """A line through the means with a band of the intervals; a single point gets whiskers instead."""
    axes.plot(x, [e.mean for e in estimates], color=colour, marker=marker, label=text)
    if len(x) == 1:
        axes.errorbar(x[0], estimates[0].mean, yerr=whiskers(estimates[0]), color=colour, capsize=4)
    bounds = [(e.low, e.high) if e.bounded else (e.mean, e.mean) for e in estimates]
    axes.fill_between(x, *zip(*bounds, strict=True), color=colour, alpha=0.18)


def layer_ticks(axes: Any, layers: Sequence[int]) -> None:
    """An axis for layers, with few enough numbers to be read."""
    distinct = sorted(set(layers))
    if len(distinct) > LAYERS_SHOWN:
        step = -(-len(distinct) // LAYERS_SHOWN)
        distinct = distinct[step - 1 :: step]
    axes.set_xticks(distinct)
    axes.set_xlabel("layer (1 = first block's output)")


def _heat_map(
    name: str,
    title: str,
    caption: str,
    rows: tuple[Sequence[str], str],
    columns: tuple[Sequence[str], str],
    values: Sequence[Sequence[float | None]],
    most: Sequence[float],
    digits: int,
    own: str,
) -> Plot:
    down, across = ([label(n) for n in names] for names in (rows[0], columns[0]))
    width = max(WIDTH, 110 + 33 * len(across))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                strength = 0.0 if value is None else min(1.0, abs(value) / most[j]) if most[j] else 0.0
                colour = NEUTRAL if value is None else POSITIVE if value >= 0 else NEGATIVE
                axes.add_patch(Rectangle((j, i), 0.95, 0.95, color=colour, alpha=0.04 + 0.6 * strength))
                text = "·" if value is None else number(value, digits)
                axes.text(j + 0.475, i + 0.475, text, ha="center", va="center", fontsize=10 if digits else 11)
        axes.set_xlim(0, len(across))
        axes.set_ylim(len(down), 0)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_yticks(np.arange(len(down)) + 0.475, down)
        axes.set_xticks(np.arange(len(across)) + 0.475, across, rotation=90)
        for axis, names in ((axes.xaxis, columns[0]), (axes.yaxis, rows[0])):
            for tick, name in zip(axis.get_ticklabels(), names, strict=True):
                if name == own:
                    tick.set(fontweight="bold", color=INK)
        axes.set_xlabel(columns[1])
        axes.set_ylabel(rows[1])

    words = "; ".join(
        f"{down[i]} with {across[j]}: {'not measured' if v is None else number(v, digits)}"
        for i, row in enumerate(values)
        for j, v in enumerate(row)
    )
    return plot(name, title, caption, words, paint, height=115 + 33 * len(down), width=width)


def scale_0_to_100(axes: Any) -> None:
    """An axis for points."""
    axes.set_ylim(-4, 104)
    axes.set_yticks([0, 25, 50, 75, 100])
