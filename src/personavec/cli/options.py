"""Options that several commands share, and what their values mean."""

import difflib
import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from personavec.cli.flags import with_flags
from personavec.errors import UserError
from personavec.files import printable, to_json
from personavec.operations import OPERATIONS

if TYPE_CHECKING:
    from personavec.data import Dataset
    from personavec.judges.api.terms import ApiTerms
    from personavec.model import ChatModel
    from personavec.model.edits import Intervention
    from personavec.operations import Operation
    from personavec.traits import Trait
    from personavec.vector import PersonaVector


def plain_text(value: Any) -> Any:
    """Of options and arguments that are texts, not paths: what was written in UTF-8, whatever the locale.

    Raises:
        UserError: It was not.
    """
    if isinstance(value, str) and (shown := printable(value)) != value:
        try:
            return os.fsencode(value).decode()
        except UnicodeError as error:
            raise UserError(f"'{shown}' holds bytes that are not UTF-8.", "Write it in UTF-8.") from error
    return [plain_text(one) for one in value] if isinstance(value, list) else value


Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id, local folder or .gguf file. Default: the bundled model.", show_default=False
    ),
]
Adapter = Annotated[str | None, typer.Option(help="PEFT adapter to load on top of the model.", show_default=False)]
Data = Annotated[
    list[str],
    typer.Argument(metavar="DATA...", help="Files, folders, or a hub id of a data set.", show_default=False),
]
DataFormat = Annotated[str | None, typer.Option(help="Name of the data's format. Default: recognised.")]
DataColumns = Annotated[
    str | None, typer.Option(metavar="PART=COLUMN,...", help="Where the parts are: prompt=q,response=a.")
]
DataSplit = Annotated[str | None, typer.Option(help="Split of a hub data set.")]
Vectors = Annotated[
    list[Path],
    typer.Option("--vector", "-v", help="Vector file, or name of a ready one. Repeatable.", show_default=False),
]
Out = Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N, mps or auto. Default: a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16 or float32. Default: what suits the device.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Let a reasoning model think, and read its thoughts too.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
LayersOption = Annotated[
    str, typer.Option("--layers", help="best (the vector's own), all (steering: increments), or a number.")
]
PositionsOption = Annotated[str, typer.Option("--positions", help="Which tokens are steered: all, prompt or response.")]
OtherWeights = Annotated[
    bool, typer.Option("--other-weights", help="Accept vectors of a model with the same shape but other weights.")
]
JudgePrice = Annotated[
    str | None,
    typer.Option(metavar="IN,OUT", help="For api:MODEL: US$ per million prompt and answer tokens.", show_default=False),
]
JudgeRpm = Annotated[
    float | None, typer.Option(help="For api:MODEL: most requests per minute.", show_default=False, metavar="N")
]
LmEval = Annotated[
    str | None,
    typer.Option(
        "--lm-eval",
        metavar="TASKS",
        help="Tasks of lm-evaluation-harness to run too: names, YAML files or folders of them, with commas between.",
        show_default=False,
    ),
]
TraitArgument = Annotated[
    str, typer.Argument(metavar="TRAIT", callback=plain_text, help="Name of a library trait, or of a new one.")
]
Description = Annotated[
    str | None,
    typer.Option(
        callback=plain_text, help="What the trait is, for one that is not in the library.", show_default=False
    ),
]
TraitsFrom = Annotated[Path | None, typer.Option(help="JSON file that holds the trait.", show_default=False)]


def default_folder(job: str, name: str, *settings: object) -> Path:
    """Where a run goes that was given no folder: other settings, another folder."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
    return Path("runs") / f"{job}-{name}-{digest}"


def print_json(value: Any) -> None:
    """One JSON object on standard output; in ASCII where that cannot take all of it."""
    text = to_json(to_jsonable_python(value))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text)


def print_sentences(*sentences: str) -> None:
    """What a run says in words, with flags in place of fields."""
    from rich.console import Console

    console = Console(highlight=False)
    for sentence in sentences:
        console.print(f"- {with_flags(sentence)}", markup=False, soft_wrap=not console.is_terminal)


def quiet() -> None:
    """Switch off the bars and notes of the libraries below."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # what PEFT and transformers say to each other


def open_model(
    name: str | None,
    device: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    thinking: bool = False,
) -> "ChatModel":
    """Load the model that the options name, without the bars and notes of the libraries below."""
    from personavec.model import load_model

    quiet()
    return load_model(name, device=device, dtype=dtype, adapter=adapter, thinking=thinking)


def read_columns(text: str | None) -> dict[str, str] | None:
    """What --columns says, such as "prompt=q,response=a".

    Raises:
        UserError: Not of that form.
    """
    if text is None:
        return None
    columns = {}
    for item in text.split(","):
        name, sign, column = item.partition("=")
        if not sign or not name.strip() or not column.strip():
            raise UserError(
                f"--columns {text!r}: {item!r} is not of the form PART=COLUMN.",
                "Write for example --columns prompt=q,response=a, or messages=COLUMN for a list of messages.",
            )
        columns[name.strip()] = column.strip()
    return columns


def open_data(data: Sequence[str], format: str | None, columns: str | None, split: str | None) -> "Dataset":
    """The data that the options name."""
    from personavec.data import open_data

    return open_data(data, format=format, columns=read_columns(columns), split=split)


