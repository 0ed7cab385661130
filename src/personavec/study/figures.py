"""What the fine-tunes of a study say together: correlations beside their nulls, and what prevention saved."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from personavec.projection.specific import remove_span
from personavec.stats.bootstrap import bootstrap_mean, bootstrap_pearson, bootstrap_ratio, pearson
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions, place
from personavec.stats.numbers import Floats
from personavec.study.result import AnswerScores, Correlation, FamilyEstimate, WithinFamilies
from personavec.vector import PersonaVector

DIRECTIONS = 200
LEAST = 3  # fine-tunes that a correlation takes
OWN, RANDOM = "own vector", "random directions"  # beside the names of other traits


@dataclass(frozen=True)
class MeanAnswers:
    """Mean figures of one model's answers to the questions of one trait.

    Attributes:
        score: By judge, the first one first; None where it scored no answer.
        coherence: Of all answers, refusals included.
    """

    score: Mapping[str, float | None]
    coherence: float

    @classmethod
    def of(cls, scores: AnswerScores, judges: Sequence[str]) -> "MeanAnswers":
        """Of them, by the judges of these names."""
        opinions = dict(zip(judges, [scores, *scores.others.values()], strict=True))
        means = {judge: None if one.score is None else one.score.mean for judge, one in opinions.items()}
        return cls(means, scores.coherence.mean)


@dataclass(frozen=True, eq=False)
class FineTune:
    """What was measured of one fine-tune.

    Attributes:
        family: Data of one family are no independent runs: intervals draw families.
        level: Of the data; "normal" is the control of its family.
        plain: After training, by trait.
        instructed: The same under an instruction to show the trait; empty: not asked so.
        change: Mean change of the last prompt token's reading over the trait's questions, (layers, d), by trait.
        pull: Mean reading of the data's answers minus that of the model's own, (layers, d).
    """

    family: str
    level: str | None
    plain: Mapping[str, MeanAnswers]
    instructed: Mapping[str, MeanAnswers]
    change: Mapping[str, Tensor]
    pull: Tensor


@dataclass(frozen=True, eq=False)
class Before:
    """What was read by the model as it came.

    Attributes:
        readings: Of last prompt tokens, (questions, layers, d), by trait.
        depths: The layers of these tensors, and of those of the fine-tunes.
        domains: Mean readings (domains, d) of clean domains, by layer.
    """

    readings: Mapping[str, Tensor]
    depths: Sequence[int]
    domains: Mapping[int, Tensor]


@dataclass(frozen=True, eq=False)
class _Along:
    """Figures (runs, k) of the fine-tunes along k directions, by what these are; "own" is the trait's vector."""

    shifts: Mapping[str, Floats]
    differences: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class _Scores:
    """Mean trait score and coherence (runs,) of the answers; NaN where there is no score."""

    score: Floats
    coherence: Floats

    @classmethod
    def of(cls, answers: Sequence[MeanAnswers]) -> "dict[str, _Scores]":
        """By judge."""
        coherence = np.array([one.coherence for one in answers], dtype=np.float64)
        return {
            judge: cls(np.array([one.score[judge] for one in answers], dtype=np.float64), coherence)
            for judge in answers[0].score
        }


def correlations(
    runs: Sequence[FineTune], vectors: Sequence[PersonaVector], before: Before, seed: int
) -> dict[str, dict[str, Correlation]]:
    """Pearson's r over fine-tunes for each trait (paper sections 4.2 and 6.2), each beside what else reaches it.

    - "shift, score": the fine-tuning shift against the trait score after training;
    - "shift, score by JUDGE": the same by a further judge;
    - "shift, score when asked": the same where the answers are given under an instruction to show the trait;
    - "difference, shift": the data's projection difference before training against the shift;
    - "difference, score" and "difference, score by JUDGE";
    - "shift, score; domains out" and "difference, shift; domains out": along the vector without what the mean readings
      of clean domains span, for data of two domains differ in far more than character.

    Nulls: 200 random directions with the covariance of the base model's readings, put in the place of the vector and
    treated alike ("random"); the other traits' vectors in its place ("others"); where the shift is the predictor, the
    mere length of the change, whatever its direction ("length"); and where the score is the outcome, the coherence of
    the answers ("coherence"), for answers that fall apart have a score too. Within families ("within") each figure is
    taken minus that of the family's normal level, which is left out.

    Returns:
        By trait and pair.
    """
    return {vector.trait: _of_trait(runs, vector, vectors, before, seed) for vector in vectors}


