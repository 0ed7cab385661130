"""The page of an extraction from given texts."""

from pathlib import Path

from matplotlib.figure import Figure

from personavec.extraction import plots
from personavec.extraction.given.result import TextsRun
from personavec.extraction.given.steering import EFFECT
from personavec.report.drawing import COHERENCE, MUTED, NEUTRAL, SCORE, SERIES, Plot, plot, whiskers
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate, number


def write_texts_report(run: TextsRun, path: Path | str) -> None:
    """Write the page of an extraction from given texts."""
    write_page(
        path,
        "extraction/given/page.html",
        run=run,
        effect=100 * EFFECT,
        styles=[
            (f"{judge.name}: {what}", held)
            for judge in run.judges
            if judge.steering is not None
            for what, held in (
                (f"−{100 * EFFECT:g} % to +{100 * EFFECT:g} %", judge.steering.style),
                (f"not steered to +{100 * EFFECT:g} %", judge.steering.from_plain),
            )
        ],
        plots={"pushes": pushes(run), "layers": layers(run)},
        provenance=provenance_tables(run, run.seconds, run.timings),
    )


def pushes(run: TextsRun) -> Plot:
    """Both judges' scores, and coherence, over the push."""
    shares = [100 * push.share for push in run.pushes]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for judge, colour, marker in zip(run.judges, (SCORE, SERIES[1]), "o^", strict=True):
            known = [(x, p.score.get(judge.name)) for x, p in zip(shares, run.pushes, strict=True)]
            line = [(x, score) for x, score in known if score is not None]
            if line:
                plots.curve(axes, [x for x, _ in line], [s for _, s in line], colour, marker, f"{judge.name} score")
        plots.curve(axes, shares, [p.coherence for p in run.pushes], COHERENCE, "s", "coherence")
        plots.scale_0_to_100(axes)
        axes.set_xticks(shares, [number(share, 1).removesuffix(".0") for share in shares])
        axes.set_xlabel("push (% of the residual stream's norm)")
        figure.legend(loc="outside upper left", ncols=3)

    return plot(
        "pushes",
        "The harder the push, the more of the trait?",
        "Lines that climb to the right while coherence stays high mean that the vector works as a dial. The "
        "two judges know the trait from different sources; where only one line climbs, mistrust it. Bands are 95 % "
        "intervals.",
        "; ".join(f"at {number(100 * p.share, 1)} % coherence {estimate(p.coherence)}" for p in run.pushes),
        paint,
        height=310,
    )


def layers(run: TextsRun) -> Plot:
    """AUC on the test half at every layer, against what chance reaches at the vector's."""
    values, chosen, null = run.separation.by_layer, run.separation.auc, run.controls.isotropic
    numbers = list(range(1, len(values) + 1))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhspan(null.mean, null.p95, color=NEUTRAL, alpha=0.25, label="random directions there: mean to p95")
        axes.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.5, label="coin toss")
        axes.plot(numbers, values, color=SCORE, marker="o", markersize=3.5, label="this vector")
        axes.errorbar(run.layer, chosen.mean, yerr=whiskers(chosen), fmt="o", color=SCORE, capsize=4, markersize=8)
        axes.set_ylim(min(0.4, *values, chosen.low) - 0.03, 1.03)
        axes.set_ylabel("AUC (0.5 chance, 1 perfect)")
        plots.layer_ticks(axes, numbers)
        figure.legend(loc="outside upper left", ncols=1)

    return plot(
        "layers",
        "How well does it read?",
        "AUC is how often, of two texts about other questions, the one with the trait projects higher; the bar "
        "is the 95 % interval at the vector's layer, the grey band what random directions reach there.",
        f"At layer {run.layer}: AUC {estimate(chosen, 2)}; over all layers {min(values):.2f} to {max(values):.2f}.",
        paint,
        height=300,
    )
