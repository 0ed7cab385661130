"""`personavec vectors`: look at vector files, compare them, exchange them with the public research code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options as o
from personavec.errors import UserError

app = typer.Typer(help="Show, compare, import and export vectors.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="Vector file.", show_default=False)]


@app.command("show")
def show(file: File, json: o.Json = False) -> None:
    """Where a vector comes from and what it does."""
    from personavec.vector import PersonaVector

    vector = PersonaVector.load(file)
    norms = [round(float(n), 4) for n in vector.directions.norm(dim=-1)]
    info = vector.info
    if json:
        o.print_json(
            {
                "trait": vector.trait,
                "layer": vector.layer,
                "model": dict(vector.model),
                "norms": norms,
                "info": dict(info),
            }
        )
        return
    print(f"{vector.trait}, layer {vector.layer} of {vector.n_layers}, width {vector.directions.shape[1]}")
    for key, value in vector.model.items():
        print(f"  model {key}: {value}")
    print(f"  norm at the layer: {norms[vector.layer]:g}")
    if vector.residual_norm is not None:
        print(f"  mean residual norm at the layer: {float(vector.residual_norm[vector.layer]):g}")
    if vector.normed_last_row:
        print("  imported: the last row was taken after the final norm and is not used")
    if not info:
        return
    try:
        lines = _measured(info)
    except (KeyError, TypeError, ValueError, OverflowError):  # a file that something else wrote
        lines = ["  what was measured is not in a form that this version knows; --json prints it"]
    print("\n".join(lines))


@app.command("compare")
def compare(
    files: Annotated[list[Path], typer.Argument(help="Vector files of one model.", show_default=False)],
    layer: Annotated[int | None, typer.Option(help="Layer of the cosines. Default: each row's own.")] = None,
    json: o.Json = False,
) -> None:
    """Cosines between vectors of one model, and what is known of their effects on each other's scores."""
    from personavec.extraction.specificity import matrix
    from personavec.vector import PersonaVector

    if len(files) < 2:
        raise UserError("One vector cannot be compared.", "Give two vector files or more.")
    table = matrix([PersonaVector.load(file) for file in files], layer)
    if json:
        o.print_json(table)
        return
    print("Cosine (rows and columns: vectors)")
    _grid(table["vectors"], table["vectors"], table["cosine"], "{:+.2f}")
    print("\nEffect on scores, points with 95 % interval (rows: vectors; columns: scores)")
    cells = [
        [None if e is None else f"{e:+.0f} [{i[0]:+.0f}, {i[1]:+.0f}]" for e, i in zip(*row, strict=True)]
        for row in zip(table["effect"], table["interval"], strict=True)
    ]
    _grid(table["vectors"], table["scores"], cells, "{}")
    sizes = sorted({n for row in table["n"] for n in row if n})
    print(f"n = {', '.join(map(str, sizes)) or 0} questions.", end="")
    missing = [name for name, row in zip(table["vectors"], cells, strict=True) if None in row]
    if missing:
        print(
            f" - was not measured: repeat the extract command of {', '.join(missing)} "
            "with all runs in folders side by side."
        )
    else:
        print()


@app.command("import")
def import_vector(
    file: Annotated[Path, typer.Argument(help=".pt file of the public research code.", show_default=False)],
    trait: Annotated[str, typer.Option(callback=o.plain_text, help="Name of the trait.")],
    layer: Annotated[int, typer.Option(help="Layer to use; rows are numbered as here.")],
    out: Annotated[Path, typer.Option(help="Vector file to write.")],
    model: Annotated[
        str, typer.Option(callback=o.plain_text, help="Hub id of the model it was made on, for the record.")
    ] = "unknown",
) -> None:
    """Read a vector that the public research code wrote."""
    from personavec.interchange.paper import read_paper_vector
    from personavec.vector import PersonaVector

    directions = read_paper_vector(file)
    shape = {"n_layers": directions.shape[0] - 1, "hidden_size": directions.shape[1]}
    vector = PersonaVector(trait, directions, layer, {"id": model, **shape}, normed_last_row=True)
    vector.save(out)
    print(f"Wrote {out}: {trait}, layer {layer}, norm {float(vector.at(layer).norm()):.2f}.")


@app.command("export")
def export_vector(
    file: File,
    out: Annotated[Path, typer.Option(help=".pt file to write.")],
    position: Annotated[str, typer.Option(help="response_mean, prompt_mean or prompt_last.")] = "response_mean",
) -> None:
    """Write a vector as the public research code stores it."""
    from personavec.interchange.paper import write_paper_vector
    from personavec.vector import PersonaVector

    vector = PersonaVector.load(file)
    directions = {"response_mean": vector.directions, **vector.alternatives}.get(position)
    if directions is None:
        raise UserError(
            f"The vector has no position {position!r}.", "Choose response_mean, prompt_mean or prompt_last."
        )
    write_paper_vector(directions, out)
    print(f"Wrote {out}: rows 0 to {vector.n_layers}, width {directions.shape[1]}.")


def _measured(info: Mapping[str, Any]) -> list[str]:
    """What an extraction has stored, in lines."""
    low, high = info["coherent_range"]
    return [
        f"  written {info.get('written')} by personavec {info.get('personavec')}, judge {info['judge']['name']}",
        f"  kept {info['rollouts']['kept']} of {info['rollouts']['extraction']} rollouts",
        "\n  coefficient   trait score              coherence",
        *[
            f"  {point['coefficient']:+11g}   {_interval(point['score']):<24} {_interval(point['coherence'])}"
            for point in info["dose_response"]
        ],
        f"\n  coherent from {low:g} to {high:g}; recommended at most: {info['recommended_coefficient']}",
    ]


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def _grid(rows: list[str], columns: list[str], values: Sequence[Sequence[object]], form: str) -> None:
    cells = [["-" if v is None else form.format(v) for v in row] for row in values]
    left = max(map(len, rows))
    width = 2 + max(len(text) for text in [*columns, *(cell for row in cells for cell in row)])
    print(" " * left + "".join(name.rjust(width) for name in columns))
    for name, row in zip(rows, cells, strict=True):
        print(name.ljust(left) + "".join(cell.rjust(width) for cell in row))