def _of_trait(
    runs: Sequence[FineTune], vector: PersonaVector, vectors: Sequence[PersonaVector], before: Before, seed: int
) -> dict[str, Correlation]:
    """All pairs of one trait."""
    name, domains = vector.trait, before.domains[vector.layer]
    raw, free = (_along(runs, vector, vectors, before, seed, out) for out in (domains[:0], domains))
    lengths = torch.stack([run.change[name][before.depths.index(vector.layer)] for run in runs]).norm(dim=1)
    first, *others = _Scores.of([run.plain[name] for run in runs]).items()
    compare = partial(_correlation, runs, seed)
    shift_and_score = partial(compare, lengths=lengths.double().numpy())
    found = {"shift, score": shift_and_score(raw.shifts, first[1])}
    found |= {f"shift, score by {judge}": shift_and_score(raw.shifts, scores) for judge, scores in others}
    if all(run.instructed for run in runs):
        asked, *_ = _Scores.of([run.instructed[name] for run in runs]).values()
        found["shift, score when asked"] = shift_and_score(raw.shifts, asked)
    found["difference, shift"] = compare(raw.differences, raw.shifts)
    found["difference, score"] = compare(raw.differences, first[1])
    found |= {f"difference, score by {judge}": compare(raw.differences, scores) for judge, scores in others}
    found["shift, score; domains out"] = shift_and_score(free.shifts, first[1])
    found["difference, shift; domains out"] = compare(free.differences, free.shifts)
    return found


def _along(
    runs: Sequence[FineTune],
    vector: PersonaVector,
    vectors: Sequence[PersonaVector],
    before: Before,
    seed: int,
    out: Tensor,
) -> _Along:
    """Figures along the vector and what stands in its place, each without what `out` (m, d) spans."""
    at, readings = before.depths.index(vector.layer), before.readings[vector.trait]
    changes = torch.stack([run.change[vector.trait][at] for run in runs])
    pulls = torch.stack([run.pull[at] for run in runs])
    drawn = covariance_directions(readings[:, [at]], ["all"] * len(readings), DIRECTIONS, seed)[:, 0]
    rivals = {other.trait: other.at(vector.layer)[None] for other in vectors if other is not vector}
    directions = {
        key: torch.stack([remove_span(one, out).direction for one in some])
        for key, some in {OWN: vector.at(vector.layer)[None], RANDOM: drawn, **rivals}.items()
    }
    return _Along(
        {key: (changes @ some.T).double().numpy() for key, some in directions.items()},
        {key: (pulls @ some.T).double().numpy() for key, some in directions.items()},
    )


def _correlation(
    runs: Sequence[FineTune],
    seed: int,
    first: Mapping[str, Floats],
    second: Mapping[str, Floats] | _Scores,
    *,
    lengths: Floats | None = None,
) -> Correlation:
    """Of a pair of figures.

    Args:
        second: Along the same directions, or scores, which have no direction.
        lengths: Of the changes, where these are the predictor.
    """
    scores = second if isinstance(second, _Scores) else None
    columns = (
        {key: np.broadcast_to(second.score[:, None], some.shape) for key, some in first.items()}
        if isinstance(second, _Scores)
        else second
    )
    use = np.isfinite(columns[OWN][:, 0])
    families = [run.family for run, used in zip(runs, use, strict=True) if used]
    r = _each(first, columns, use)
    own = _over_families(first[OWN][use, 0], columns[OWN][use, 0], families, seed).rounded()
    return Correlation(
        r=own,
        random=place(own.mean, r[RANDOM]),
        others={key: values[0] for key, values in r.items() if key not in (OWN, RANDOM)},
        length=None if lengths is None or scores is None else _r(lengths[use], scores.score[use]),
        coherence=None if scores is None else _over_families(scores.coherence[use], scores.score[use], families, seed),
        within=_within(runs, first, columns, seed),
    )


