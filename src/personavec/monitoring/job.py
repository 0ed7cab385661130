"""How a model's character moves over conversations: projections before and during every answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from personavec.data import Dataset, Rejected, Sample, open_data
from personavec.data.messages import answers
from personavec.errors import UserError
from personavec.files import JsonLines, RunFolder, write_json
from personavec.model import ChatModel, Conversation
from personavec.model.template import Message
from personavec.monitoring.page import write_monitor_report
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.readout import read
from personavec.vector import PersonaVector

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
    model: ChatModel, conversations: Sequence[Sequence[Message]], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Project every assistant turn of every conversation on every vector.

    Args:
        conversations: Lists of messages {"role", "content"}, and what chat templates know besides.
        vectors: Of this model (see `PersonaVector.check`).

    Returns:
        Per conversation, per assistant turn: {name of the trait: Projection}. An empty answer has no projections, nor
        has a greeting or a turn that only calls tools.

    Raises:
        UserError: A conversation that the template refuses or the context cannot hold.
    """
    told = [_told(model, messages, answers(messages)) for messages in conversations]
    seen = _project(model, [sequences for _, sequences in told], vectors)
    result = []
    for messages, (turns, _), mine in zip(conversations, told, seen, strict=True):
        spoken = dict(zip(turns, mine, strict=True))
        result.append([spoken.get(i, {}) for i, message in enumerate(messages) if message["role"] == "assistant"])
    return result


def _told(
    model: ChatModel, messages: Sequence[Message], turns: list[int], tools: Sequence[Any] = ()
) -> tuple[list[int], list[Conversation]]:
    """The turns, and their tokens with two spans for each: the last prompt token and the answer.

    Raises:
        UserError: The template refuses the messages, or the context cannot hold them.
    """
    sequences = []
    for conversation in model.template.conversations(messages, turns, tools):
        model.check_fits(len(conversation.ids), 0)
        pairs = zip(conversation.prompts, conversation.spans, strict=True)
        spans = [span for prompt, during in pairs for span in ((max(prompt - 1, 0), max(prompt, 1)), during)]
        sequences.append(Conversation(conversation.ids, spans))
    return turns, sequences


