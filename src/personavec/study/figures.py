"""What the fine-tunes of a study say together: correlations beside their nulls, and what prevention saved."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from personavec.stats.bootstrap import bootstrap_mean, bootstrap_pearson, bootstrap_ratio, pearson
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions, place
from personavec.stats.numbers import Floats
from personavec.study.result import AnswerScores, Correlation, FamilyEstimate
from personavec.vector import PersonaVector

DIRECTIONS = 200
OWN, RANDOM = "own vector", "random directions"  # beside the names of other traits


@dataclass(frozen=True)
class MeanAnswers:
    """Mean figures of one model's answers to the questions of one trait.

    Attributes:
        score: None where every answer was refused.
        coherence: Of all answers, refusals included.
    """

    score: float | None
    coherence: float

    @classmethod
    def of(cls, scores: AnswerScores) -> "MeanAnswers":
        """Of them."""
        return cls(None if scores.score is None else scores.score.mean, scores.coherence.mean)


@dataclass(frozen=True, eq=False)
class FineTune:
    """What was measured of one fine-tune.

    Attributes:
        family: Data of one family are no independent runs: intervals draw families.
        plain: After training, by trait.
        instructed: The same under an instruction to show the trait.
        change: Mean change of the last prompt token's reading over the trait's questions, (layers, d), by trait.
        pull: Mean reading of the data's answers minus that of the model's own, (layers, d).
    """

    family: str
    plain: Mapping[str, MeanAnswers]
    instructed: Mapping[str, MeanAnswers]
    change: Mapping[str, Tensor]
    pull: Tensor


@dataclass(frozen=True, eq=False)
class _Along:
    """Figures (runs, k) of the fine-tunes along k directions, by what these are; "own" is the trait's vector."""

    shifts: Mapping[str, Floats]
    differences: Mapping[str, Floats]
    lengths: Floats  # (runs,) of the changes


@dataclass(frozen=True, eq=False)
class _Scores:
    """Mean trait score and coherence (runs,) of the answers; NaN where there is no score."""

    score: Floats
    coherence: Floats

    @classmethod
    def of(cls, answers: Sequence[MeanAnswers]) -> "_Scores":
        return cls(
            np.array([one.score for one in answers], dtype=np.float64),
            np.array([one.coherence for one in answers], dtype=np.float64),
        )


def correlations(
    runs: Sequence[FineTune],
    vectors: Sequence[PersonaVector],
    readings: Mapping[str, Tensor],
    depths: Sequence[int],
    seed: int,
) -> dict[str, dict[str, Correlation]]:
    """Pearson's r over fine-tunes for each trait (paper sections 4.2 and 6.2), each beside what else reaches it.

    - "shift, score": the fine-tuning shift against the trait score after training;
    - "shift, score when asked": the same where the answers are given under an instruction to show the trait;
    - "difference, shift": the data's projection difference before training against the shift;
    - "difference, score".

    Nulls: 200 random directions with the covariance of the base model's readings, put in the place of the vector
    ("random"); the other traits' vectors in its place ("others"); where the shift is the predictor, the mere length of
    the change, whatever its direction ("length"); and where the score is the outcome, the coherence of the answers
    ("coherence"), for answers that fall apart have a score too.

    Args:
        readings: Of the base model's last prompt tokens, (questions, layers, d), by trait.
        depths: The layers of all these tensors.

    Returns:
        By trait and pair.
    """
    return {
        vector.trait: _of_trait(runs, vector, vectors, readings[vector.trait], list(depths).index(vector.layer), seed)
        for vector in vectors
    }


def _of_trait(
    runs: Sequence[FineTune],
    vector: PersonaVector,
    vectors: Sequence[PersonaVector],
    readings: Tensor,
    at: int,
    seed: int,
) -> dict[str, Correlation]:
    """The four pairs of one trait; `at` is where the tensors hold its vector's layer."""
    name = vector.trait
    along = _along(runs, vector, vectors, readings, at, seed)
    plain, asked = (
        _Scores.of(answers) for answers in ([r.plain[name] for r in runs], [r.instructed[name] for r in runs])
    )
    families = [run.family for run in runs]
    return {
        "shift, score": _correlation(along.shifts, plain, families, seed, lengths=along.lengths),
        "shift, score when asked": _correlation(along.shifts, asked, families, seed, lengths=along.lengths),
        "difference, shift": _correlation(along.differences, along.shifts, families, seed),
        "difference, score": _correlation(along.differences, plain, families, seed),
    }


def _along(
    runs: Sequence[FineTune],
    vector: PersonaVector,
    vectors: Sequence[PersonaVector],
    readings: Tensor,
    at: int,
    seed: int,
) -> _Along:
    changes = torch.stack([run.change[vector.trait][at] for run in runs])
    pulls = torch.stack([run.pull[at] for run in runs])
    drawn = covariance_directions(readings[:, [at]], ["all"] * len(readings), DIRECTIONS, seed)[:, 0]
    directions = {
        OWN: vector.unit(vector.layer)[None],
        RANDOM: torch.nn.functional.normalize(drawn, dim=-1),
        **{other.trait: other.unit(vector.layer)[None] for other in vectors if other is not vector},
    }
    return _Along(
        {key: (changes @ some.T).double().numpy() for key, some in directions.items()},
        {key: (pulls @ some.T).double().numpy() for key, some in directions.items()},
        changes.norm(dim=1).double().numpy(),
    )


def _correlation(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats] | _Scores,
    families: Sequence[Hashable],
    seed: int,
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
    clusters = [family for family, used in zip(families, use, strict=True) if used]
    r = {key: [_r(a[use], b[use]) for a, b in zip(first[key].T, columns[key].T, strict=True)] for key in first}
    own = _over_families(first[OWN][use, 0], columns[OWN][use, 0], clusters, seed).rounded()
    return Correlation(
        r=own,
        random=place(own.mean, r[RANDOM]),
        others={key: values[0] for key, values in r.items() if key not in (OWN, RANDOM)},
        length=None if lengths is None or scores is None else _r(lengths[use], scores.score[use]),
        coherence=None if scores is None else _over_families(scores.coherence[use], scores.score[use], clusters, seed),
    )


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
