"""Do two judges agree on the same rollouts?"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from personavec.errors import UserError
from personavec.judges.scorer import Scorer
from personavec.rollouts import read_rollouts
from personavec.stats.bootstrap import DRAWS, bootstrap_auc, bootstrap_mean, spearman
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.traits import Trait

STAGES = ("extraction", "evaluation", "dose")


def agreement(
    first: Sequence[float],
    second: Sequence[float],
    questions: Sequence[str],
    sides: Sequence[str | None] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How well two judges' scores of the same answers agree; intervals are bootstrapped over questions.

    Args:
        first, second: Scores 0..100, in the same order.
        questions: What each answer answers.
        sides: "positive" or "negative", None for answers without instruction; None if sides do not matter.

    Returns:
        {"n": answers, "spearman": rank correlation, "mean_absolute_difference": points, "same_order": share of pairs of
        a positive and a negative answer that both judges order alike, "auc": {"first", "second"}: how well each tells
        the sides apart}. The last two are None without answers of both sides.

    Raises:
        UserError: Fewer than two questions: nothing can be said of the uncertainty.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    names, labels = np.unique(np.asarray(questions, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"Both judges have scored answers to {len(names)} questions; at least 2 are needed.",
            "Raise --limit, or look at why a judge gives no scores.",
        )
    # (draws, answers): how often each answer is in a bootstrap sample of questions.
    resampled = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    drawn: Floats = resampled[:, labels].astype(np.float64)
    result: dict[str, Any] = {
        "n": len(a),
        "spearman": _estimate(spearman(a, b), _spearman_of_draws(a, b, drawn), len(names)),
        "mean_absolute_difference": bootstrap_mean(np.abs(a - b), questions, seed).as_dict(),
        "same_order": None,
        "auc": None,
    }
    positive = np.array([i for i, side in enumerate(sides or ()) if side == "positive"], dtype=np.intp)
    negative = np.array([i for i, side in enumerate(sides or ()) if side == "negative"], dtype=np.intp)
    if len(positive) and len(negative):
        order = [np.sign(x[positive, None] - x[None, negative]) for x in (a, b)]
        alike = (order[0] == order[1]).astype(np.float64)
        up, down = drawn[:, positive], drawn[:, negative]
        pairs = up.sum(1) * down.sum(1)
        shares = ((up @ alike) * down).sum(1)[pairs > 0] / pairs[pairs > 0]
        ups, downs = [questions[i] for i in positive], [questions[i] for i in negative]
        result["same_order"] = _estimate(float(alike.mean()), shares, len({*ups, *downs}))
        result["auc"] = {
            name: bootstrap_auc(x[positive], x[negative], ups, downs, seed).as_dict()
            for name, x in (("first", a), ("second", b))
        }
    return result


def compare_run(
    folder: Path | str, make: Callable[[Trait], Scorer], *, limit: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Score a sample of a run's rollouts with another judge, and compare with the scores that are stored.

    Args:
        folder: A finished run of `extract` or `evaluate`.
        make: Makes the other judge, for the run's trait.
        limit: Most rollouts to score.
        seed: Which rollouts are drawn, and the bootstrap.

    Returns:
        {"trait", "judges": {"first": the run's, "second": the other}, "rollouts": how many were scored again,
        "unscored": how many of them got no trait score, "score": see `agreement`, "coherence": the same without sides}

    Raises:
        UserError: No finished run, or too few answers with two scores; and what the judge raises.
    """
    folder = Path(folder)
    trait, judge = _read_run(folder)
    stored = [r for r in read_rollouts(folder / "rollouts.jsonl") if r.stage in STAGES and r.score is not None]
    if not stored:
        raise UserError(f"{folder} holds no scored rollouts.", "Give the folder of a finished extract or evaluate.")
    if len(stored) > limit:
        stored = [stored[i] for i in sorted(random.Random(seed).sample(range(len(stored)), limit))]
    scorer = make(trait)
    again = [replace(r) for r in stored]
    scorer.announce([r.question for r in again], max(len(r.response_ids) for r in again))
    scorer.score(again)
    result: dict[str, Any] = {
        "trait": trait.name,
        "judges": {"first": judge, "second": scorer.name},
        "rollouts": len(again),
        "unscored": sum(r.score is None for r in again),
    }
    for what in ("score", "coherence"):
        both = [
            (x, y, r.question, r.side if what == "score" else None)
            for r, other in zip(stored, again, strict=True)
            if (x := getattr(r, what)) is not None and (y := getattr(other, what)) is not None
        ]
        first, second, questions, sides = zip(*both, strict=True) if both else ((), (), (), ())
        result[what] = agreement(first, second, questions, sides, seed)
    return result


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


def _estimate(value: float, drawn: Floats, n: int) -> dict[str, float | int]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n).as_dict()


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
            "Give the folder that --out named, with arguments.json, run.json and rollouts.jsonl in it.",
        ) from error
    return Trait.parse(trait, str(files[0])), str(name)
