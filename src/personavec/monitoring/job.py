"""How a model's character moves over conversations: projections before and during every answer."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from personavec.errors import UserError
from personavec.files import JsonLines, RunFolder, write_json
from personavec.model import ChatModel, Conversation
from personavec.monitoring.page import write_monitor_report
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.readout import read
from personavec.vector import PersonaVector, check_one_per_trait

WINDOW = 64  # conversations in memory at a time
TEXT = 200  # characters of an answer that are kept for people to recognise it


@dataclass(frozen=True)
class Projection:
    """One answer seen along one persona vector, at the vector's layer.

    Attributes:
        before: Projection of the last prompt token, before the answer or its thought is written (paper section 3.3).
        during: Projection of the mean over the answer's tokens.
        before_z, during_z: The same in deviations of the model's neutral answers; None if the vector file has none.
    """

    before: float
    during: float
    before_z: float | None
    during_z: float | None


def project(
    model: ChatModel, conversations: Sequence[Sequence[dict[str, str]]], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Project every assistant turn of every conversation on every vector.

    Args:
        conversations: Lists of messages {"role", "content"}.
        vectors: Of this model (see `PersonaVector.check`).

    Returns:
        Per conversation, per assistant turn: {name of the trait: Projection}. An empty answer has no projections.

    Raises:
        UserError: A conversation that the template refuses or the context cannot hold.
    """
    sequences: list[Conversation] = []
    owners: list[int] = []
    for index, messages in enumerate(conversations):
        for conversation in model.template.conversations(messages):
            model.check_fits(len(conversation.ids), 0)
            turns = zip(conversation.prompts, conversation.spans, strict=True)
            spans = [span for prompt, during in turns for span in ((max(prompt - 1, 0), max(prompt, 1)), during)]
            sequences.append(Conversation(conversation.ids, spans))
            owners += [index] * len(conversation.spans)
    layers = sorted({vector.layer for vector in vectors})
    directions = torch.stack([torch.stack([v.unit(layer) for v in vectors]) for layer in layers])
    values = read(model, sequences, layers=layers, directions=directions).means.view(
        len(owners), 2, len(layers), len(vectors)
    )
    result: list[list[dict[str, Projection]]] = [[] for _ in conversations]
    for turn, owner in enumerate(owners):
        seen: dict[str, Projection] = {}
        for k, vector in enumerate(vectors):
            before, during = (float(values[turn, i, layers.index(vector.layer), k]) for i in (0, 1))
            if during == during:
                seen[vector.trait] = Projection(
                    before, during, _z(vector, before, prompt=True), _z(vector, during, prompt=False)
                )
        result[owner].append(seen)
    return result


def monitor(
    model: ChatModel,
    chats: Path | str,
    vectors: Sequence[PersonaVector],
    out: Path | str,
    *,
    other_weights: bool = False,
) -> dict[str, Any]:
    """Project every conversation of a chat file (JSONL, one {"messages": [...]} a line).

    Args:
        out: Run folder: projections.jsonl (a line per conversation, with its line number), rejected.jsonl (line number,
            reason, the raw line), run.json, report.html. A run that was cut off goes on.
        other_weights: See `PersonaVector.check`.

    Returns:
        The content of run.json; read = scored + rejected.

    Raises:
        UserError: The file does not exist or cannot be read, or a vector belongs to another model.
    """
    chats = Path(chats)
    if not chats.is_file():
        raise UserError(f"There is no file {chats}.", 'Give a JSONL file with one {"messages": [...]} a line.')
    names = [vector.trait for vector in vectors]
    check_one_per_trait(vectors)
    for vector in vectors:
        vector.check(model, other_weights=other_weights)
    stat = chats.stat()
    arguments = {
        "chats": str(chats),
        "size": stat.st_size,
        "modified": stat.st_mtime_ns,
        **identity(model),
        "vectors": [v.identity for v in vectors],
    }
    with RunFolder(out, arguments) as folder:
        scored, rejected = JsonLines(folder / "projections.jsonl"), JsonLines(folder / "rejected.jsonl")
        done = {record["line"] for file in (scored, rejected) for record in file}
        with chats.open("rb") as handle:
            total = sum(1 for line in handle if line.strip())
        with progress("Reading conversations", total=total, unit="conversations") as job:
            job.advance(len(done))
            lines = (item for item in _lines(chats) if item[0] not in done)
            while window := list(islice(lines, WINDOW)):
                _window(model, vectors, window, scored, rejected)
                job.advance(len(window))
        conversations = sorted(scored, key=lambda record: record["line"])
        refused = sum(1 for _ in rejected)
        run = {
            "command": "monitor",
            **provenance(model, {"chats": str(chats), "vectors": names}),
            "vectors": [_described(vector) for vector in vectors],
            "read": len(conversations) + refused,
            "scored": len(conversations),
            "rejected": refused,
            "largest": _largest(conversations, names),
        }
        write_monitor_report({**run, "conversations": conversations}, folder / "report.html")
        write_json(folder / "run.json", run)
    return run


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def _window(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    window: Sequence[tuple[int, bytes]],
    scored: JsonLines,
    rejected: JsonLines,
) -> None:
    good: list[tuple[int, dict[str, Any]]] = []
    for number, line in window:
        try:
            record = json.loads(line.decode("utf-8-sig"))
            if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
                raise UserError('No "messages" list.')
            if not all(isinstance(message, dict) for message in record["messages"]):
                raise UserError('"messages" holds something that is not an object.')
            for conversation in model.template.conversations(record["messages"]):
                model.check_fits(len(conversation.ids), 0)
            good.append((number, record))
        except (UserError, ValueError, RecursionError) as error:
            rejected.append({"line": number, "reason": str(error), "raw": line.decode("utf-8", "replace")})
    turns = project(model, [record["messages"] for _, record in good], vectors) if good else []
    for (number, record), seen in zip(good, turns, strict=True):
        answers = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
        scored.append(
            {
                "id": str(record.get("id", number)),
                "line": number,
                "turns": [
                    {
                        "index": index,
                        "role": "assistant",
                        "text": answer[:TEXT],
                        "before": {name: p.before_z for name, p in turn.items()},
                        "during": {name: p.during_z for name, p in turn.items()},
                        "before_raw": {name: round(p.before, 4) for name, p in turn.items()},
                        "during_raw": {name: round(p.during, 4) for name, p in turn.items()},
                    }
                    for index, (answer, turn) in enumerate(zip(answers, seen, strict=True))
                ],
            }
        )


def _z(vector: PersonaVector, value: float, *, prompt: bool) -> float | None:
    try:
        mean, deviation = vector.neutral(vector.layer, of="prompt" if prompt else "answer")
    except UserError:
        return None
    return round((value - mean) / deviation, 4) if deviation > 0 else None


def _described(vector: PersonaVector) -> dict[str, Any]:
    try:
        mean, deviation = vector.neutral(vector.layer)
    except UserError:
        return {"name": vector.trait, "layer": vector.layer, "neutral_mean": None, "neutral_deviation": None}
    return {"name": vector.trait, "layer": vector.layer, "neutral_mean": mean, "neutral_deviation": deviation}


def _largest(conversations: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per trait the turn that lies farthest above neutral, and how many turns lie more than two deviations above."""
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        turns = [
            (turn["during"][name], conversation["line"], turn["index"])
            for conversation in conversations
            for turn in conversation["turns"]
            if turn["during"].get(name) is not None
        ]
        if turns:
            z, line, index = max(turns)
            above = sum(1 for t in turns if t[0] > 2)
            result[name] = {"z": z, "line": line, "turn": index, "above_2": above, "turns": len(turns)}
    return result
