"""`personavec shift`: what a fine-tune did to the character."""

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options as o


def shift(
    base: Annotated[str, typer.Argument(help="The model before: a name as for --model.")],
    tuned: Annotated[str | None, typer.Argument(help="The model after; or leave it out and name an adapter.")] = None,
    vector: Annotated[
        list[Path] | None,
        typer.Option(
            "--vector", "-v", help="Persona vector of the model before, or a folder of runs with theirs. Repeatable."
        ),
    ] = None,
    adapter: o.Adapter = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            callback=o.plain_text,
            help="System prompt under which the shift is measured too. Repeatable.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/shift-...")] = None,
    other_weights: o.OtherWeights = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """How far a fine-tune moved the model along each trait, beside random directions and the other traits."""
    from personavec.shifts.job import run_shift

    files = o.vector_files(vector or ())
    decides = (base, tuned, adapter, *files, *(system or []), other_weights, dtype, seed)
    folder = out or o.default_folder("shift", Path(tuned or adapter or "").name, *decides)
    run = run_shift(
        base, tuned, files, folder,
        adapter=adapter, systems=system or (), other_weights=other_weights, seed=seed, dtype=dtype, device=device,
        load=o.open_model,
    )  # fmt: skip
    if json:
        o.print_json({"traits": {name: trait.as_json() for name, trait in run.traits.items()}})
        return
    for name, trait in run.traits.items():
        null = trait.nulls.covariance
        z = "" if trait.neutral_deviations is None else f", {trait.neutral_deviations:+.1f} neutral deviations"
        print(
            f"{name}: {trait.shift:+.3f} (95 % interval, n = {trait.shift.n} questions){z}; "
            f"random directions: 95 in 100 within {null.p95:.3f}, p = {null.p_value:.3f}"
        )
        for under in trait.systems:
            print(f"  under {under.system[:60]!r}: {under.shift:+.3f}")
    o.print_sentences(*run.verdict, *run.warnings)
    print(f"Report: {folder / 'report.html'}")
