"""The formats of the paper's public code: trait JSON, rollout CSV, `.pt` vectors.

What is read here was written by strangers: a file is checked before it is believed, and nothing in it is executed.
"""

import csv
import io
import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from personavec.errors import UserError
from personavec.files import write_atomic
from personavec.traits import Trait
from personavec.traits.trait import describe

POSITIONS = {"response_mean": "response_avg", "prompt_mean": "prompt_avg", "prompt_last": "prompt_last"}
COHERENCE = 50.0  # what the public filter asks of both sides


# Vectors


def read_paper_vector(path: Path | str) -> Tensor:
    """A persona vector that the public code wrote with `torch.save`.

    Row `l` is the difference of means at `hidden_states[l]`: row 0 the embeddings, row `l` the output of block `l`. The
    last row was taken after the final norm, so a `PersonaVector` made of it needs `normed_last_row=True`, which keeps
    steering and increments away from that layer.

    Returns:
        (layers + 1, width) float32.

    Raises:
        UserError: The file is missing, cut short, wants to run code, or holds anything but one finite matrix.
    """
    path = Path(path)
    advice = "Give a file that the public code wrote, such as evil_response_avg_diff.pt."
    try:
        storage = _storage_size(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", advice) from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is not a whole file of torch.save ({error}).", f"It may be cut short or damaged. {advice}"
        ) from error
    except pickle.UnpicklingError as error:
        wish = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = f"wants to call {wish[1]} while it is read" if wish else "holds more than plain tensors"
        raise UserError(
            f"{path} {problem}, which a tensor never needs; it was refused and nothing in it was run.",
            f"Do not open it with other tools either, unless you trust who made it. {advice}",
        ) from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({type(error).__name__} while reading it).", advice) from error
    if not isinstance(value, Tensor):
        raise UserError(f"{path} holds a {type(value).__name__}, not one tensor.", advice)
    if value.layout != torch.strided or value.device.type != "cpu" or not value.is_floating_point():
        raise UserError(f"{path} holds a {value.layout} tensor of {value.dtype}, not plain numbers.", advice)
    if value.numel() * value.element_size() > storage:  # strides of 0 make a matrix of any size from one number
        raise UserError(f"{path} promises {tuple(value.shape)} numbers and holds fewer.", advice)
    return _checked(value, str(path))


def write_paper_vector(directions: Tensor, path: Path | str) -> None:
    """Write a difference of means (layers + 1, width) as the public code stores it, atomically.

    The public code takes its own last row after the final norm; the last row written here is what it was given.

    Raises:
        UserError: Not one finite matrix, or the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(_checked(directions, "The vector").clone(), buffer)  # a view would take its whole storage along
    write_atomic(path, buffer.getvalue())


def paper_vector_name(trait: str, position: str = "response_mean") -> str:
    """The file name that the public code gives to a trait's vector at a position, a key of `POSITIONS`."""
    return f"{trait}_{POSITIONS[position]}_diff.pt"


_DAMAGE = (RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
           MemoryError, struct.error)  # fmt: skip


