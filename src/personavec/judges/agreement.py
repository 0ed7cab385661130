"""Do two judges agree on the same rollouts?"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from personavec.errors import UserError
from personavec.judges.base import JudgeModel, announce
from personavec.results import Figure, Result
from personavec.rollouts import Rollout, read_rollouts
from personavec.stats.bootstrap import DRAWS, bootstrap_auc, bootstrap_mean, spearman
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.traits import Trait

STAGES = ("extraction", "evaluation", "dose")


class BySides(Result):
    """How well each judge tells the sides apart: the chance that a positive answer scores above a negative one.

    Attributes:
        first, second: AUC, 0.5 (not at all) to 1.
    """

    first: Figure
    second: Figure


class Agreement(Result):
    """How well two judges' scores of the same answers agree; intervals are bootstrapped over questions.

    Attributes:
        n: Answers with both scores.
        spearman: Rank correlation, -1..1.
        mean_absolute_difference: Points of 0..100.
        same_order: Share of pairs of a positive and a negative answer that both judges order alike, 0..1; None without
            answers of both sides.
        auc: See `BySides`; None without answers of both sides.
    """

    n: int
    spearman: Figure
    mean_absolute_difference: Figure
    same_order: Figure | None = None
    auc: BySides | None = None


class JudgeNames(Result):
    """Who is compared.

    Attributes:
        first: The run's own judge, as it is stored.
        second: The other one, as the user names it.
    """

    first: str
    second: str


class Comparison(Result):
    """Another judge's scores of a run's rollouts against those that are stored.

    Attributes:
        trait: Name of the run's trait.
        judges: Who is compared.
        rollouts: How many were scored again.
        unscored: How many of them got no trait score.
        score: Agreement on the trait.
        coherence: Agreement on coherence, without sides; None for a judge that does not judge it.
    """

    trait: str
    judges: JudgeNames
    rollouts: int
    unscored: int
    score: Agreement
    coherence: Agreement | None


def agreement(
    first: Sequence[float],
    second: Sequence[float],
    questions: Sequence[str],
    sides: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Agreement:
    """How well two judges' scores of the same answers agree; intervals are bootstrapped over questions.

    Args:
        first, second: Scores 0..100, in the same order.
        questions: What each answer answers.
        sides: "positive" or "negative", None for answers without instruction; None if sides do not matter.

    Raises:
        UserError: Fewer than two questions: nothing can be said of the uncertainty.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    names, labels = np.unique(np.asarray(questions, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"Both judges have scored answers to {len(names)} questions; at least 2 are needed.",
            "Raise `limit`, or look at why a judge gives no scores.",
        )
    # (draws, answers): how often each answer is in a bootstrap sample of questions.
    resampled = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    drawn: Floats = resampled[:, labels].astype(np.float64)
    found = Agreement(
        n=len(a),
        spearman=_estimate(spearman(a, b), _spearman_of_draws(a, b, drawn), len(names)),
        mean_absolute_difference=bootstrap_mean(np.abs(a - b), questions, seed),
    )
    positive = np.array([i for i, side in enumerate(sides or ()) if side == "positive"], dtype=np.intp)
    negative = np.array([i for i, side in enumerate(sides or ()) if side == "negative"], dtype=np.intp)
    if not (len(positive) and len(negative)):
        return found
    order = [np.sign(x[positive, None] - x[None, negative]) for x in (a, b)]
    alike = (order[0] == order[1]).astype(np.float64)
    up, down = drawn[:, positive], drawn[:, negative]
    pairs = up.sum(1) * down.sum(1)
    shares = ((up @ alike) * down).sum(1)[pairs > 0] / pairs[pairs > 0]
    ups, downs = [questions[i] for i in positive], [questions[i] for i in negative]
    return found.model_copy(
        update={
            "same_order": _estimate(float(alike.mean()), shares, len({*ups, *downs})),
            "auc": BySides(
                first=bootstrap_auc(a[positive], a[negative], ups, downs, seed),
                second=bootstrap_auc(b[positive], b[negative], ups, downs, seed),
            ),
        }
    )


def compare_run(
    folder: Path | str, open_model: Callable[[], JudgeModel], *, limit: int = 100, seed: int = 0
) -> Comparison:
    """Score a sample of a run's rollouts with another judge, and compare with the scores that are stored.

    Args:
        folder: A finished run of `extract` or `evaluate`.
        open_model: Opens the other judge, once the run has been found to be one.
        limit: Most rollouts to score.
        seed: Which rollouts are drawn, and the bootstrap.

    Raises:
        UserError: No finished run, or too few answers with two scores; and what the judge raises.
    """
    folder = Path(folder)
    trait, first = _read_run(folder)
    stored = [r for r in read_rollouts(folder / "rollouts.jsonl") if r.stage in STAGES and r.score is not None]
    if not stored:
        raise UserError(f"{folder} holds no scored rollouts.", "Give the folder of a finished extract or evaluate.")
    if len(stored) > limit:
        stored = [stored[i] for i in sorted(random.Random(seed).sample(range(len(stored)), limit))]
    opened = open_model()
    coherence = opened.of_coherence(trait)
    judges = [opened.of_trait(trait), *([] if coherence is None else [coherence])]
    again = [replace(r) for r in stored]
    questions, tokens = [r.question for r in again], max(len(r.response_ids) for r in again)
    announce([judge.cost(questions, tokens) for judge in judges])
    for judge in judges:
        judge.score(again)
    figures = [[(r.score, r.coherence) for r in some] for some in (stored, again)]
    (old, old_coherence), (new, new_coherence) = (zip(*some, strict=True) for some in figures)
    return Comparison(
        trait=trait.name,
        judges=JudgeNames(first=first, second=opened.name),
        rollouts=len(again),
        unscored=sum(r.score is None for r in again),
        score=_agreement_on(old, new, stored, [r.side for r in stored], seed),
        coherence=None if coherence is None else _agreement_on(old_coherence, new_coherence, stored, None, seed),
    )


def _agreement_on(
    first: Sequence[float | None],
    second: Sequence[float | None],
    rollouts: Sequence[Rollout],
    sides: Sequence[str | None] | None,
    seed: int,
) -> Agreement:
    """Of the rollouts that have both figures."""
    both = [
        (x, y, r.question, side)
        for x, y, r, side in zip(first, second, rollouts, sides or [None] * len(rollouts), strict=True)
        if x is not None and y is not None
    ]
    return agreement(
        [x for x, *_ in both],
        [y for _, y, *_ in both],
        [question for *_, question, _ in both],
        [side for *_, side in both],
        seed,
    )


def _spearman_of_draws(a: Floats, b: Floats, drawn: Floats) -> Floats:
    """(draws,) rank correlations, where each answer occurs as often as `drawn` (draws, answers) says; 0 if constant."""
    x, y = _ranks(a, drawn), _ranks(b, drawn)
    total = drawn.sum(1, keepdims=True)
    x = x - (drawn * x).sum(1, keepdims=True) / total
    y = y - (drawn * y).sum(1, keepdims=True) / total
    scale = np.sqrt((drawn * x * x).sum(1) * (drawn * y * y).sum(1))
    product: Floats = (drawn * x * y).sum(1)
    product[scale > 1e-9] /= scale[scale > 1e-9]
    return np.where(scale > 1e-9, product, 0.0)


def _ranks(values: Floats, drawn: Floats) -> Floats:
    """(draws, answers): the rank of each value in each sample; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    sizes = np.add.reduceat(drawn[:, order], starts, axis=1)
    ranks = np.empty_like(drawn)
    ranks[:, order] = (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]
    return ranks


def _estimate(value: float, drawn: Floats, n: int) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n)


def _read_run(folder: Path) -> tuple[Trait, str]:
    """The run's trait, and the name of its judge."""
    files = [folder / "arguments.json", folder / "run.json"]
    try:
        arguments, run = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        judge = run["judge"]
        name = judge if isinstance(judge, str) else judge["name"]
        trait = arguments["trait"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no finished run of extract or evaluate.",
            "Give the folder that was its `out`, with arguments.json, run.json and rollouts.jsonl in it.",
        ) from error
    return Trait.parse(trait, str(files[0])), str(name)
