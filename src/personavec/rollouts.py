"""Rollouts: responses to questions under instructions or steering, generated in batches, kept on disk as they end."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.files import JsonLines, to_json, write_atomic
from personavec.model import ChatModel, Conversation, Request
from personavec.model.edits import Intervention
from personavec.progress import progress

Side = Literal["positive", "negative"]
WAVE = 256  # requests that share one schedule: a run that was cut off repeats its last wave exactly


@dataclass
class Rollout:
    """One response to one question.

    Attributes:
        id: Unique in its run, made of stage, question, pair, side, setting and number.
        stage: What it was made for: "extraction", "evaluation", "neutral", "sweep", "dose", "null", "prompted" or
            "text".
        question, question_index: The question and its place in its list.
        number: Which of several responses to the same question.
        pair, side: The instruction it was given under; None without instruction.
        layer, coefficient: The steering it was given under; None without steering.
        setting: A name for what these do not tell apart, such as that of a random direction.
        prompt_ids, response_ids, text, finished: Tokens and text; finished if the model ended the response itself.
        score, coherence: 0..100, None where there is none.
        score_error: Standard error of the score, from a judge that knows its own.
        kept: Whether it went into the vector; None where that is no question.
        interventions: What was done to the stream; not written to disk.
    """

    id: str
    stage: str
    question: str
    question_index: int
    prompt_ids: list[int]
    number: int = 0
    pair: int | None = None
    side: Side | None = None
    layer: int | None = None
    coefficient: float | None = None
    setting: str | None = None
    response_ids: list[int] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    score: float | None = None
    coherence: float | None = None
    score_error: float | None = None
    kept: bool | None = None
    interventions: Sequence[Intervention] = field(default=(), repr=False)

    def record(self) -> dict[str, JsonValue]:
        """As a line of `rollouts.jsonl`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "interventions"}


def plan(
    model: ChatModel,
    stage: str,
    questions: Sequence[str],
    *,
    system: str | None = None,
    number: int = 0,
    **given: Any,
) -> list[Rollout]:
    """One rollout per question, not yet generated.

    Args:
        system: Instruction, as a system prompt.
        number: Which of several responses to the same question.
        given: Further attributes of the rollouts: setting, pair, side, layer, coefficient, interventions.
    """
    parts = [stage, *(given.get(part) for part in ("setting", "pair", "side", "layer", "coefficient")), number]
    name = "/".join(str(part) for part in parts if part is not None)
    rollouts = []
    for index, question in enumerate(questions):
        messages = [{"role": "user", "content": question}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rollouts.append(
            Rollout(
                f"{name}/{index}", stage, question, index, prompt_ids=model.prompt_ids(messages), number=number, **given
            )
        )
    return rollouts


def generate(
    model: ChatModel,
    rollouts: Sequence[Rollout],
    log: JsonLines,
    *,
    description: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Fill in the responses, reading from the log what an earlier try has generated and appending the rest to it.

    The seed of each rollout comes from the run's seed and the rollout's id. What rounding does depends on the other
    rows of a batch, so a wave that was cut off is generated again as a whole: a resumed run equals an unbroken one.
    """
    before = {record["id"]: record for record in log}
    with progress(description, total=len(rollouts), unit="rollouts", together=model.places) as job:
        for start in range(0, len(rollouts), WAVE):
            wave = rollouts[start : start + WAVE]
            if not all(rollout.id in before for rollout in wave):
                requests = [
                    Request(r.prompt_ids, max_new_tokens, temperature, _seed(seed, r.id), r.interventions) for r in wave
                ]

                def keep(index: int, response: Any, wave: Sequence[Rollout] = wave) -> None:
                    rollout = wave[index]
                    if rollout.id not in before:
                        before[rollout.id] = {
                            "id": rollout.id,
                            "response_ids": response.ids,
                            "finished": response.finished,
                        }
                        log.append(before[rollout.id])
                    job.advance()

                model.generate(requests, keep)
            else:
                job.advance(len(wave))
            for rollout in wave:
                record = before[rollout.id]
                rollout.response_ids, rollout.finished = record["response_ids"], record["finished"]
                rollout.text = model.decode(rollout.response_ids[model.template.response_start(rollout.response_ids) :])


def write_rollouts(path: Path | str, rollouts: Sequence[Rollout]) -> None:
    """Write rollouts as lines of JSON, atomically, in the place of what the file held."""
    lines = [to_json(r.record()) + "\n" for r in rollouts]
    write_atomic(path, "".join(lines))


def read_rollouts(path: Path | str) -> list[Rollout]:
    """The rollouts that a run wrote into rollouts.jsonl.

    Raises:
        UserError: A line is no rollout.
    """
    rollouts = []
    for number, record in enumerate(JsonLines(path), 1):
        try:
            rollouts.append(Rollout(**record))
        except TypeError as error:
            raise UserError(f"{path}, line {number}: not a rollout.", "Make the run again.") from error
    return rollouts


def uninstructed(model: ChatModel, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The same answers as if to the question alone: what is read in them then is not the instruction."""
    return [replace(r, prompt_ids=model.prompt_ids([{"role": "user", "content": r.question}])) for r in rollouts]


def conversation(model: ChatModel, rollout: Rollout) -> Conversation:
    """The rollout's tokens with three spans: the prompt, its last token, the response (without thoughts)."""
    prompt = len(rollout.prompt_ids)
    start = prompt + model.template.response_start(rollout.response_ids)
    ids = [*rollout.prompt_ids, *rollout.response_ids]
    return Conversation(ids, [(0, prompt), (prompt - 1, prompt), (start, len(ids))])


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
