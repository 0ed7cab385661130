"""The report of monitoring."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.report import figures
from personavec.report.page import Figure, Section, provenance, write_page

SHOWN = 50


def write(run: dict[str, Any], path: Path | str) -> None:
    """Write report.html from the content of run.json and the lines of projections.jsonl."""
    names = [vector["name"] for vector in run["vectors"]]
    ordered = sorted(run["conversations"], key=lambda c: -_drift(c, names))[:SHOWN]
    plots = [
        Figure(
            f"Conversation {c['id']} (line {c['line']})",
            f"Farthest answer: {_drift(c, names):.1f} deviations. Solid: during the answer; dotted: before it.",
            Markup(figures.drift(c["turns"], names)),
        )
        for c in ordered
        if any(t["during"].get(n) is not None for t in c["turns"] for n in names)
    ]
    shown = f"The {len(plots)} conversations that move farthest, of {run['scored']}." if plots else (
        "The vectors have no neutral statistics, so there are no deviations to draw; projections.jsonl holds the "
        "projections."
    )  # fmt: skip
    farthest = sorted(
        (
            (t["during"][n], n, c, t)
            for c in run["conversations"]
            for t in c["turns"]
            for n in names
            if t["during"].get(n) is not None
        ),
        key=lambda item: -abs(item[0]),
    )[:SHOWN]
    sections = [
        Section(
            "Summary",
            f"{run['read']} conversations read, {run['scored']} scored, {run['rejected']} rejected (rejected.jsonl "
            "says why).",
            headings=("vector", "layer", "answers", "above 2 deviations", "farthest above"),
            rows=[
                [
                    v["name"],
                    str(v["layer"]),
                    str(top["turns"]),
                    str(top["above_2"]),
                    f"{top['z']:+.1f} (line {top['line']})",
                ]
                for v in run["vectors"]
                if (top := run["largest"].get(v["name"]))
            ],
        ),
        Section("Drift", shown, figures=plots),
        Section(
            "Farthest answers",
            headings=("deviations", "vector", "line", "answer"),
            rows=[[f"{z:+.1f}", n, f"{c['line']}, answer {t['index'] + 1}", t["text"]] for z, n, c, t in farthest],
        ),
        provenance(run),
    ]
    write_page(path, "Monitoring", f"Model: {run['model']['id']}. Vectors: {', '.join(names)}.", sections)


def _drift(conversation: dict[str, Any], names: list[str]) -> float:
    return max((abs(t["during"].get(n) or 0.0) for t in conversation["turns"] for n in names), default=0.0)