def _within(
    runs: Sequence[FineTune], first: Mapping[str, Floats], second: Mapping[str, Floats], seed: int
) -> WithinFamilies | None:
    """The same of figures minus those of the normal level, over the other levels."""
    normal = {run.family: place for place, run in enumerate(runs) if run.level == "normal"}
    rows = [at for at, run in enumerate(runs) if run.family in normal and run.level != "normal"]
    controls = [normal[runs[at].family] for at in rows]
    x, y = ({key: some[rows] - some[controls] for key, some in side.items()} for side in (first, second))
    use = np.isfinite(y[OWN][:, 0])
    if use.sum() < LEAST:
        return None
    families = [runs[at].family for at, used in zip(rows, use, strict=True) if used]
    own = _over_families(x[OWN][use, 0], y[OWN][use, 0], families, seed).rounded()
    return WithinFamilies(r=own, random=place(own.mean, _each(x, y, use)[RANDOM]))


def _each(first: Mapping[str, Floats], second: Mapping[str, Floats], use: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Pearson's r of the columns of either side, by what they are."""
    return {key: [_r(a[use], b[use]) for a, b in zip(first[key].T, second[key].T, strict=True)] for key in first}


def _r(x: Floats, y: Floats) -> float:
    """Pearson's r; 0 of no fine-tunes at all."""
    return pearson(x, y) if len(x) else 0.0


def _over_families(x: Floats, y: Floats, families: Sequence[Hashable], seed: int) -> FamilyEstimate:
    """Pearson's r of fine-tunes, with an interval from drawing families; of none at all anything from -1 to 1."""
    if not families:
        return FamilyEstimate(0.0, -1.0, 1.0, 0, 0)
    e = bootstrap_pearson(x, y, families, seed)
    return FamilyEstimate(e.mean, e.low, e.high, e.n, len(families))


def score_change(before: Sequence[float | None], after: Sequence[float | None], seed: int) -> Estimate | None:
    """Mean change of the score over the questions that have one before and after, with its interval.

    Args:
        before, after: Score of each question from the first on, None where there is none; one may go on for longer.

    Returns:
        None where fewer than two questions are left.
    """
    rows = [(a, b) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    return bootstrap_mean([b - a for a, b in rows], seed=seed) if len(rows) > 1 else None


def more_loss(plain: Sequence[float], arm: Sequence[float], seed: int) -> Estimate:
    """By how many percent the mean loss (n,) of an arm is above that of the plain fine-tune on the same samples."""
    first, second = np.array(plain), np.array(arm)
    return bootstrap_ratio(100 * (second - first), first, seed)


def task_learned(before: Sequence[float], plain: Sequence[float], arm: Sequence[float], seed: int) -> Estimate | None:
    """How many percent of what the plain fine-tune learned of the task an arm learned: of the mean loss's (n,) fall.

    Beside `more_loss`, which is large for a small loss: where both have all but learned the task, little is lost. None
    where the plain fine-tune learned nothing.
    """
    base = np.array(before)
    fall = base - np.array(plain)
    return bootstrap_ratio(100 * (base - np.array(arm)), fall, seed) if fall.mean() > 0 else None


def more_perplexity(plain: Sequence[float], arm: Sequence[float], seed: int) -> Estimate:
    """By how many percent the perplexity of an arm is above that of the plain fine-tune, from losses (n,) of passages.

    `exp` of the mean change of the loss and of its bounds: passages differ far more than models do.
    """
    change = bootstrap_mean(np.array(arm) - np.array(plain), seed=seed)
    low, mean, high = (100 * (math.exp(value) - 1) for value in (change.low, change.mean, change.high))
    return Estimate(mean, low, high, change.n)
