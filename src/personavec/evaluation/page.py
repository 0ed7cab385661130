"""The page of an evaluation."""

from pathlib import Path

from matplotlib.figure import Figure

from personavec.evaluation.result import EvaluationRun
from personavec.report.drawing import COHERENCE, SCORE, Plot, dots, in_rows, plot, whiskers
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate

ANSWERS_SHOWN = 100


def write_evaluate_report(run: EvaluationRun, path: Path | str) -> None:
    """Write the page of an evaluation."""
    write_page(
        path,
        "evaluation/page.html",
        run=run,
        plots={"answers": answers_plot(run)},
        answers=run.answers[:ANSWERS_SHOWN],
        questions=len({answer.question for answer in run.answers}),
        provenance=provenance_tables(run),
    )


def answers_plot(run: EvaluationRun) -> Plot | None:
    """Score and coherence of every answer of an evaluation, with the means and their intervals."""
    coherence = [a.coherence for a in run.answers if a.coherence is not None]
    score = [a.score for a in run.answers if a.score is not None]
    rows = [("coherence", coherence, run.coherence, COHERENCE, "s"), ("score", score, run.score, SCORE, "o")]
    if not score:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (_, values, mean, colour, marker) in enumerate(rows):
            dots(axes, values, row - 0.2, colour, near=2.4, alpha=0.5)
            axes.errorbar(mean.mean, row + 0.28, xerr=whiskers(mean), fmt=marker, color=colour, capsize=4, markersize=8)
        in_rows(axes, [name for name, *_ in rows], "points (0 to 100)", room=0.6)
        axes.invert_yaxis()
        axes.set_xlim(-3, 103)

    return plot(
        "answers",
        "Every answer's score",
        "Each pale dot is one answer, the large mark above the dots their mean with its 95 % interval; the further "
        "right, the more of the trait (score) and the more sensible the text (coherence).",
        f"Mean score {estimate(run.score)}, mean coherence {estimate(run.coherence)}, {len(score)} answers.",
        paint,
        height=220,
    )
