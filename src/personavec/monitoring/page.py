"""The page of a monitoring run."""

from collections.abc import Sequence
from pathlib import Path

from personavec.monitoring import drift
from personavec.monitoring.result import MonitorRun, WatchedConversation
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page

TURNS_SHOWN = 30  # of a conversation, as text


def write_monitor_report(run: MonitorRun, conversations: Sequence[WatchedConversation], path: Path | str) -> None:
    """Write the page of a monitoring run."""
    scale = drift.Scale.of(run.vectors)
    spoken = [conversation for conversation in conversations if conversation.turns]
    chosen = drift.largest(scale, spoken)
    write_page(
        path,
        "monitoring/page.html",
        run=run,
        scale=scale,
        several=len(run.sources) > 1,
        total=len(spoken),
        turns_shown=TURNS_SHOWN,
        overview=drift.overview(scale, spoken),
        farthest=drift.farthest(scale, spoken),
        plots={"spread": drift.spread(scale, spoken), "average": drift.average(scale, spoken)},
        conversations=[(each, drift.conversation_plot(scale, each, number)) for number, each in enumerate(chosen, 1)],
        provenance=provenance_tables(run),
    )
