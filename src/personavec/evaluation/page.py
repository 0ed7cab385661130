"""The page of an evaluation."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from personavec.report.drawing import COHERENCE, SCORE, Plot, dots, plot, whiskers
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page
from personavec.report.words import estimate

ANSWERS_SHOWN = 100


def write_evaluate_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page of an evaluation.

    Args:
        run: {"command": "evaluate", "trait": name, "model": {"id", ...}, "judge": name, "steer": [sentence],
            "score": estimate, "coherence": estimate,
            "answers": [{"question", "text", "score", "coherence"}], and the provenance as in an extraction}.
        path: Of the page.
    """
    answers = run.get("answers") or []
    write_page(
        path,
        "evaluation/page.html",
        run=run,
        plots={"answers": answers_plot(run)},
        answers=answers[:ANSWERS_SHOWN],
        total=len(answers),
        questions=len({answer["question"] for answer in answers}),
        provenance=provenance_tables(run),
    )


def answers_plot(run: dict[str, Any]) -> Plot | None:
    """Score and coherence of every answer of an evaluation, with the means and their intervals."""
    rows = [("coherence", COHERENCE, "s"), ("score", SCORE, "o")]
    values = {key: [a[key] for a in run.get("answers") or [] if a.get(key) is not None] for key, _, _ in rows}
    if not values["score"]:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (key, colour, marker) in enumerate(rows):
            dots(axes, values[key], row - 0.2, colour, near=2.4, alpha=0.5)
            mean = run[key]
            axes.errorbar(
                mean["mean"], row + 0.28, xerr=whiskers(mean), fmt=marker, color=colour, capsize=4, markersize=8
            )
        axes.set_yticks(range(len(rows)), [key for key, _, _ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(-3, 103)
        axes.grid(False)
        axes.grid(axis="x")
        axes.set_xlabel("points (0 to 100)")

    return plot(
        "answers",
        "Every answer's score",
        "Each pale dot is one answer, the large mark above the dots their mean with its 95 % interval; the further "
        "right, "
        "the more of the trait (score) and the more sensible the text (coherence).",
        f"Mean score {estimate(run['score'])}, mean coherence {estimate(run['coherence'])}, {len(values['score'])} "
        "answers.",
        paint,
        height=220,
    )
