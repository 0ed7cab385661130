"""A judge's opinion of single samples, beside their projections."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.extraction.specificity import judge_of
from personavec.judges.scorer import ApiTerms, Scorer, make_scorer
from personavec.model import ChatModel
from personavec.model.checkpoint import Checkpoint
from personavec.model.template import split_thought
from personavec.progress import progress
from personavec.projection.measure import Turns, chosen
from personavec.rollouts import Rollout
from personavec.screening.table import Table
from personavec.stats.numbers import Floats
from personavec.traits import Trait
from personavec.vector import PersonaVector

FROM = 50.0  # score above which a judge that sees every sample flags one
WINDOW = 128  # samples in memory at a time
TOGETHER = 32  # of them judged at once


def scorers(
    model: ChatModel | Checkpoint, judge: str, vectors: Sequence[PersonaVector], terms: ApiTerms | None = None
) -> dict[str, Scorer]:
    """A scorer for the trait of each vector, by its name.

    Args:
        judge: "contrast" (the one each vector carries), "local:MODEL" or "api:MODEL" (by the rubric it carries).

    Raises:
        UserError: No such judge, or a vector that does not know its trait.
    """
    here = model if isinstance(model, ChatModel) else None
    if judge == "contrast":
        if here is None:
            raise UserError(
                "The contrast judge needs the model in this process, and this engine runs it elsewhere.",
                "Screen with --engine transformers, or choose --judge local:MODEL or api:MODEL.",
            )
        return {vector.trait: judge_of(here, vector) for vector in vectors}
    made = {}
    for vector in vectors:
        try:
            trait = Trait.parse(vector.info["trait"], vector.trait)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"The vector of {vector.trait!r} carries no rubric.",
                "Extract it with personavec, or leave --judge out.",
            ) from error
        made[vector.trait] = make_scorer(judge, here, trait, terms)
    return made


def judged(
    engine: Engine,
    data: Dataset,
    table: Table,
    rows: Mapping[str, NDArray[np.intp]],
    by: Mapping[str, Scorer],
    turns: Turns,
) -> dict[str, Floats]:
    """Scores (n,) of each trait for some samples, NaN for the others and where the judge gave none (refusals).

    The judge reads the last turn that counts, and what the user said before it.

    Args:
        table: Of all samples.
        rows: Which of them are judged, by trait.
        by: The judge of each trait.
    """
    scores = {name: np.full(len(table), np.nan) for name in rows}
    wanted = {
        name: dict(zip(table.take(mine).indices.tolist(), mine.tolist(), strict=True)) for name, mine in rows.items()
    }
    total = sum(map(len, wanted.values()))
    with progress("Judging samples", total=total, unit="samples") as job:
        for window in _windows(data, set().union(*wanted.values())):
            for name, mine in wanted.items():
                asked = [_rollout(engine, sample, turns) for sample in window if sample.index in mine]
                for start in range(0, len(asked), TOGETHER):
                    some = asked[start : start + TOGETHER]
                    by[name].score(some)
                    job.advance(len(some))
                for rollout in asked:
                    if rollout.score is not None:
                        scores[name][mine[rollout.question_index]] = rollout.score
    return scores


def _windows(data: Dataset, wanted: set[int]) -> Iterator[list[Sample]]:
    window: list[Sample] = []
    for record in data if wanted else ():
        if isinstance(record, Sample) and record.index in wanted:
            window.append(record)
            if len(window) == WINDOW:
                yield window
                window = []
    if window:
        yield window


def _rollout(engine: Engine, sample: Sample, turns: Turns) -> Rollout:
    turn = chosen(sample, turns)[-1]
    before: list[dict[str, Any]] = sample.messages[:turn]
    _, text = split_thought(sample.messages[turn]["content"])
    question = next((m["content"] for m in reversed(before) if m["role"] == "user" and m["content"]), "")
    return Rollout(
        id=str(sample.index),
        stage="screen",
        question=question,
        question_index=sample.index,
        prompt_ids=engine.template.prompt_ids(before, sample.tools),
        response_ids=[*engine.template.lead, *engine.template.answer_ids(text)],
        text=text,
    )
