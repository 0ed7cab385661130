"""`personavec traits`: the library of traits, new ones, and those of the public research code."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import options as o
from personavec.errors import UserError

if TYPE_CHECKING:
    from personavec.traits import Trait

app = typer.Typer(help="List, show, write and import traits.", no_args_is_help=True)


@app.command("list")
def list_traits(json: o.Json = False) -> None:
    """The traits of the library."""
    from personavec.traits import library_names, load_library

    traits = [load_library(name) for name in library_names()]
    if json:
        o.print_json({"traits": [{"name": t.name, "description": t.description} for t in traits]})
        return
    for trait in traits:
        print(f"{trait.name}: {trait.description}\n")


@app.command("show")
def show(trait: o.TraitArgument, traits_from: o.TraitsFrom = None, json: o.Json = False) -> None:
    """One trait with its instructions, questions and rubric. --json prints what --traits-from reads."""
    chosen = o.find_trait(trait, None, traits_from)
    if json:
        o.print_json(chosen.model_dump(mode="json"))
        return
    print(f"{chosen.name} (opposite: {chosen.opposite}; writer: {chosen.writer})\n{chosen.description}\n")
    for number, pair in enumerate(chosen.instructions, 1):
        print(f"Instruction {number}\n  + {pair.positive}\n  - {pair.negative}")
    for name, questions in (("Extraction", chosen.extraction_questions), ("Evaluation", chosen.evaluation_questions)):
        print(f"\n{name} questions")
        for question in questions:
            print(f"  {question}")
    print(f"\nRubric\n{chosen.rubric}")


@app.command("new")
def new(
    name: Annotated[
        str, typer.Argument(callback=o.plain_text, help="Name of the trait, an adjective such as 'sarcastic'.")
    ],
    description: Annotated[
        str, typer.Option(callback=o.plain_text, help="One paragraph: what somebody with this trait does.")
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file. Default: NAME.json.", show_default=False)] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text,
            help="Model behind an OpenAI-compatible endpoint (OPENAI_BASE_URL, OPENAI_API_KEY) that writes the trait. "
            "Default: offline, from templates and a bank of questions.",
            show_default=False,
        ),
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Write a trait: 5 instruction pairs, 20 + 20 questions, a rubric. Edit it, then extract with --traits-from."""
    from personavec.traits import write_offline, write_with_llm

    file = _new_file(out, name)
    if llm is None:
        trait = write_offline(name, description, seed)
    else:
        trait = write_with_llm(name, description, model=llm, base_url=os.environ.get("OPENAI_BASE_URL"))
    _save(trait, file)


@app.command("import")
def import_trait(
    extract_file: Annotated[
        Path,
        typer.Argument(help="Trait file of the public research code, with the questions for extraction."),
    ],
    eval_file: Annotated[
        Path | None,
        typer.Argument(
            help="Its file with the questions for evaluation. Default: the file of the same name in the folder beside, "
            "'extract' in the folder's name replaced by 'eval'.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(callback=o.plain_text, help="Name of the trait. Default: the file's.", show_default=False),
    ] = None,
    description: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text,
            help="What somebody with this trait does. Default: what the file's rubric says.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file. Default: NAME.json.", show_default=False)] = None,
) -> None:
    """Make one trait file of the two that the public research code keeps of a trait."""
    from personavec.interchange.paper import read_paper_traits

    trait = read_paper_traits(extract_file, eval_file, name, description)
    _save(trait, _new_file(out, trait.name))


def _new_file(out: Path | None, name: str) -> Path:
    """Where a trait is to be written, which must not be there yet: somebody may have edited it."""
    file = out or Path(f"{name}.json")
    if file.exists():
        raise UserError(f"{file} is already there.", "Choose another file with --out, or delete it.")
    return file


def _save(trait: "Trait", file: Path) -> None:
    trait.save(file)
    name = shlex.quote(trait.name)
    print(f"Wrote {file}. Next: personavec extract {name} --traits-from {shlex.quote(str(file))} --out runs/{name}")
