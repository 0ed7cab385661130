"""The report of an evaluation."""

from pathlib import Path
from typing import Any

from personavec.report.page import Section, interval, number, provenance, write_page


def write(run: dict[str, Any], path: Path | str) -> None:
    """Write report.html from the content of run.json."""
    steer = "; ".join(run["steer"]) or "none"
    sections = [
        Section(
            "Scores",
            f"Mean over the evaluation questions, 95 % intervals from resampling questions. Steering: {steer}. "
            f"Judge: {run['judge']}.",
            headings=("", "mean [95 %]", "questions"),
            rows=[
                [label, interval(run[key]), str(run[key]["n"])]
                for label, key in ((run["trait"], "score"), ("coherence", "coherence"))
            ],
        ),
        Section(
            "Answers",
            headings=("question", "answer", "score", "coherence"),
            rows=[[a["question"], a["text"], number(a["score"]), number(a["coherence"])] for a in run["answers"]],
        ),
        provenance(run),
    ]
    write_page(path, f"Evaluation: {run['trait']}", f"Model: {run['model']['id']}. Steering: {steer}.", sections)