def _project(
    model: ChatModel, conversations: Sequence[Sequence[Conversation]], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Per conversation, per turn in it: {name of the trait: Projection}; none for an empty answer."""
    sequences = [sequence for mine in conversations for sequence in mine]
    layers = sorted({vector.layer for vector in vectors})
    directions = torch.stack([torch.stack([v.unit(layer) for v in vectors]) for layer in layers])
    values = read(model, sequences, layers=layers, directions=directions).means.view(-1, 2, len(layers), len(vectors))
    result: list[list[dict[str, Projection]]] = []
    turns = iter(values)
    for mine in conversations:
        result.append([])
        for turn in islice(turns, sum(len(sequence.spans) for sequence in mine) // 2):
            seen: dict[str, Projection] = {}
            for k, vector in enumerate(vectors):
                before, during = (float(turn[i, layers.index(vector.layer), k]) for i in (0, 1))
                if during == during:
                    seen[vector.trait] = Projection(
                        before, during, _z(vector, before, prompt=True), _z(vector, during, prompt=False)
                    )
            result[-1].append(seen)
    return result


def monitor(
    model: ChatModel,
    chats: Dataset | Path | str | Sequence[Path | str],
    vectors: Sequence[PersonaVector],
    out: Path | str,
    *,
    other_weights: bool = False,
) -> dict[str, Any]:
    """Project every conversation of chat data.

    Args:
        chats: The data, or what `open_data` takes.
        out: Run folder: projections.jsonl (a line per conversation, with its line number), rejected.jsonl (line number,
            reason, the raw line), run.json, report.html. A run that was cut off goes on.
        other_weights: See `PersonaVector.check`.

    Returns:
        The content of run.json; read = scored + rejected.

    Raises:
        UserError: The data cannot be read, or a vector belongs to another model.
    """
    data = chats if isinstance(chats, Dataset) else open_data(chats)
    data.check_apart(out)
    names = [vector.trait for vector in vectors]
    if len(set(names)) < len(names):
        raise UserError(f"Two of the vectors are of the same trait ({', '.join(names)}).", "Give each trait once.")
    for vector in vectors:
        vector.check(model, other_weights=other_weights)
    arguments = {
        "chats": data.sources,
        "digest": data.digest,
        **identity(model),
        "vectors": [[v.trait, v.layer, float(v.at(v.layer).norm())] for v in vectors],
    }
    with RunFolder(out, arguments) as folder:
        scored, refused = JsonLines(folder / "projections.jsonl"), JsonLines(folder / "rejected.jsonl")
        done = {record["index"] for file in (scored, refused) for record in file}
        with progress("Reading conversations", total=data.total, unit="conversations") as job:
            job.advance(len(done))
            rest = (record for record in data if record.index not in done)
            while window := list(islice(rest, WINDOW)):
                _window(model, vectors, window, scored, refused)
                job.advance(len(window))
        conversations = sorted(scored, key=lambda record: record["index"])
        rejects = sum(1 for _ in refused)
        run = {
            "command": "monitor",
            **provenance(model, {"chats": ", ".join(data.sources), "vectors": names}),
            "format": data.format,
            "sources": data.sources,
            "vectors": [_described(vector) for vector in vectors],
            "read": len(conversations) + rejects,
            "scored": len(conversations),
            "rejected": rejects,
            "largest": _largest(conversations, names),
            "warnings": [*model.template.notes, *data.notes],
        }
        write_monitor_report({**run, "conversations": conversations}, folder / "report.html")
        write_json(folder / "run.json", run)
    return run


def _window(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    window: Sequence[Sample | Rejected],
    scored: JsonLines,
    refused: JsonLines,
) -> None:
    good: list[tuple[Sample, list[int], list[Conversation]]] = []
    for record in window:
        if isinstance(record, Rejected):
            refused.append(_rejected(record, record.reason))
            continue
        try:
            good.append((record, *_told(model, record.messages, answers(record.messages), record.tools)))
        except UserError as error:
            refused.append(_rejected(record, error.problem))
    seen = _project(model, [sequences for _, _, sequences in good], vectors) if good else []
    for (sample, turns, _), projections in zip(good, seen, strict=True):
        spoken = [i for i, message in enumerate(sample.messages) if message["role"] == "assistant"]
        scored.append(
            {
                "id": _id(sample),
                "index": sample.index,
                "line": sample.line,
                "source": sample.source,
                "turns": [
                    {
                        "index": spoken.index(turn),
                        "role": "assistant",
                        "text": sample.messages[turn]["content"][:TEXT],
                        "before": {name: p.before_z for name, p in along.items()},
                        "during": {name: p.during_z for name, p in along.items()},
                        "before_raw": {name: round(p.before, 4) for name, p in along.items()},
                        "during_raw": {name: round(p.during, 4) for name, p in along.items()},
                    }
                    for turn, along in zip(turns, projections, strict=True)
                ],
            }
        )


def _rejected(record: Sample | Rejected, reason: str) -> dict[str, Any]:
    raw = record.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
    return {"index": record.index, "line": record.line, "source": record.source, "reason": reason, "raw": raw}


def _id(sample: Sample) -> str:
    """What the record calls itself, or its line."""
    value = json.loads(sample.raw)
    return str(value["id"] if isinstance(value, dict) and value.get("id") is not None else sample.line)


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
            (turn["during"][name], conversation["line"], turn["index"], conversation["source"])
            for conversation in conversations
            for turn in conversation["turns"]
            if turn["during"].get(name) is not None
        ]
        if turns:
            z, line, index, source = max(turns)
            above = sum(1 for t in turns if t[0] > 2)
            result[name] = {
                "z": z,
                "line": line,
                "source": source,
                "turn": index,
                "above_2": above,
                "turns": len(turns),
            }
    return result