def _storage_size(path: Path) -> int:
    """Bytes of all numbers in a file of `torch.save`; makes sure that reading it takes no more memory than the file."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("it is compressed, and torch.save never compresses")
        if len({entry.filename for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("two entries have the same name")
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("a checksum is wrong")
        return sum(entry.file_size for entry in entries if re.fullmatch(r"[^/]+/data/\d+", entry.filename))


def _checked(value: Tensor, what: str) -> Tensor:
    """As float32 on the CPU, if it can be a persona vector."""
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise UserError(f"{what} has shape {shape}, not (layers + 1, width).", "Is this another file?")
    matrix = value.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(matrix).all()):
        raise UserError(
            f"{what} holds numbers that are not finite.",
            "The public code writes such a file when no pair of rollouts passed its filter; extract the vector again.",
        )
    return matrix


# Traits


class _PaperPair(TypedDict):
    pos: str
    neg: str


class _PaperTrait(TypedDict):
    instruction: list[_PaperPair]
    questions: list[str]
    eval_prompt: str


def read_paper_traits(
    extract_path: Path | str,
    eval_path: Path | str | None = None,
    name: str | None = None,
    description: str | None = None,
) -> Trait:
    """One trait from the two files that the public code keeps of it, one for each set of questions.

    Args:
        eval_path: None: the file of the same name in the folder beside, "extract" in its name replaced by "eval".
        name: None: the file's name, as in the public code.
        description: The public files have none; None: what the rubric says of the trait before it shows the question.

    Raises:
        UserError: A file is missing or breaks a rule (with the field), or the two belong to different traits.
    """
    extract_path = Path(extract_path)
    extraction = _read_trait(extract_path)
    if eval_path is None:
        folder = extract_path.resolve().parent
        if "extract" not in folder.name:
            raise UserError(
                f"{extract_path} holds one set of a trait's questions; the evaluation questions are in another file.",
                "Give that file too.",
            )
        eval_path = folder.with_name(folder.name.replace("extract", "eval")) / extract_path.name
    evaluation = _read_trait(Path(eval_path))
    fields: tuple[Literal["instruction", "eval_prompt"], ...] = ("instruction", "eval_prompt")
    for field in fields:
        if extraction[field] != evaluation[field]:
            raise UserError(
                f"{extract_path} and {eval_path} belong to different traits: their {field} is not the same.",
                "Give the two files of one trait.",
            )
    value = {
        "name": name or extract_path.stem,
        "description": _description(extraction["eval_prompt"]) if description is None else description,
        "instructions": [{"positive": pair["pos"], "negative": pair["neg"]} for pair in extraction["instruction"]],
        "extraction_questions": extraction["questions"],
        "evaluation_questions": evaluation["questions"],
        "rubric": extraction["eval_prompt"],
        "writer": f"import:{extract_path.name}",
    }
    return Trait.parse(value, str(extract_path))


def _read_trait(path: Path) -> _PaperTrait:
    try:
        return TypeAdapter(_PaperTrait).validate_python(json.loads(_read_text(path)))
    except ValidationError as error:
        raise UserError(
            f"{path}: {describe(error).lstrip(': ')}.",
            "A trait file of the public code has instruction (a list of {pos, neg}), questions and eval_prompt.",
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.", "Mend the file.") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a trait.", "Give a trait file.") from error


def _description(rubric: str) -> str:
    """What a rubric says of its trait: its first paragraph, without the sentence that only names the trait."""
    opening = rubric.strip().split("\n\n")[0]
    return re.sub(r"^.*?\btrait: *\*\*[^*]+\*\*\. *", "", opening, flags=re.DOTALL) or opening


# Rollouts


Side = Literal["positive", "negative"]


@dataclass(frozen=True)
class PaperRollout:
    """A rollout of the public code, whose files hold no tokens.

    Attributes:
        id: Stage, instruction and side, number and question, as in `rollouts.jsonl`.
        stage: "extraction" under an instruction, else "evaluation".
        question, question_index: What is asked, and its place among the trait's questions.
        pair, side: The instruction; None without.
        prompt: The whole text before the response.
        text: The response.
        score, coherence: 0..100; None where the judge gave none.
        kept: Whether the filter keeps it; None: see `paired_filter`.
    """

    id: str
    stage: Literal["extraction", "evaluation"]
    question: str
    question_index: int
    pair: int | None
    side: Side | None
    prompt: str
    text: str
    score: float | None
    coherence: float | None
    kept: bool | None = None


def read_paper_rollouts(path: Path | str, trait: str) -> list[PaperRollout]:
    """Rollouts from a CSV file of the public code, in the order of its rows.

    Args:
        trait: Name of the trait, which is also the name of the column with its scores.

    Raises:
        UserError: The file is missing or cut short, a column is missing, or a value is wrong (with its line).
    """
    path = Path(path)
    numbers: dict[str, int] = {}
    rollouts = []
    for line, row in _rows(path, ("question", "prompt", "answer", "question_id", trait, "coherence")):
        place = _QUESTION_ID.fullmatch(row["question_id"].removeprefix(trait))
        if place is None:
            raise UserError(
                f"{path}, line {line}: the question_id {row['question_id']!r} is not of the trait {trait!r}.",
                f"It has the form {trait}_3, or {trait}_3_pos_0 under an instruction.",
            )
        index, side, pair = int(place[1]), _SIDES[place[2]], None if place[3] is None else int(place[3])
        number = numbers[row["question_id"]] = numbers.get(row["question_id"], -1) + 1
        parts = ["evaluation"] if side is None else ["extraction", pair, side]
        rollouts.append(
            PaperRollout(
                id="/".join(map(str, [*parts, number, index])),
                stage="evaluation" if side is None else "extraction",
                question=row["question"],
                question_index=index,
                pair=pair,
                side=side,
                prompt=row["prompt"],
                text=row["answer"],
                score=_score(row[trait], f"{path}, line {line}, column {trait}"),
                coherence=_score(row["coherence"], f"{path}, line {line}, column coherence"),
            )
        )
    return rollouts


def paired_filter(
    positive: Sequence[PaperRollout], negative: Sequence[PaperRollout], threshold: float = 50.0
) -> tuple[list[PaperRollout], list[PaperRollout]]:
    """The public code's filter: rows stand and fall with the row at the same place on the other side.

    A pair is kept if the positive scores at least `threshold`, the negative less than 100 - `threshold`, and both are
    coherent; a rollout without a score is not kept.

    Returns:
        Copies of all rollouts of both sides, with `kept` set.

    Raises:
        UserError: The two sides do not match row by row.
    """
    if len(positive) != len(negative):
        raise UserError(
            f"There are {len(positive)} positive rollouts and {len(negative)} negative ones, which cannot be paired.",
            "Give both files of one extraction.",
        )
    for row, (a, b) in enumerate(zip(positive, negative, strict=True), 1):
        if (a.question_index, a.pair) != (b.question_index, b.pair):
            raise UserError(
                f"Rollout {row} has another question or instruction on the negative side: {b.id} beside {a.id}.",
                "Give both files of one extraction, in the order they were written.",
            )
    kept = [_passes(a, threshold) and _passes(b, threshold) for a, b in zip(positive, negative, strict=True)]
    return _marked(positive, kept), _marked(negative, kept)


def unpaired_filter(rollouts: Sequence[PaperRollout], threshold: float = 50.0) -> list[PaperRollout]:
    """The same filter with every rollout judged by itself, as the paper's text has it (section 2.2)."""
    return _marked(rollouts, [_passes(rollout, threshold) for rollout in rollouts])


