"""`personavec vectors`: look at vector files, compare them, exchange them with other tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from personavec.cli import options as o
from personavec.errors import UserError
from personavec.interchange.forms import FORMS
from personavec.operations import OPERATIONS

if TYPE_CHECKING:
    from personavec.data import Dataset
    from personavec.info import VectorInfo
    from personavec.vector import PersonaVector

app = typer.Typer(help="Show, compare, combine, import and export vectors.", no_args_is_help=True)
PAPER = "a .pt file of the public research code"
File = Annotated[Path, typer.Argument(help="Vector file.", show_default=False)]


@app.command("show")
def show(file: File, json: o.Json = False) -> None:
    """Where a vector comes from and what it does."""
    from personavec.vector import PersonaVector

    vector = PersonaVector.load(o.vector_file(file))
    if json:
        o.print_json(_facts(vector))
        return
    print(f"{vector.trait}, layer {vector.layer} of {vector.n_layers}, width {vector.directions.shape[1]}")
    for key, value in vector.model.items():
        print(f"  model {key}: {value}")
    print(f"  norm at the layer: {float(vector.at(vector.layer).norm()):.4f}, directions {vector.hash}")
    if vector.residual_norm is not None:
        print(f"  mean residual norm at the layer: {float(vector.residual_norm[vector.layer]):g}")
    if vector.normed_last_row:
        print("  imported: the last row was taken after the final norm and is not used")
    print("\n".join([*_origin(vector.info), *_measurements(vector.info), *_of_reading(vector)]))


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
    table = matrix([PersonaVector.load(o.vector_file(file)) for file in files], layer)
    if json:
        o.print_json(table.as_json())
        return
    print("Cosine (rows and columns: vectors)")
    _grid(table.vectors, table.cosine, "{:+.2f}")
    print("\nEffect on scores, points with 95 % interval (rows: vectors; columns: scores)")
    _grid(table.vectors, table.effect, "{:+.0f}")
    sizes = sorted({effect.n for row in table.effect for effect in row if effect is not None})
    print(f"n = {', '.join(map(str, sizes)) or 0} questions.", end="")
    missing = [name for name, row in zip(table.vectors, table.effect, strict=True) if None in row]
    if missing:
        print(
            f" - was not measured: repeat the extract command of {', '.join(missing)} "
            "with all runs in folders side by side."
        )
    else:
        print()


@app.command("combine")
def combine(
    out: Annotated[Path, typer.Option(help="Vector file to write.", show_default=False)],
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE[=COEFFICIENT]]...", help="Vector files of one model.", show_default=False),
    ] = None,
    read: Annotated[
        Path | None,
        typer.Option(help="Without FILE: a vector to read along (monitor, screen, shift) ...", show_default=False),
    ] = None,
    steer: Annotated[
        Path | None,
        typer.Option(
            help="... and one of the same trait to steer by (generate, evaluate, finetune).", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(callback=o.plain_text, help="Of the sum. Default: its traits.", show_default=False)
    ] = None,
    specific: Annotated[
        Literal["span", "domains"] | None,
        typer.Option(
            help="Only what is not shared with other traits (vectors in folders beside the first one), length and "
            "refusals; domains: nor with clean domains. Reads with the model.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Clean data, for --specific. Default: a bundled set. Repeatable.", show_default=False),
    ] = None,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Sums and differences of vectors, the part of a vector that is its trait's alone, one vector to read and steer."""
    from personavec import combination
    from personavec.vector import PersonaVector, siblings

    if (read is None) != (steer is None) or (read is None) == (not parts):
        raise UserError(
            "There is nothing to combine.", "Give FILE=COEFFICIENT, once or more, or `read` and `steer` without them."
        )
    if read is not None and steer is not None:
        if name or specific:
            raise UserError("`name` and `specific` do not go with `read` and `steer`.", "Make the parts first.")
        steers, reads = (PersonaVector.load(o.vector_file(file)) for file in (steer, read))
        _written(steers.with_read(reads), out, json)
        return
    if specific is None and (reference or model or device or dtype):
        raise UserError("`reference`, `model`, `device` and `dtype` go with `specific` only.", "Leave them out.")
    named = [_part(text) for text in parts or ()]
    given = [(PersonaVector.load(o.vector_file(path)), coefficient) for path, coefficient in named]
    vector = combination.combine(given, name)
    if specific is not None:
        references = _references(reference)
        others = siblings(named[0][0].parent, vector)
        chat = o.open_model(model, device, dtype)
        vector = combination.specific(chat, vector, specific, others=others, references=references)
    _written(vector, out, json)
    if vector.reading.neutral_mean is None and not json:
        print(
            "Of a sum nobody knows how neutral answers scatter along it: monitor shows its projections as they are, "
            "and cap and floor cannot use it."
        )


