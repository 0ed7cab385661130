"""`personavec screen`: which data, and which samples, would change the model's character; `compare`: two screenings."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o

if TYPE_CHECKING:
    from personavec.data import Dataset
    from personavec.engine import Engine
    from personavec.vector import PersonaVector


def screen(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Files, folders, or a hub id of a data set.", show_default=False),
    ],
    vector: Annotated[list[Path], typer.Option("--vector", "-v", help="Vector file. Repeatable.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    model: o.Model = None,
    format: Annotated[str | None, typer.Option(help="Name of the data's format. Default: recognised.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="PART=COLUMN,...", help="Where the parts are: prompt=q,response=a.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    turns: Annotated[str, typer.Option(help="Which assistant turns count: all or last.")] = "all",
    baseline: Annotated[str, typer.Option(help="hybrid, exact or prompt.")] = "hybrid",
    precision: Annotated[
        float, typer.Option(help="Half width of the interval at which a hybrid screening stops, in deviations.")
    ] = 0.15,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="Clean data that set the thresholds. Default: a bundled set. Repeatable: the data are placed among "
            "those named after the first.",
            show_default=False,
        ),
    ] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Share of clean samples that may be flagged.")] = 0.05,
    threshold: Annotated[float | None, typer.Option(help="Flag above this projection difference instead.")] = None,
    specific: Annotated[
        str, typer.Option(help="Directions without what other traits, length and refusals share: no, span or whiten.")
    ] = "no",
    judge: Annotated[
        str | None,
        typer.Option(callback=o.plain_text, help="Also score the flagged samples: contrast, local:MODEL or api:MODEL."),
    ] = None,
    judge_all: Annotated[
        bool, typer.Option("--judge-all", help="Let the judge score every sample, and flag those above 50 too.")
    ] = False,
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest of the model's own answers.")] = None,
    other_weights: o.OtherWeights = False,
    seed: o.Seed = 0,
    engine: Annotated[str, typer.Option(help="What runs the model: transformers, or vllm for GPUs.")] = "transformers",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Spread the work over a Ray cluster.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Models on the cluster. Default: one for every GPU, or every node.")
    ] = None,
    adapter: o.Adapter = None,
    thinking: o.Thinking = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Say how far data would push the model along each trait, which samples do it, and write a cleaned copy."""
    from personavec.data import columns_from_text, open_data
    from personavec.vector import PersonaVector

    vectors = [PersonaVector.load(path) for path in vector]
    named = open_data(data, format=format, columns=None if columns is None else columns_from_text(columns), split=split)
    clean, *beside = [_reference(name, named, split) for name in reference] if reference else [None]
    terms = o.read_terms(judge or "contrast", judge_price, judge_rpm)
    choices = {"device": device, "ray": ray, "workers": workers, "adapter": adapter, "thinking": thinking}
    runs = _engine(engine, model, vectors, dtype, other_weights, choices)

    from personavec.extraction.specificity import siblings
    from personavec.screening import Settings, screen_files

    settings = Settings.suited(
        runs.model.device.type,
        baseline=baseline, turns=turns, precision=precision, false_alarm_rate=false_alarm_rate, threshold=threshold,
        specific=specific, max_new_tokens=max_new_tokens, judge=judge, judge_all=judge_all, seed=seed,
    )  # fmt: skip
    others = {v.trait: v for path, own in zip(vector, vectors, strict=True) for v in siblings(path.parent, own)}
    summary = screen_files(
        runs,
        named,
        vectors,
        out,
        settings,
        others=list(others.values()),
        clean=clean,
        beside=[one for one in beside if one is not None],
        other_weights=other_weights,
        terms=terms,
    )
    if json:
        keys = ("read", "kept", "flagged", "rejected", "traits", "baseline", "generated", "seconds")
        o.print_json({key: summary[key] for key in keys})
        return
    _show(summary, out)


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a screening.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one of the same data.")],
    json: o.Json = False,
) -> None:
    """Which samples moved between two screenings, and how alike the rankings are."""
    from personavec.screening import compare_screenings

    found = compare_screenings(first, second)
    if json:
        o.print_json(found)
        return
    print(f"{found['samples']} samples in both, {found['only_first']} and {found['only_second']} in one only.")
    for what, (one, other) in found["differ"].items():
        values = "" if isinstance(one, list) else f": {one} and {other}"
        print(f"They were made with different {what.replace('_', ' ')}{values}.")
    for name, trait in found["traits"].items():
        rank = trait["spearman"]
        print(
            f"\n{name}: rank correlation {'-' if rank is None else f'{rank:.3f}'}; flagged {trait['flagged_first']} "
            "and "
            f"{trait['flagged_second']}, {trait['flagged_both']} in both."
        )
        for moved in trait["moved"][:5]:
            print(f"  {moved['source']}, line {moved['line']}: {moved['first']:+.3f} -> {moved['second']:+.3f}")


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
        tried = " What these options say of the data is tried for --reference too." if "--" in error.advice else ""
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
    layers = [vector.layer for vector in vectors]
    return open_engine(name, model, layers, dtype=dtype, **choices)


def _show(summary: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    print(
        f"{summary['read']} records ({summary['format']}): {summary['kept']} kept + {summary['flagged']} flagged + "
        f"{summary['rejected']} rejected = {summary['read']} read. Baseline {summary['baseline']}, "
        f"{summary['generated']} answers generated."
    )
    table = Table()
    for heading in ("trait", "projection difference", "clean reference", "shift, deviations", "threshold", "flagged"):
        table.add_column(heading, justify="left" if heading == "trait" else "right")
    for name, trait in summary["traits"].items():
        threshold = trait["threshold"]
        table.add_row(
            name, _interval(trait["projection_difference"]), _interval(trait["reference"]), _interval(trait["shift"]),
            "-" if threshold is None else f"{threshold:+.2f}", str(trait["flagged"]),
        )  # fmt: skip
    console.print(table)
    for name, trait in summary["traits"].items():
        if "judge" in trait:
            judged = trait["judge"]
            print(f"{name}: the judge scored {judged['scored']} samples, {judged['above_50']} above 50.")
    for sentence in [*summary["verdict"], *summary["warnings"]]:
        console.print(f"- {sentence}", markup=False)
    print(f"\nCleaned copy: {out / 'kept.jsonl'}\nFlagged: {out / 'flagged.jsonl'}")
    if summary["rejected"]:
        print(f"Rejected lines and reasons: {out / 'rejected.jsonl'}")
    print(f"Scores: {out / 'scores.parquet'}\nReport: {out / 'report.html'}")


def _interval(e: dict[str, Any]) -> str:
    return f"{e['mean']:+.2f} [{e['low']:+.2f}, {e['high']:+.2f}]"
