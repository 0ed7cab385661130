"""`personavec monitor`: how a model's character moves over conversations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import options as o

if TYPE_CHECKING:
    from personavec.monitoring.result import MonitorRun


def monitor(
    chats: Annotated[
        list[str],
        typer.Argument(metavar="CHATS...", help="Files, folders, or a hub id of a data set.", show_default=False),
    ],
    vector: Annotated[list[Path], typer.Option("--vector", "-v", help="Vector file. Repeatable.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: a new one in runs.", show_default=False)
    ] = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    other_weights: o.OtherWeights = False,
    format: o.DataFormat = None,
    columns: o.DataColumns = None,
    split: o.DataSplit = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Project every answer of every conversation on persona vectors, before and while it is written."""
    from personavec.vector import PersonaVector

    vectors = [PersonaVector.load(o.vector_file(path)) for path in vector]
    data = o.open_data(chats, format, columns, split)
    chat = o.open_model(model, device, dtype, adapter, thinking)

    from personavec.monitoring.job import monitor as run_monitor

    folder = out or o.default_folder("monitor", Path(chats[0]).stem, chats, vector, chat.id)
    run = run_monitor(chat, data, vectors, folder, other_weights=other_weights)
    if json:
        o.print_json(run.model_dump(mode="json", include={"records", "scored", "rejected", "vectors", "largest"}))
        return
    for note in data.notes:
        print(note)
    _show(run, folder)


def _show(run: "MonitorRun", folder: Path) -> None:
    several = len(run.sources) > 1
    print(f"{run.records} conversations read: {run.scored} scored, {run.rejected} rejected.")
    for name, peak in run.largest.items():
        print(
            f"{name}: {peak.above_2} of {peak.turns} answers lie more than 2 deviations above neutral; "
            f"the farthest at {peak.z:+.1f} (line {peak.line}{f' of {peak.source}' if several else ''}, "
            f"answer {peak.turn + 1})."
        )
    if run.rejected:
        print(f"Rejected lines and reasons: {folder / 'rejected.jsonl'}")
    print(f"Projections: {folder / 'projections.jsonl'}\nReport: {folder / 'report.html'}")
