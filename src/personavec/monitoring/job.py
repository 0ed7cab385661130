"""How a model's character moves over conversations: chat data projected into a run folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from personavec.data import Dataset, Rejected, Sample, open_data
from personavec.errors import UserError
from personavec.files import JsonLines, RunFolder
from personavec.model import ChatModel
from personavec.monitoring.page import write_monitor_report
from personavec.monitoring.projections import AnswerTokens, Projection, encode, project_answers
from personavec.monitoring.result import MonitorRun, Peak, RejectedLine, WatchedConversation, WatchedTurn, WatchedVector
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.results import Result
from personavec.vector import PersonaVector, check_one_per_trait, reading_sides, two_directions

WINDOW = 64  # conversations in memory at a time
TEXT = 200  # characters of an answer that are kept for people to recognise it
Line = TypeVar("Line", bound=Result)


def monitor(
    model: ChatModel,
    chats: Dataset | Path | str | Sequence[Path | str],
    vectors: Sequence[PersonaVector],
    out: Path | str,
    *,
    other_weights: bool = False,
) -> MonitorRun:
    """Project every conversation of chat data.

    Args:
        chats: The data, or what `open_data` takes.
        out: Run folder: projections.jsonl (a line per conversation, with its line number), rejected.jsonl (line number,
            reason, the raw line), run.json, report.html. A run that was cut off goes on; a finished one is read back.
        other_weights: See `PersonaVector.check`.

    Raises:
        UserError: The data cannot be read, or a vector belongs to another model.
    """
    data = chats if isinstance(chats, Dataset) else open_data(chats)
    data.check_apart(out)
    check_one_per_trait(vectors)
    for vector in vectors:
        vector.check(model, other_weights=other_weights)
    notes, vectors = two_directions(vectors), reading_sides(vectors)
    arguments: dict[str, JsonValue] = {
        "chats": [*data.sources],
        "digest": data.digest,
        **identity(model),
        "vectors": [v.identity for v in vectors],
    }
    with RunFolder(out, arguments) as folder:
        if (finished := folder.finished(MonitorRun.read)) is not None:
            return finished
        scored, rejected = JsonLines(folder / "projections.jsonl"), JsonLines(folder / "rejected.jsonl")
        _project_rest(model, vectors, data, scored, rejected)
        conversations = sorted(_lines(scored, WatchedConversation), key=lambda conversation: conversation.index)
        run = _summary(model, vectors, data, conversations, sum(1 for _ in rejected))
        run = run.with_(warnings=(*run.warnings, *notes))
        write_monitor_report(run, conversations, folder / "report.html")
        run.write(folder.path)
    return run


def _project_rest(
    model: ChatModel, vectors: Sequence[PersonaVector], data: Dataset, scored: JsonLines, rejected: JsonLines
) -> None:
    """All records that neither file holds."""
    done = {conversation.index for conversation in _lines(scored, WatchedConversation)}
    done |= {line.index for line in _lines(rejected, RejectedLine)}
    with progress("Reading conversations", total=data.total, unit="conversations") as job:
        job.advance(len(done))
        rest = (record for record in data if record.index not in done)
        while window := list(islice(rest, WINDOW)):
            _project_window(model, vectors, window, scored, rejected)
            job.advance(len(window))


def _project_window(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    window: Sequence[Sample | Rejected],
    scored: JsonLines,
    rejected: JsonLines,
) -> None:
    samples: list[Sample] = []
    encoded: list[AnswerTokens] = []
    refused: list[Rejected] = []
    for record in window:
        if isinstance(record, Rejected):
            refused.append(record)
            continue
        try:
            encoded.append(encode(model, record.messages, record.tools))
            samples.append(record)
        except UserError as error:
            refused.append(record.rejected(error.problem))
    if refused:
        rejected.append(*({"index": one.index, **one.as_json()} for one in refused))
    projections = project_answers(model, encoded, vectors) if encoded else []
    for sample, answers, values in zip(samples, encoded, projections, strict=True):
        scored.append(_conversation(sample, answers.turns, values).as_json())


def _conversation(
    sample: Sample, turns: Sequence[int], projections: Sequence[Mapping[str, Projection]]
) -> WatchedConversation:
    spoken = [i for i, message in enumerate(sample.messages) if message["role"] == "assistant"]
    return WatchedConversation(
        id=_id(sample),
        index=sample.index,
        line=sample.line,
        source=sample.source,
        turns=tuple(
            WatchedTurn(
                index=spoken.index(turn),
                role="assistant",
                text=sample.messages[turn]["content"][:TEXT],
                before={name: p.before_z for name, p in along.items()},
                during={name: p.during_z for name, p in along.items()},
                highest={name: p.highest_z for name, p in along.items()},
                before_raw={name: p.before for name, p in along.items()},
                during_raw={name: p.during for name, p in along.items()},
                highest_raw={name: p.highest for name, p in along.items()},
            )
            for turn, along in zip(turns, projections, strict=True)
        ),
    )


def _id(sample: Sample) -> str:
    """What the record calls itself, or its line."""
    value = json.loads(sample.raw)
    return str(value["id"] if isinstance(value, dict) and value.get("id") is not None else sample.line)


def _lines(log: JsonLines, kind: type[Line]) -> Iterator[Line]:
    """What an earlier try has written.

    Raises:
        UserError: A line is not of this kind.
    """
    for number, record in enumerate(log, 1):
        try:
            yield kind.model_validate(record)
        except ValidationError as error:
            raise UserError(
                f"{log.path}, line {number}: not written by this version of personavec ({error.errors()[0]['msg']}).",
                "Delete the run folder and start again, or choose another with `out`.",
            ) from error


def _summary(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    data: Dataset,
    conversations: Sequence[WatchedConversation],
    rejected: int,
) -> MonitorRun:
    names = [vector.trait for vector in vectors]
    return MonitorRun.of(
        provenance(model, {"chats": ", ".join(data.sources), "vectors": [*names]}),
        format=data.format,
        sources=tuple(data.sources),
        vectors=tuple(_watched(vector) for vector in vectors),
        records=len(conversations) + rejected,
        scored=len(conversations),
        rejected=rejected,
        largest=_peaks(conversations, names),
        warnings=(*model.template.notes, *data.notes),
    )


def _watched(vector: PersonaVector) -> WatchedVector:
    try:
        mean, deviation = vector.neutral(vector.layer)
    except UserError:
        return WatchedVector(name=vector.trait, layer=vector.layer, neutral_mean=None, neutral_deviation=None)
    return WatchedVector(name=vector.trait, layer=vector.layer, neutral_mean=mean, neutral_deviation=deviation)


def _peaks(conversations: Sequence[WatchedConversation], names: Sequence[str]) -> dict[str, Peak]:
    """Per trait the answer that lies farthest above neutral, and how many lie more than two deviations above."""
    peaks: dict[str, Peak] = {}
    for name in names:
        values = [
            (z, conversation.line, turn.index, conversation.source)
            for conversation in conversations
            for turn in conversation.turns
            if (z := turn.along(name)) is not None
        ]
        if values:
            highest, line, index, source = max(values)
            above = sum(z > 2 for z, *_ in values)
            peaks[name] = Peak(z=highest, line=line, source=source, turn=index, above_2=above, turns=len(values))
    return peaks
