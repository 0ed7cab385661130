"""`personavec schema`: what stands in the file that a job leaves."""

import json
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.errors import UserError

if TYPE_CHECKING:
    from personavec.results import Filed

ROOMS = {
    "extract": "extraction",
    "extract-texts": "extraction.given",
    "evaluate": "evaluation",
    "monitor": "monitoring",
    "screen": "screening",
    "finetune": "finetune",
    "shift": "shifts",
    "study": "study",
    "watch": "watching",
}  # where the result of each job is declared


def run_of(job: str) -> "type[Filed]":
    """The class of a job's result."""
    module = import_module(f"personavec.{ROOMS[job]}.result")
    [found] = [kind for kind in vars(module).values() if isinstance(kind, type) and "COMMAND" in vars(kind)]
    return found


def schema(job: Annotated[str, typer.Argument(help=f"{', '.join(ROOMS)}.")]) -> None:
    """Print the JSON schema of a job's run.json (of watch, its file of limits), with what every field means."""
    if job not in ROOMS:
        raise UserError(f"There is no job {job!r}.", f"Choose {', '.join(ROOMS)}.")
    from personavec.results import schema as schema_of

    print(json.dumps(schema_of(run_of(job)), indent=1, ensure_ascii=False))
