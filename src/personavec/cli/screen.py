"""`personavec screen`: which data, and which samples, would change the model's character; `compare`: two screenings."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import fields_of
from personavec.screening.settings import ScreenSettings

if TYPE_CHECKING:
    from personavec.data import Dataset
    from personavec.engine import Engine
    from personavec.screening import ScreeningRun
    from personavec.vector import PersonaVector

Reference = Annotated[
    list[str] | None,
    typer.Option(
        help="Clean data that set the thresholds; harmless data of the same domain are the control. Default: a bundled "
        "set. Repeatable: the data are placed among those named after the first. With --specific domains all of them "
        "are clean domains, half of each for the directions.",
        show_default=False,
    ),
]
EngineOption = Annotated[str, typer.Option(help="What runs the model: transformers, or vllm for GPUs.")]
Ray = Annotated[str | None, typer.Option(metavar="ADDRESS|local", help="Spread the work over a Ray cluster.")]
Workers = Annotated[int | None, typer.Option(help="Models on the cluster. Default: one for every GPU, or every node.")]


def screen(
    *,
    data: o.Data,
    vector: o.Vectors,
    out: o.Out,
    model: o.Model = None,
    format: o.DataFormat = None,
    columns: o.DataColumns = None,
    split: o.DataSplit = None,
    settings: Annotated[dict[str, Any], fields_of(ScreenSettings, suited={"max_new_tokens": ""})],
    reference: Reference = None,
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    other_weights: o.OtherWeights = False,
    engine: EngineOption = "transformers",
    ray: Ray = None,
    workers: Workers = None,
    adapter: o.Adapter = None,
    thinking: o.Thinking = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Say how far data lie along each trait, which samples do it, and write a cleaned copy."""
    from personavec.vector import PersonaVector, siblings

    ScreenSettings(**settings)  # what no model could do is refused before one is loaded
    vector = [o.vector_file(path) for path in vector]
    vectors = [PersonaVector.load(path) for path in vector]
    named = o.open_data(data, format, columns, split)
    clean, *beside = [_reference(name, named, split) for name in reference] if reference else [None]
    terms = o.read_terms(settings["judge"] or "contrast", judge_price, judge_rpm)
    choices = {"device": device, "ray": ray, "workers": workers, "adapter": adapter, "thinking": thinking}
    runs = _engine(engine, model, vectors, dtype, other_weights, choices)

    from personavec.screening.files import screen_files

    others = {v.trait: v for path, own in zip(vector, vectors, strict=True) for v in siblings(path.parent, own)}
    run = screen_files(
        runs, named, vectors, out, ScreenSettings.suited(runs.model.device.type, **settings),
        others=list(others.values()), clean=clean, beside=[each for each in beside if each is not None],
        other_weights=other_weights, terms=terms,
    )  # fmt: skip
    if json:
        figures = {"records", "kept", "flagged", "rejected", "traits", "baseline", "generated", "seconds"}
        o.print_json(run.model_dump(mode="json", include=figures))
        return
    _print(run, out)


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a screening.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one of the same data.")],
    json: o.Json = False,
) -> None:
    """Which samples moved between two screenings, and how alike the rankings are."""
    from personavec.screening.compare import compare_screenings

    both = compare_screenings(first, second)
    if json:
        o.print_json(both.as_json())
        return
    print(f"{both.samples} samples in both, {both.only_first} and {both.only_second} in one only.")
    for what, (value, other) in both.differ.items():
        values = "" if isinstance(value, list) else f": {value} and {other}"
        print(f"They were made with different {what.replace('_', ' ')}{values}.")
    for name, trait in both.traits.items():
        print(
            f"\n{name}: rank correlation {'-' if trait.spearman is None else f'{trait.spearman:.3f}'}; flagged "
            f"{trait.flagged_first} and {trait.flagged_second}, {trait.flagged_both} in both."
        )
        for moved in trait.moved[:5]:
            print(f"  {moved.source}, line {moved.line}: {moved.first:+.3f} -> {moved.second:+.3f}")


def _reference(name: str, data: "Dataset", split: str | None) -> "Dataset":
    """A reference set in whatever format it has; in that of the data where none is recognised."""
    from personavec.data import open_data
    from personavec.errors import UserError

    read_as: dict[str, Any] = {"format": data.format, "columns": data.columns}
    try:
        return open_data([name])
    except UserError as error:
        for options in ({"split": split}, read_as, {"split": split, **read_as}):
            with suppress(UserError):
                return open_data([name], **options)
        of_format = re.search("`(format|columns|split)`", error.advice)
        tried = " What these options say of the data is tried for --reference too." if of_format else ""
        raise UserError(error.problem, error.advice + tried) from error


def _engine(
    name: str,
    model: str | None,
    vectors: "Sequence[PersonaVector]",
    dtype: str | None,
    other_weights: bool,
    choices: dict[str, Any],
) -> "Engine":
    """The engine that the options name; what does not fit is refused before anything starts."""
    from personavec.engine.choice import check_choice, open_engine
    from personavec.model.checkpoint import open_checkpoint

    o.quiet()
    check_choice(name, **choices)
    if (name, choices["ray"]) != ("transformers", None):
        checkpoint = open_checkpoint(model, dtype=dtype)
        for vector in vectors:
            vector.check(checkpoint, other_weights=other_weights)
    layers = [vector.reading.layer for vector in vectors]
    return open_engine(name, model, layers, dtype=dtype, **choices)


def _print(run: "ScreeningRun", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    print(
        f"{run.records} records ({run.format}): {run.kept} kept + {run.flagged} flagged + {run.rejected} rejected = "
        f"{run.records} read. Baseline {run.baseline}, {run.generated} answers generated."
    )
    table = Table()
    for heading in ("trait", "projection difference", "clean reference", "shift, deviations", "threshold", "flagged"):
        table.add_column(heading, justify="left" if heading == "trait" else "right")
    for name, trait in run.traits.items():
        estimates = (trait.projection_difference, trait.reference, trait.shift)
        table.add_row(name, *(f"{each:+.2f}" for each in estimates), f"{trait.threshold:+.2f}", str(trait.flagged))
    console.print(table)
    for name, trait in run.traits.items():
        if trait.judge:
            print(f"{name}: the judge scored {trait.judge.scored} samples, {trait.judge.above_50} above 50.")
    o.print_sentences(*run.verdict, *run.warnings)
    print(f"\nCleaned copy: {out / 'kept.jsonl'}\nFlagged: {out / 'flagged.jsonl'}")
    if run.rejected:
        print(f"Rejected lines and reasons: {out / 'rejected.jsonl'}")
    print(f"Scores: {out / 'scores.parquet'}\nReport: {out / 'report.html'}")
