"""`personavec judges`: do two judges agree?"""

import typer

app = typer.Typer(help="Compare judges.", no_args_is_help=True)


@app.callback()
def judges() -> None:
    """Compare judges."""
