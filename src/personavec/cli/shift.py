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
    from personavec.errors import UserError
    from personavec.files import RunFolder, write_json
    from personavec.model.load import find_adapter, find_source
    from personavec.provenance import identity, provenance
    from personavec.report.character import write_shift_report
    from personavec.shift import check_traits, compare, prompt_readings, template_notes, verdict
    from personavec.vector import PersonaVector

    if (tuned is None) == (adapter is None):
        raise UserError("Two models are compared.", "Name the tuned model, or its adapter with --adapter, not both.")
    files = o.vector_files(vector or ())
    vectors = [PersonaVector.load(path) for path in files]
    check_traits(vectors)
    if tuned is not None:  # now, and not after the model before was loaded and read
        find_source(tuned)
    if adapter is not None:
        find_adapter(adapter)
    systems = list(dict.fromkeys(system or []))
    arguments = {
        "base": base, "tuned": tuned, "adapter": adapter, "vectors": [str(path) for path in files],
        "systems": systems, "other_weights": other_weights, "dtype": dtype, "seed": seed,
    }  # fmt: skip
    name = Path(tuned or adapter or "").name
    with RunFolder(out or o.default_folder("shift", name, *arguments.values()), arguments) as folder:
        first = o.open_model(base, device, dtype)
        for one in vectors:
            one.check(first, other_weights=other_weights)
        before = prompt_readings(first, vectors, systems)
        run = {"command": "shift", **provenance(first, arguments)}
        template = first.template
        del first  # only one model is in memory
        second = o.open_model(tuned or base, device, dtype, adapter)
        run |= {
            "tuned": tuned or adapter,
            "tuned_identity": identity(second),
            "systems": [{"system": s} for s in systems],
        }
        run["warnings"] = template_notes(template, second.template)
        run["traits"] = compare(vectors, before, prompt_readings(second, vectors, systems, template), seed)
        run["verdict"] = verdict(run["traits"])
        write_shift_report(run, folder / "report.html")
        write_json(folder / "run.json", run)
    if json:
        o.print_json({"traits": run["traits"]})
        return
    for name, found in run["traits"].items():
        e, null = found["shift"], found["nulls"]["covariance"]
        z = "" if found["neutral_deviations"] is None else f", {found['neutral_deviations']:+.1f} neutral deviations"
        print(
            f"{name}: {e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}] (95 % interval, n = {e['n']} questions){z}; "
            f"random directions: 95 in 100 within {null['p95']:.3f}, p = {null['p_value']:.3f}"
        )
        for row in found["systems"]:
            e = row["shift"]
            print(f"  under {row['system'][:60]!r}: {e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}]")
    for sentence in [*run["verdict"], *run["warnings"]]:
        print(f"- {sentence}")
    print(f"Report: {folder / 'report.html'}")
