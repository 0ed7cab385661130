"""One self-contained report.html per run. Plots are drawn only when a report is written."""

from pathlib import Path
from typing import Any


def write_extract_report(run: dict[str, Any], path: Path | str) -> None:
    """The report of an extraction, from the content of its run.json."""
    from personavec.report.extract import write

    write(run, path)


def write_evaluate_report(run: dict[str, Any], path: Path | str) -> None:
    """The report of an evaluation, from the content of its run.json."""
    from personavec.report.evaluate import write

    write(run, path)


def write_monitor_report(run: dict[str, Any], path: Path | str) -> None:
    """The report of monitoring: the content of run.json, and "conversations", the lines of projections.jsonl."""
    from personavec.report.monitor import write

    write(run, path)