@app.command("import")
def import_vector(
    file: Annotated[
        Path,
        typer.Argument(help=".pt file of the public research code, or .gguf control vector.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Vector file to write.")],
    trait: Annotated[
        str | None,
        typer.Option(callback=o.plain_text, help="Its trait. Default: what a .gguf says.", show_default=False),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Layer to use, numbered as here. Default: what a .gguf says.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text, help="Hub id of the model it was made on, for the record.", show_default=False
        ),
    ] = None,
) -> None:
    """Read a vector of the public research code, or a control vector (llama.cpp, repeng, EasySteer)."""
    from personavec.interchange.gguf import is_gguf, read_vector
    from personavec.interchange.paper import read_paper_vector
    from personavec.vector import PersonaVector

    if is_gguf(file):
        vector = read_vector(file, trait=trait, layer=layer, model=model)
    elif trait is None or layer is None:
        raise UserError(f"{file} does not say its trait and its layer.", "Give `trait` and `layer`.")
    else:
        directions = read_paper_vector(file)
        shape = {"n_layers": directions.shape[0] - 1, "hidden_size": directions.shape[1]}
        vector = PersonaVector(trait, directions, layer, {"id": model or "unknown", **shape}, normed_last_row=True)
    vector.save(out)
    print(f"Wrote {out}: {vector.trait}, layer {vector.layer}, norm {float(vector.at(vector.layer).norm()):.2f}.")


@app.command("export")
def export_vector(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE[=COEFFICIENT]...", help="Vector files of one model.", show_default=False),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FORM",
            help="; ".join(f"{name}: {what}" for name, what in {**FORMS, "paper": PAPER}.items()) + ".",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="File (gguf, paper) or folder to write.", show_default=False)],
    coefficient: Annotated[
        float | None, typer.Option(help="Of files that name none.", show_default=False, metavar="C")
    ] = None,
    layers: o.LayersOption = "best",
    positions: Annotated[
        str, typer.Option(help="Which tokens are steered. The forms that there are steer all.")
    ] = "all",
    operation: Annotated[
        str, typer.Option(help=f"{', '.join(OPERATIONS)}. The forms that there are only add.")
    ] = "add",
    position: Annotated[
        str | None,
        typer.Option(
            help="For paper: response_mean, prompt_mean, prompt_last; or read, of a vector that is read along another. "
            "Default: response_mean.",
            show_default=False,
        ),
    ] = None,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    other_weights: o.OtherWeights = False,
) -> None:
    """Write steering as other engines read it, or a vector as the public research code stores it."""
    from personavec.interchange import forms
    from personavec.vector import PersonaVector

    if form == "paper":
        if len(files) > 1 or coefficient is not None or (layers, positions, operation) != ("best", "all", "add"):
            raise UserError("The form paper holds one vector at all layers, and no steering.", "Give the file alone.")
        _export_paper(PersonaVector.load(o.vector_file(Path(files[0]))), out, position or "response_mean")
        return
    if form not in FORMS:
        raise UserError(f"Unknown `form` {form!r}.", f"Choose paper, {', '.join(FORMS)}.")
    if position is not None:
        raise UserError(f"`position` does not go with the form {form}.", "Leave it out; it is for paper.")
    parts = [_steered(text, coefficient) for text in files]
    chosen: Any = o.word_or_number("--layers", layers, ("best", "all"))
    where: Any = positions
    if form == "gguf":  # needs no weights
        from personavec.model.checkpoint import open_checkpoint

        o.quiet()
        opened: Any = open_checkpoint(model, device=device or "cpu", dtype=dtype)
    else:
        opened = o.open_model(model, device, dtype)
    sentences = forms.export_vector(
        opened, parts, form, out, layers=chosen, positions=where, operation=operation, other_weights=other_weights
    )
    print(f"Wrote {out}.")
    o.print_sentences(*sentences)


def _steered(text: str, coefficient: float | None) -> "tuple[PersonaVector, float]":
    """A vector and what it is multiplied by."""
    from personavec.vector import PersonaVector

    alone = Path(text).is_file() or "=" not in text
    path, number = (Path(text), coefficient) if alone else o.split_pair(text, "FILE")
    vector = PersonaVector.load(o.vector_file(path))
    if number is None:
        best = vector.info.recommended_coefficient
        known = "" if best is None else f" Recommended: up to {best:.3g}."
        raise UserError(f"How strongly {vector.trait} is to steer is not said.", f"Give `coefficient`.{known}")
    return vector, number


def _export_paper(vector: "PersonaVector", out: Path, position: str) -> None:
    from personavec.interchange.paper import write_paper_vector

    other = {} if vector.read is None else {"read": vector.read.directions}
    known = {"response_mean": vector.directions, **vector.alternatives, **other}
    directions = known.get(position)
    if directions is None:
        raise UserError(f"The vector has no position {position!r}.", f"Choose {', '.join(known)}.")
    write_paper_vector(directions, out)
    print(f"Wrote {out}: rows 0 to {vector.n_layers}, width {directions.shape[1]}.")


