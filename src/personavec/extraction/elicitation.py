"""Whether answers that were told to show a trait show it, by a judge that never saw an instruction.

A judge that compares instructions can tell what an answer was told to be though nothing of the trait is in it, and
every later figure of that judge would then be about the instruction.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from personavec.errors import UserError
from personavec.extraction.workbench import Workbench
from personavec.info import Elicitation
from personavec.judges.probe import ProbeModel
from personavec.progress import progress
from personavec.report.words import span
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_auc, bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.texts.contrastive import has_library_texts

ABOVE = 50.0  # points: such an answer shows the trait
LEAST = 0.25  # of the told answers: where fewer show the trait it is not what a mean over them is about


def elicitation(bench: Workbench, rollouts: Sequence[Rollout]) -> Elicitation:
    """The share of told answers that show the trait, beside that of answers told the opposite.

    The judge is that of the run where it compares no instructions, else a probe made of the library's texts.

    Args:
        rollouts: Of both sides, with the scores of the run's judge.
    """
    if not bench.scorer.instructed:
        return measured(bench.scorer.name, rollouts, bench.settings.seed)
    name = bench.trait.name
    if not has_library_texts(name):
        return unmeasured(f"the library holds no texts for {name} that a probe could learn from")
    copies = [replace(rollout, score=None) for rollout in rollouts]
    with bench.timings.stage("judge"), progress("2/5 Judging again", total=len(copies), unit="answers") as job:
        try:
            probe = ProbeModel(bench.model, "library", "probe").of_trait(bench.trait)
        except UserError:
            return unmeasured(f"a probe learnt nothing from the library's texts for {name}")
        probe.score(copies, job.advance)
    return measured(probe.name, copies, bench.settings.seed)


def unmeasured(why: str) -> Elicitation:
    """Nothing is known."""
    nothing = dict.fromkeys(("judge", "told", "told_not", "difference", "auc"))
    return Elicitation(why=why, answers=0, scored=0, **nothing)


def measured(judge: str, rollouts: Sequence[Rollout], seed: int) -> Elicitation:
    """From the scores of rollouts of both sides; questions are those of their stage."""
    shows: dict[str, dict[tuple[str, int], list[float]]] = {"positive": {}, "negative": {}}
    for r in rollouts:
        if r.side is not None:
            shows[r.side].setdefault((r.stage, r.question_index), []).append(float((r.score or 0.0) > ABOVE))
    shares = {side: {question: float(np.mean(each)) for question, each in of.items()} for side, of in shows.items()}
    told, told_not = (
        bootstrap_mean([v for each in of.values() for v in each], [q for q, each in of.items() for _ in each], seed)
        for of in shows.values()
    )
    both = [share - shares["negative"][q] for q, share in shares["positive"].items() if q in shares["negative"]]
    return Elicitation(
        judge=judge,
        why=None,
        told=told,
        told_not=told_not,
        difference=bootstrap_mean(both, seed=seed),
        auc=_auc(rollouts, seed),
        answers=len(rollouts),
        scored=sum(r.score is not None for r in rollouts),
    )


def _auc(rollouts: Sequence[Rollout], seed: int) -> Estimate | None:
    positive, negative = (
        [(r.score, (r.stage, r.question_index)) for r in rollouts if r.side == side and r.score is not None]
        for side in ("positive", "negative")
    )
    if not positive or not negative:
        return None
    (a, asked), (b, opposite) = (zip(*side, strict=True) for side in (positive, negative))
    return bootstrap_auc(a, b, asked, opposite, seed)


def elicited(found: Elicitation) -> bool:
    """Whether nothing speaks against it: not measured, or enough told answers show the trait, and more than others do.

    Where answers told the opposite show it as often, a difference of means is not about it either. How much more often
    is not asked for: a judge's errors lift the one share and lower the other.
    """
    if found.told is None or found.difference is None:
        return True
    apart = found.difference
    return found.told.mean >= LEAST and (apart.low if apart.bounded else apart.mean) > 0


def check_elicited(bench: Workbench, found: Elicitation, told_apart: Estimate) -> None:
    """Refuse a trait that the told answers do not show, unless the user wants to go on.

    Args:
        told_apart: As for `sentences`.

    Raises:
        UserError: With what was found.
    """
    if elicited(found) or not bench.settings.gate:
        return
    name, way_out = bench.trait.name, "Give `texts` that show it and texts that lack it"
    if has_library_texts(name):
        way_out = "Repeat the command with `texts` library and another `out`"
    raise UserError(
        f"The trait {name!r} was not elicited from {bench.model.id}. "
        + " ".join(sentences(found, bench.scorer.name, told_apart)),
        f"{way_out}: many a model reads what it cannot play. Or go on all the same with `gate` False.",
    )


def sentences(found: Elicitation, judge: str, told_apart: Estimate) -> list[str]:
    """What was found, in words.

    Args:
        judge: That of the run.
        told_apart: Its AUC between the sides.
    """
    if found.told is None or found.told_not is None or found.difference is None:
        return [f"Whether the answers told to show the trait show it was not measured: {found.why}."]
    unscored = found.answers - found.scored
    said = [
        f"A judge that saw no instruction ({found.judge}) finds the trait in {100 * found.told.mean:.0f} % of the "
        f"answers told to show it ({_percent(found.told)}) and in {100 * found.told_not.mean:.0f} % of those told the "
        f"opposite ({_percent(found.told_not)}); it gave {unscored} of {found.answers} no score"
        + ("." if found.auc is None else f", and tells the sides apart with AUC {found.auc:.2f}, n = {found.auc.n}.")
    ]
    if elicited(found):
        return said
    low, apart = f"fewer than {100 * LEAST:.0f} in 100 told answers show it", "so"
    if found.told.mean >= LEAST or found.difference.low <= 0:
        low = "the difference between the sides cannot be told from none"
    known = found.auc is not None and found.auc.low > 0.5
    if found.judge != judge and told_apart.low > 0.5 and not known:
        apart = f"the {judge} judge (AUC {told_apart.mean:.2f}) recognises the instruction, not the trait; so"
    return [*said, f"That is not enough: {low}; {apart} what this vector is about was not shown to be the trait."]


def _percent(share: Estimate) -> str:
    return span(Estimate(100 * share.mean, 100 * share.low, 100 * share.high, share.n), ".0f", "questions")
