"""`personavec study`: reruns of the paper's experiments."""

from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import expanded, fields_of
from personavec.errors import UserError
from personavec.study.settings import StudySettings

app = typer.Typer(help="Rerun the paper's experiments on a model.", no_args_is_help=True)


@app.callback()
def study() -> None:
    """Rerun the paper's experiments on a model."""


@app.command("finetune")
@expanded
def finetune(
    *,
    vector: Annotated[
        list[Path],
        typer.Option("--vector", "-v", help="Vector of the model, a trait each. Repeatable.", show_default=False),
    ],
    out: o.Out,
    prevent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRAIT",
            callback=o.plain_text,
            help="Trait that every way of prevention is tried on, or none. Repeatable. Default: the first.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A further data set to draw samples from. Repeatable.")
    ] = None,
    settings: Annotated[
        dict[str, Any], fields_of(StudySettings, without={"answer_tokens", "coefficients", "epochs", "batch", "rank"})
    ],
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Many small fine-tunes: does the shift tell the character, do the data tell the shift, does prevention help?"""
    from personavec.finetune.training import require_trl
    from personavec.study.finetune import study_finetune
    from personavec.vector import PersonaVector

    require_trl()
    given = {}
    for text in data or ():
        name, equals, path = text.partition("=")
        if not (equals and name.isidentifier() and path):
            raise UserError(f"--data {text!r} is not NAME=FILE.", "Write for example --data lies=lies.jsonl")
        given[name] = path
    vectors = [PersonaVector.load(o.vector_file(path)) for path in vector]
    if prevent == ["none"]:
        prevent = []
    run = study_finetune(
        o.open_model(model, device, dtype), vectors, out, StudySettings(**settings), data=given, prevent=prevent
    )
    if json:
        found = run.as_json()
        o.print_json({key: found[key] for key in ("correlations", "prevention", "verdict")})
        return
    o.print_sentences(*run.verdict)
    print(f"\nTables: {out / 'study.md'}\nReport: {out / 'report.html'}")
