"""The page of a monitoring run."""

from pathlib import Path
from typing import Any

from personavec.monitoring import drift
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page

TURNS_SHOWN = 30  # of a conversation, as text


def write_monitor_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page of a monitoring run.

    Args:
        run: {"command": "monitor", "model": {"id", ...}, "read", "rejected": counts of lines,
            "vectors": [{"name", "layer", "neutral_mean", "neutral_deviation"}],
            "conversations": [{"id", "line", "turns": [{"index" (from 0), "role": "assistant", "text" (its beginning),
            "before", "during": {name: deviations from neutral, or None}, "before_raw", "during_raw": {name:
            projection}}]}], and the provenance as in an extraction}.
        path: Of the page.
    """
    scale = drift.Scale.of(run)
    conversations = [c for c in run.get("conversations") or [] if c["turns"]]
    chosen = drift.largest(scale, conversations)
    write_page(
        path,
        "monitoring/page.html",
        run=run,
        scale=scale,
        several=len(run.get("sources") or []) > 1,
        total=len(conversations),
        turns_shown=TURNS_SHOWN,
        overview=drift.overview(scale, conversations),
        farthest=drift.farthest(scale, conversations),
        plots={"spread": drift.spread(scale, conversations), "average": drift.average(scale, conversations)},
        conversations=[(c, drift.conversation(scale, c, number)) for number, c in enumerate(chosen, 1)],
        provenance=provenance_tables(run),
    )
