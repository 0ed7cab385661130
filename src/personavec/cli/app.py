"""All commands in one place. Nothing heavy is imported before a command runs."""

from typing import Annotated

import typer

from personavec.cli import (
    evaluate,
    extract,
    finetune,
    hub,
    judges,
    monitor,
    ready,
    schema,
    screen,
    serve,
    shift,
    study,
    talk,
    traits,
    vectors,
    watch,
)
from personavec.cli.expand import expanded
from personavec.cli.flags import know

app = typer.Typer(
    help="Persona vectors: extract, evaluate, monitor and steer the character of open chat models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"personavec {version('personavec')}")
        raise typer.Exit


@app.callback()
def _main(
    asked: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and end.")
    ] = False,
) -> None:
    """What stands before any command."""


app.command("extract")(expanded(extract.extract))
app.command("evaluate")(expanded(evaluate.evaluate))
app.command("monitor")(monitor.monitor)
app.command("generate")(expanded(talk.generate))
app.command("chat")(expanded(talk.chat))
app.command("serve")(expanded(serve.serve))
app.command("screen", no_args_is_help=True)(expanded(screen.screen))
app.command("compare")(screen.compare)
app.command("finetune")(expanded(finetune.finetune))
app.command("shift")(shift.shift)
app.command("schema")(schema.schema)
app.add_typer(traits.app, name="traits")
vectors.app.command("list")(ready.list_vectors)
vectors.app.command("get")(ready.get)
app.add_typer(vectors.app, name="vectors")
app.add_typer(hub.app, name="hub")
app.add_typer(study.app, name="study")
app.add_typer(judges.app, name="judges")
app.add_typer(watch.app, name="watch")
know(app)
