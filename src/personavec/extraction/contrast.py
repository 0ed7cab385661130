"""Rollouts of both sides of a trait: made, judged, and filtered pair by pair."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from personavec.errors import UserError
from personavec.extraction.result import RolloutScore, SideScores
from personavec.extraction.workbench import Workbench
from personavec.rollouts import Rollout, Side, plan
from personavec.stats.bootstrap import bootstrap_auc
from personavec.stats.estimate import Estimate
from personavec.texts.contrastive import has_library_texts

THRESHOLD = 50.0  # of the paper's filter: scores of positives above, of negatives below, coherence at least
MINIMUM_PAIRS = 5
SIDES: tuple[Side, Side] = ("positive", "negative")
_ADVICE = (
    "Describe the trait more concretely (`description`), edit its instructions (personavec traits show), give more "
    "rollouts (`rollouts`, `pairs`), or use a more capable model (`model` default-1.5b)."
)


def advice(trait: str) -> str:
    """What to do where a model cannot be made to show a trait."""
    if not has_library_texts(trait):
        return (
            f"{_ADVICE} Or give `texts` that show it and texts that lack it, or let a stronger model write them "
            "(`teacher`): many a model reads what it cannot play."
        )
    return f"{_ADVICE} Or take the library's texts (`texts` library): many a model reads what it cannot play."


@dataclass(frozen=True)
class Contrast:
    """Rollouts of both sides, and neutral ones.

    Attributes:
        extraction: On extraction questions, for the direction.
        evaluation: On unseen questions, under an unseen instruction.
        neutral: On extraction questions, without instruction.
    """

    extraction: list[Rollout]
    evaluation: list[Rollout]
    neutral: list[Rollout]

    @property
    def natural_coherence(self) -> float:
        """Mean coherence of the neutral answers, in points."""
        return sum(r.coherence or 0.0 for r in self.neutral) / len(self.neutral)

    def spoken(self, bench: Workbench) -> "Contrast":
        """Those with a response to read."""
        return Contrast(*(bench.spoken(some) for some in (self.extraction, self.evaluation, self.neutral)))


def contrastive_rollouts(bench: Workbench) -> Contrast:
    """Extraction and evaluation rollouts of both sides, and neutral answers; generated and scored."""
    model, trait, settings = bench.model, bench.trait, bench.settings
    extraction: list[Rollout] = []
    for pair in range(settings.pairs):
        for side, system in zip(SIDES, trait.system_prompts(pair), strict=True):
            for number in range(settings.rollouts):
                extraction += plan(
                    model, "extraction", bench.questions, system=system, number=number, pair=pair, side=side
                )
    evaluation: list[Rollout] = []
    unseen = min(settings.pairs, len(trait.instructions) - 1)
    for side, system in zip(SIDES, trait.system_prompts(unseen), strict=True):
        evaluation += plan(model, "evaluation", trait.evaluation_questions, system=system, pair=unseen, side=side)
    neutral = plan(model, "neutral", bench.questions)
    bench.generate([*extraction, *evaluation, *neutral], "1/5 Generating rollouts")
    bench.fit(extraction, neutral, evaluation)
    return Contrast(extraction, evaluation, neutral)


def judge_auc(bench: Workbench, evaluation: Sequence[Rollout]) -> Estimate:
    """How well the judge tells the sides apart on unseen questions and an unseen instruction.

    Noise passes the filter now and then; it does not pass this.

    Raises:
        UserError: A side without a score, or no better than guessing: the trait cannot be elicited.
    """
    name = bench.trait.name
    positive, negative = ([r for r in evaluation if r.side == side and r.score is not None] for side in SIDES)
    if not positive or not negative:
        raise UserError(f"The judge gave no score to one side of {name!r}.", advice(name))
    auc = bootstrap_auc(
        [r.score or 0.0 for r in positive],
        [r.score or 0.0 for r in negative],
        [r.question_index for r in positive],
        [r.question_index for r in negative],
        bench.settings.seed,
    )
    if auc.low <= 0.5:
        raise UserError(
            f"The trait {name!r} could not be elicited from {bench.model.id}: on unseen questions the judge cannot "
            f"tell answers that should show it from their opposite (AUC {auc.mean:.2f}, 95 % interval {auc.low:.2f} "
            f"to {auc.high:.2f}, n = {auc.n} questions; 0.5 is guessing). "
            f"Examples:\n{_listing([*positive[:2], *negative[:2]])}\n",
            advice(name),
        )
    return auc


def keep_pairs(bench: Workbench, extraction: Sequence[Rollout]) -> dict[str, int]:
    """The paper's filter, pair by pair (section 2.2): both rollouts of a pair are kept or neither.

    Returns:
        How many pairs were left out, by reason.

    Raises:
        UserError: Too few pass: the trait cannot be elicited.
    """
    reasons: Counter[str] = Counter()
    for positive, negative in _pairs(extraction):
        reason = _reason(positive, negative)
        positive.kept = negative.kept = reason is None
        if reason is not None:
            reasons[reason] += 1
    kept = sum(1 for r in extraction if r.kept) // 2
    if kept < min(MINIMUM_PAIRS, len(extraction) // 2):
        examples = [r for pair in list(_pairs(extraction))[:2] for r in pair]
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        raise UserError(
            f"The trait {bench.trait.name!r} could not be elicited from {bench.model.id}: {kept} of "
            f"{len(extraction) // 2} pairs of rollouts passed the filter ({why}). Examples:\n{_listing(examples)}\n",
            advice(bench.trait.name),
        )
    return dict(reasons)


def side_scores(extraction: Sequence[Rollout]) -> SideScores:
    """What the judge made of each rollout."""
    positive, negative = (
        tuple(
            RolloutScore(score=r.score, coherence=r.coherence, kept=bool(r.kept)) for r in extraction if r.side == side
        )
        for side in SIDES
    )
    return SideScores(positive=positive, negative=negative)


def _pairs(extraction: Sequence[Rollout]) -> Iterator[tuple[Rollout, Rollout]]:
    """Positive and negative rollouts of the same pair, question and number."""
    negatives = {_task(r): r for r in extraction if r.side == "negative"}
    return ((r, negatives[_task(r)]) for r in extraction if r.side == "positive")


def _task(rollout: Rollout) -> tuple[int | None, int, int]:
    return rollout.pair, rollout.question_index, rollout.number


def _reason(positive: Rollout, negative: Rollout) -> str | None:
    """Why a pair is not kept; None if it is."""
    if not positive.response_ids or not negative.response_ids:
        return "empty response"
    if positive.score is None or negative.score is None:
        return "no score (a refusal, or the judge named no number)"
    if min(positive.coherence or 0.0, negative.coherence or 0.0) < THRESHOLD:
        return f"coherence below {THRESHOLD:g}"
    if positive.score <= THRESHOLD:
        return f"positive score not above {THRESHOLD:g}"
    if negative.score >= THRESHOLD:
        return f"negative score not below {THRESHOLD:g}"
    return None


def _listing(rollouts: Sequence[Rollout]) -> str:
    """Rollouts for the user to look at."""
    return "\n".join(
        f"  [{r.side}, score {_number(r.score)}, coherence {_number(r.coherence)}] {r.question}\n"
        f"    {' '.join(r.text.split())[:200]}"
        for r in rollouts
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f}"
