"""What the fine-tunes of a study say together: correlations beside their nulls, and what prevention saved."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personavec.stats.bootstrap import bootstrap_mean, bootstrap_pearson, bootstrap_ratio, pearson
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions, place
from personavec.stats.numbers import Floats
from personavec.vector import PersonaVector

DIRECTIONS = 200


@dataclass(frozen=True)
class Answered:
    """Mean figures of one model's answers to the questions of one trait.

    Attributes:
        score: None where every answer was refused.
        coherence: Of all answers, refusals included.
    """

    score: float | None
    coherence: float

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Answered":
        """From what `Answers.found` gives."""
        return cls(found["score"] and found["score"]["mean"], found["coherence"]["mean"])


@dataclass(frozen=True, eq=False)
class Fine:
    """What was measured of one fine-tune.

    Attributes:
        family: Data of one family are no independent runs: intervals draw families.
        plain: After training, by trait.
        instructed: The same under an instruction to show the trait.
        change: Mean change of the last prompt token's reading over the trait's questions, (layers, d), by trait.
        pull: Mean reading of the data's answers minus that of the model's own, (layers, d).
    """

    family: str
    plain: Mapping[str, Answered]
    instructed: Mapping[str, Answered]
    change: Mapping[str, Tensor]
    pull: Tensor


def correlations(
    runs: Sequence[Fine],
    vectors: Sequence[PersonaVector],
    readings: Mapping[str, Tensor],
    depths: Sequence[int],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Pearson's r over fine-tunes for each trait (paper sections 4.2 and 6.2), each beside what else reaches it.

    - "shift, score": the fine-tuning shift against the trait score after training;
    - "shift, score when asked": the same where the answers are given under an instruction to show the trait;
    - "difference, shift": the data's projection difference before training against the shift;
    - "difference, score".

    Nulls: 200 random directions with the covariance of the base model's readings, put in the place of the vector
    ("random": see `screening.attribution.Place`); the other traits' vectors in its place ("others": {trait: r}); where
    the shift is the predictor, the mere length of the change, whatever its direction ("length"); and where the score is
    the outcome, the coherence of the answers ("coherence"), for answers that fall apart have a score too.

    Args:
        readings: Of the base model's last prompt tokens, (questions, layers, d), by trait.
        depths: The layers of all these tensors.

    Returns:
        {trait: {pair: {"r": estimate, "random": place, "others": {trait: r}, "length": r or None, "coherence":
        estimate or None}}}; estimates of r are {"mean", "low", "high", "n": families, "runs"}.
    """
    result: dict[str, dict[str, Any]] = {}
    for vector in vectors:
        at, name = list(depths).index(vector.layer), vector.trait
        changes = torch.stack([run.change[name][at] for run in runs])
        pulls = torch.stack([run.pull[at] for run in runs])
        plain, asked = (
            np.array([(one.score, one.coherence) for one in answered], dtype=np.float64)  # NaN: no score
            for answered in ([run.plain[name] for run in runs], [run.instructed[name] for run in runs])
        )
        base = readings[name]
        drawn = covariance_directions(base[:, [at]], ["all"] * len(base), DIRECTIONS, seed)[:, 0]
        directions = {
            "own": vector.unit(vector.layer)[None],
            "random": torch.nn.functional.normalize(drawn, dim=-1),
            **{other.trait: other.unit(vector.layer)[None] for other in vectors if other is not vector},
        }
        shifts = {key: (changes @ some.T).double().numpy() for key, some in directions.items()}
        differences = {key: (pulls @ some.T).double().numpy() for key, some in directions.items()}
        found = {}
        for pair, first, answers in (
            ("shift, score", shifts, plain),
            ("shift, score when asked", shifts, asked),
            ("difference, shift", differences, None),
            ("difference, score", differences, plain),
        ):
            second = shifts
            if answers is not None:
                second = {key: np.repeat(answers[:, :1], some.shape[1], 1) for key, some in shifts.items()}
            use = np.isfinite(second["own"][:, 0])
            clusters: list[Hashable] = [run.family for run, used in zip(runs, use, strict=True) if used]
            r = {
                key: [_r(a[use], b[use]) for a, b in zip(first[key].T, second[key].T, strict=True)]
                for key in directions
            }
            own = _over_families(first["own"][use, 0], second["own"][use, 0], clusters, seed)
            length = coherence = None
            if answers is not None:
                coherence = _over_families(answers[use, 1], answers[use, 0], clusters, seed)
                if first is shifts:
                    length = round(_r(changes.norm(dim=1).double().numpy()[use], answers[use, 0]), 4)
            found[pair] = {
                "r": own,
                "random": {key: round(value, 4) for key, value in asdict(place(own["mean"], r["random"])).items()},
                "others": {other.trait: round(r[other.trait][0], 4) for other in vectors if other is not vector},
                "length": length,
                "coherence": coherence,
            }
        result[name] = found
    return result


def _r(x: Floats, y: Floats) -> float:
    """Pearson's r; 0 of no fine-tunes at all."""
    return pearson(x, y) if len(x) else 0.0


def _over_families(x: Floats, y: Floats, families: Sequence[Hashable], seed: int) -> dict[str, Any]:
    """Pearson's r of fine-tunes, with an interval from drawing families; of none at all anything from -1 to 1."""
    if not families:
        return {**Estimate(0.0, -1.0, 1.0, 0).as_dict(), "runs": 0}
    return {**bootstrap_pearson(x, y, families, seed).as_dict(), "runs": len(families)}


def changed(before: Sequence[float | None], after: Sequence[float | None], seed: int) -> dict[str, Any] | None:
    """Mean change of the score over the questions that have one before and after, with its interval.

    Args:
        before, after: Score of each question from the first on, None where there is none; one may go on for longer.

    Returns:
        An estimate, or None where fewer than two questions are left.
    """
    rows = [(a, b) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    return bootstrap_mean([b - a for a, b in rows], seed=seed).as_dict() if len(rows) > 1 else None


def more_loss(plain: Sequence[float], arm: Sequence[float], seed: int) -> dict[str, Any]:
    """By how many percent the mean loss (n,) of an arm is above that of the plain fine-tune on the same samples."""
    first, second = np.array(plain), np.array(arm)
    return bootstrap_ratio(100 * (second - first), first, seed).as_dict()


def task_learned(
    before: Sequence[float], plain: Sequence[float], arm: Sequence[float], seed: int
) -> dict[str, Any] | None:
    """How many percent of what the plain fine-tune learned of the task an arm learned: of the mean loss's (n,) fall.

    Beside `more_loss`, which is large for a small loss: where both have all but learned the task, little is lost. None
    where the plain fine-tune learned nothing.
    """
    base = np.array(before)
    fall = base - np.array(plain)
    return bootstrap_ratio(100 * (base - np.array(arm)), fall, seed).as_dict() if fall.mean() > 0 else None


def more_perplexity(plain: Sequence[float], arm: Sequence[float], seed: int) -> dict[str, Any]:
    """By how many percent the perplexity of an arm is above that of the plain fine-tune, from losses (n,) of passages.

    `exp` of the mean change of the loss and of its bounds: passages differ far more than models do.
    """
    change = bootstrap_mean(np.array(arm) - np.array(plain), seed=seed)
    low, mean, high = (100 * (math.exp(value) - 1) for value in (change.low, change.mean, change.high))
    return Estimate(mean, low, high, change.n).as_dict()