_QUESTION_ID = re.compile(
    r"_(\d{1,6})(?:_(pos|neg)_(\d{1,6}))?", re.ASCII
)  # question, side, pair; the trait goes before
_SIDES: dict[str | None, Side | None] = {"pos": "positive", "neg": "negative", None: None}


def _marked(rollouts: Sequence[PaperRollout], kept: Sequence[bool]) -> list[PaperRollout]:
    return [replace(rollout, kept=passes) for rollout, passes in zip(rollouts, kept, strict=True)]


def _passes(rollout: PaperRollout, threshold: float) -> bool:
    score, coherence = rollout.score, rollout.coherence
    if score is None or coherence is None or coherence < COHERENCE:
        return False
    return score >= threshold if rollout.side == "positive" else score < 100 - threshold


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its last line, row) of a CSV file; texts stay as they are, line breaks included."""
    text = _read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # by itself less than a long prompt
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(header) or 'none at all'}.",
                "The trait must be named as its score column is.",
            )
        for row in reader:
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} values for {len(header)} columns.",
                    "The file is cut short or damaged; copy it again.",
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not CSV ({error}).",
            "A quotation mark may be left open; the file is cut short or damaged.",
        ) from error


def _score(text: str, place: str) -> float | None:
    if not text:
        return None
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not -1e-6 <= score <= 100 + 1e-6:  # weighted means of 0..100 may leave it by rounding
        raise UserError(f"{place}: {text!r} is not a score.", "Scores go from 0 to 100; leave it empty for none.")
    return min(max(score, 0.0), 100.0)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}).", "Save it as UTF-8.") from error