def _part(text: str) -> tuple[Path, float]:
    """`FILE=COEFFICIENT`, or a file alone, which is taken once."""
    return (Path(text), 1.0) if Path(text).is_file() or "=" not in text else o.split_pair(text, "FILE")


def _written(vector: "PersonaVector", out: Path, as_json: bool) -> None:
    """Write a new vector, and say what it is made of."""
    vector.save(out)
    if as_json:
        o.print_json({"vector": str(out), **_facts(vector)})
        return
    print(f"Wrote {out}: {vector.trait}, layer {vector.layer}, norm {float(vector.at(vector.layer).norm()):.4g}.")
    print("\n".join([*_origin(vector.steering.info), *_of_reading(vector)]))


def _of_reading(vector: "PersonaVector") -> list[str]:
    """Where and from what it is read, and how far that agrees with what it is steered by; nothing for one direction."""
    if (read := vector.read) is None:
        return []
    cosines = zip(vector.steerable_layers, vector.agreement, strict=True)
    return [
        f"  the above is what it is steered by; it is read along another direction, {read.hash}, at layer {read.layer}",
        *_origin(read.info),
        "  cosine of the two by layer: " + ", ".join(f"{layer}: {value:+.2f}" for layer, value in cosines),
    ]


def _references(names: Sequence[str] | None) -> "dict[str, Dataset] | None":
    from personavec.data import open_data

    return {Path(name).name: open_data([name]) for name in names} if names else None


def _facts(vector: "PersonaVector") -> dict[str, object]:
    return {
        "trait": vector.trait,
        "layer": vector.layer,
        "directions": vector.hash,
        "model": dict(vector.model),
        "norms": [round(float(n), 4) for n in vector.directions.norm(dim=-1)],
        "info": vector.info.as_stored(),
        **({} if vector.read is None else {"read": _facts(vector.read), "agreement": vector.agreement}),
    }


def _origin(info: "VectorInfo") -> list[str]:
    """What a vector was made of, in lines; none for one that was extracted."""
    lines = [
        f"  {part.coefficient:+g} times {part.trait}, directions {part.directions}, extracted for layer {part.layer}"
        for part in info.parts or ()
    ]
    if (made := info.specific) is not None:
        what = "told from" if made.made_of == "texts" else "without what it shares with"
        names = [
            f"{len(made.domains)} clean domains ({', '.join(made.domains)})" if made.domains else "",
            f"the traits {', '.join(made.traits)}" if made.traits else "",
            *made.common,
        ]
        source = "made of the library's texts" if made.made_of == "texts" else "a part of the vector"
        lines += [
            f"  specific ({made.kind}): {source}, {what} {'; '.join(filter(None, names))}",
            f"  left of the original ({made.original}): {100 * made.kept:.0f} % of its norm at the layer, which is its "
            f"cosine with it ({made.kept:+.2f})",
        ]
        if empty := [layer for layer, kept in enumerate(made.kept_by_layer, 1) if kept == 0]:
            lines.append(f"  nothing is left at layers {', '.join(map(str, empty))}: the vector does nothing there")
    return lines


def _measurements(info: "VectorInfo") -> list[str]:
    """What an extraction has stored, in lines; of a file that something else wrote, what can be read."""
    lines = []
    if info.written is not None:
        judge = "" if info.judge is None else f", judge {info.judge.name}"
        lines.append(f"  written {info.written} by personavec {info.personavec or '(unknown)'}{judge}")
    if info.rollouts is not None:
        lines.append(f"  kept {info.rollouts.kept} of {info.rollouts.extraction} rollouts")
    if info.dose_response is not None:
        lines.append("\n  coefficient   trait score              coherence")
        lines += [
            f"  {point.coefficient:+11g}   {f'{point.score:.1f}':<24} {point.coherence:.1f}"
            for point in info.dose_response
        ]
    if info.coherent_range is not None:
        low, high = info.coherent_range
        best = info.recommended_coefficient
        known = "none" if best is None else f"up to {best:.3g}"
        lines.append(f"\n  coherent from {low:.3g} to {high:.3g}; recommended: {known}")
    return lines or ["  the file holds no measurements that this version knows"]


def _grid(names: Sequence[str], values: Sequence[Sequence[object]], form: str) -> None:
    """A table with the same names at its rows and its columns."""
    cells = [["-" if v is None else form.format(v) for v in row] for row in values]
    left = max(map(len, names))
    width = 2 + max(len(text) for text in [*names, *(cell for row in cells for cell in row)])
    print(" " * left + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, cells, strict=True):
        print(name.ljust(left) + "".join(cell.rjust(width) for cell in row))
