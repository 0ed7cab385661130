"""`personavec shift`: what a fine-tune did to the character."""

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options as o


def shift(
    base: Annotated[str, typer.Argument(help="The model before: a name as for --model.")],
    tuned: Annotated[str | None, typer.Argument(help="The model after; or leave it out and name an adapter.")] = None,
    vector: Annotated[
        list[Path] | None, typer.Option("--vector", "-v", help="Persona vector of the model before. Repeatable.")
    ] = None,
    adapter: o.Adapter = None,
    system: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="System prompt under which the shift is measured too. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the figures, as JSON.")] = None,
    other_weights: o.OtherWeights = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """How far a fine-tune moved the model along each trait, beside random directions and the other traits."""
    from personavec.errors import UserError
    from personavec.files import write_json
    from personavec.provenance import provenance
    from personavec.shift import compare, prompt_readings, verdict
    from personavec.vector import PersonaVector

    if (tuned is None) == (adapter is None):
        raise UserError("Two models are compared.", "Name the tuned model, or its adapter with --adapter, not both.")
    vectors = [PersonaVector.load(path) for path in vector or ()]
    systems = system or []
    first = o.open_model(base, device, dtype)
    for one in vectors:
        one.check(first, other_weights=other_weights)
    before = prompt_readings(first, vectors, systems)
    run = {
        "command": "shift",
        **provenance(first, {"tuned": tuned, "adapter": adapter, "systems": systems, "seed": seed}),
    }
    del first  # only one model is in memory
    after = prompt_readings(o.open_model(tuned or base, device, dtype, adapter), vectors, systems)
    run["traits"] = compare(vectors, before, after, seed)
    run["verdict"] = verdict(run["traits"])
    if out is not None:
        write_json(out, run)
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
    for sentence in run["verdict"]:
        print(f"- {sentence}")