def find_trait(name: str, description: str | None, traits_from: Path | None) -> "Trait":
    """The trait that the options name: from a file, written offline from a description, or from the library.

    Raises:
        UserError: Unknown name, or a file that holds another trait.
    """
    from personavec.traits import load_trait, write_offline

    if description is not None and traits_from is not None:
        raise UserError("--description and --traits-from exclude each other.", "A file has its own description.")
    if traits_from is not None:
        trait = load_trait(str(traits_from))
        if trait.name != name:
            raise UserError(f"{traits_from} holds the trait {trait.name!r}, not {name!r}.", f"Say: {trait.name}")
        return trait
    if description is not None:
        return write_offline(name, description)
    return load_trait(name)


def read_terms(judge: str, price: str | None, rpm: float | None) -> "ApiTerms":
    """What --judge-price and --judge-rpm say.

    Raises:
        UserError: They are not understood, or the judge is not behind an endpoint.
    """
    from personavec.judges.api.terms import ApiTerms

    if (price is not None or rpm is not None) and not judge.startswith("api:"):
        raise UserError(
            f"--judge-price and --judge-rpm do not go with the judge {judge}.", "They are for --judge api:MODEL."
        )
    if rpm is not None and not (math.isfinite(rpm) and rpm > 0):
        raise UserError(f"--judge-rpm {rpm} is not usable.", "Give the most requests per minute, such as 500.")
    if price is None:
        return ApiTerms(None, rpm)
    try:
        given, taken = (float(number) for number in price.split(","))
    except ValueError:
        given = taken = math.nan
    if not (math.isfinite(given + taken) and min(given, taken) >= 0):
        raise UserError(
            f"--judge-price {price!r} is not IN,OUT.",
            "Give US$ per million prompt tokens and per million answer tokens, such as --judge-price 0.4,1.6",
        )
    return ApiTerms((given, taken), rpm)


def read_tasks(text: str | None) -> list[str]:
    """What --lm-eval names.

    Raises:
        UserError: Nothing.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not names:
        raise UserError("--lm-eval names no task.", "Say for example --lm-eval mmlu,my_task.yaml")
    return names


def split_pair(text: str, option: str, example: str = "-1.5") -> tuple[Path, float]:
    """`FILE=NUMBER` into its parts.

    Args:
        example: What may follow the sign, for the message.

    Raises:
        UserError: No number, or not a finite one.
    """
    path, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not path or not math.isfinite(value):
        raise UserError(
            f"{option} {text!r} is not FILE=NUMBER.", f"Write for example {option} vector.safetensors={example}"
        )
    return Path(path), value


def vector_file(path: Path) -> Path:
    """A vector's file; the name of a ready vector stands for its own, where there is no file of that name.

    Raises:
        UserError: It is nearly the name of a ready vector.
    """
    if path.exists() or path.name != str(path) or path.suffix:
        return path
    from personavec.ready import ready_vectors

    known = ready_vectors()
    if str(path) in known:
        return known[str(path)].path
    if close := difflib.get_close_matches(str(path), known, n=1):
        raise UserError(
            f"There is no vector file {path}, nor a ready vector of that name. Did you mean {close[0]}?",
            "`personavec vectors list` tells which are ready.",
        )
    return path


def vector_files(paths: Sequence[Path]) -> list[Path]:
    """Vector files, a folder of runs standing for the vector.safetensors in each of them.

    Raises:
        UserError: A folder that holds none.
    """
    files = []
    for path in paths:
        inside = sorted(path.glob("*/vector.safetensors")) if path.is_dir() else [vector_file(path)]
        if not inside:
            raise UserError(f"No run in {path} has a vector.safetensors.", "Name a vector file, or a folder of runs.")
        files += inside
    return files


def word_or_number(option: str, text: str, words: Collection[str]) -> str | int:
    """A layer number, or one of the words.

    Raises:
        UserError: Neither.
    """
    if text in words:
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(
        f"{option} {text!r} is not understood.", f"Choose {', '.join(words)}, or a layer number such as 14."
    )


def read_interventions(
    model: "ChatModel", asked: Mapping[str, Sequence[str]], layers: str, positions: str, other_weights: bool = False
) -> "tuple[list[Intervention], list[str], list[PersonaVector]]":
    """What the options do to the stream, the same in words, and the vectors they name, checked against the model."""
    from personavec.interventions import check_positions, interventions, noise_doubts
    from personavec.vector import PersonaVector

    check_positions(positions)
    where: Any = positions
    chosen: Any = word_or_number("--layers", layers, ("best", "all"))
    edits: list[Intervention] = []
    words: list[str] = []
    vectors: list[PersonaVector] = []
    given: list[tuple[Operation, PersonaVector, float | None]] = []
    for name, texts in asked.items():
        operation = OPERATIONS[name]
        for text in texts:
            number = None
            if operation.takes == "nothing":
                path = Path(text)
            else:
                path, number = split_pair(text, f"--{operation.option}", operation.example)
            vector = PersonaVector.load(vector_file(path))
            vector.check(model, other_weights=other_weights)
            vectors.append(vector)
            given.append((operation, vector, number))
            edits += interventions(operation, vector, number, layers=chosen, positions=where)
            done = operation.words.format(trait=vector.trait, number=number)
            words.append(f"{done} ({_place(layers, vector)}, {positions} positions)")
    for doubt in noise_doubts(given, chosen, model):
        print(f"Warning: {doubt}", file=sys.stderr)
    return edits, words, vectors


def _place(layers: str, vector: "PersonaVector") -> str:
    return {"best": f"layer {vector.layer}", "all": "all layers"}.get(layers, f"layer {layers}")
