"""A judge's opinion of single samples, beside their projections."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import Cost, Judge, announce
from personavec.judges.kinds import open_judge
from personavec.judges.of_vector import trait_judges
from personavec.model import ChatModel
from personavec.model.checkpoint import Checkpoint
from personavec.model.messages import split_thought
from personavec.progress import progress
from personavec.projection import Turns
from personavec.projection.measure import turn_places
from personavec.rollouts import Rollout
from personavec.screening.lookup import Lookup
from personavec.screening.result import JudgeCounts
from personavec.screening.table import Table
from personavec.stats.numbers import Floats
from personavec.vector import PersonaVector

FROM = 50.0  # score above which a judge that sees every sample flags one
WINDOW = 128  # samples in memory at a time
TOGETHER = 32  # of them judged at once


def scorers(
    model: ChatModel | Checkpoint, judge: str, vectors: Sequence[PersonaVector], terms: ApiTerms | None = None
) -> dict[str, Judge]:
    """A judge for the trait of each vector, by its name; what stands behind them is opened once.

    Args:
        judge: See `personavec.judges.kinds.open_judge`; "contrast": the one that each vector carries.

    Raises:
        UserError: No such judge, or a vector that does not hold what it needs.
    """
    here = model if isinstance(model, ChatModel) else None
    return trait_judges(open_judge(judge, here, terms=terms), vectors)


def judge_scores(
    engine: Engine,
    data: Dataset,
    table: Table,
    rows: Mapping[str, NDArray[np.intp]],
    by: Mapping[str, Judge],
    turns: Turns,
) -> dict[str, Floats]:
    """Scores (n,) of each trait for some samples, NaN for the others and where the judge gave none (refusals).

    The judge reads the last turn that counts, and what the user said before it.

    Args:
        table: Of all samples.
        rows: Which of them are judged, by trait.
        by: The judge of each trait.
    """
    scores = {trait: np.full(len(table), np.nan) for trait in rows}
    wanted = {
        trait: dict(zip(table.take(some).indices.tolist(), some.tolist(), strict=True)) for trait, some in rows.items()
    }
    announce(_costs(data, wanted, by, turns))
    total = sum(map(len, wanted.values()))
    with progress("Judging samples", total=total, unit="samples") as job:
        for window in _windows(data, set().union(*wanted.values())):
            for trait, row_of in wanted.items():
                asked = [_rollout(engine, sample, turns) for sample in window if sample.index in row_of]
                for first in range(0, len(asked), TOGETHER):
                    some = asked[first : first + TOGETHER]
                    by[trait].score(some)
                    job.advance(len(some))
                for rollout in asked:
                    if rollout.score is not None:
                        scores[trait][row_of[rollout.question_index]] = rollout.score
    return scores


def _costs(
    data: Dataset, wanted: Mapping[str, Mapping[int, int]], by: Mapping[str, Judge], turns: Turns
) -> Iterator[Cost | None]:
    """What judging the wanted samples (rows by index, by trait) will cost; the data are read once more for that."""
    if all(judge.cost([], 0) is None for judge in by.values()):
        return
    for window in _windows(data, set().union(*wanted.values())):
        for trait, row_of in wanted.items():
            exchanges = [_exchange(sample, turns) for sample in window if sample.index in row_of]
            yield by[trait].cost([question + answer for question, answer in exchanges], 0)


def _windows(data: Dataset, wanted: set[int]) -> Iterator[list[Sample]]:
    """The samples with these indices, so many at a time."""
    indices, lookup = sorted(wanted), Lookup(data)
    for start in range(0, len(indices), WINDOW):
        yield list(lookup(indices[start : start + WINDOW]).values())


def judge_counts(scores: Floats) -> JudgeCounts:
    """How many scores (n,) there are, NaN being none, and how many of them above `FROM`."""
    return JudgeCounts(scored=int(np.isfinite(scores).sum()), above_50=int((np.nan_to_num(scores) > FROM).sum()))


def _rollout(engine: Engine, sample: Sample, turns: Turns) -> Rollout:
    question, text = _exchange(sample, turns)
    before = sample.messages[: turn_places(sample, turns)[-1]]
    return Rollout(
        id=str(sample.index),
        stage="screen",
        question=question,
        question_index=sample.index,
        prompt_ids=engine.template.prompt_ids(before, sample.tools),
        response_ids=[*engine.template.lead, *engine.template.answer_ids(text)],
        text=text,
    )


def _exchange(sample: Sample, turns: Turns) -> tuple[str, str]:
    """The last turn that counts, and what the user said before it: question and answer."""
    turn = turn_places(sample, turns)[-1]
    asked = (m["content"] for m in reversed(sample.messages[:turn]) if m["role"] == "user" and m["content"])
    return next(asked, ""), split_thought(sample.messages[turn]["content"])[1]
