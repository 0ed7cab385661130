"""Scores of chats that are there already: how much does each answer show a trait?"""

from collections.abc import Sequence

from personavec.data import Dataset, Sample
from personavec.errors import UserError
from personavec.judges.base import Judge, JudgeModel, announce
from personavec.model import ChatModel, Request
from personavec.model.messages import split_thought
from personavec.progress import progress
from personavec.results import Figure, Number, Result
from personavec.rollouts import Rollout, plan
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits import Trait

NATURAL = 12  # answers of the model's own, from which it is learnt what is coherent
NATURAL_TOKENS = 48
TOGETHER = 64
OF_THE_MODEL = "Coherence without a judge model is likeness to this model's own answers: texts by others score low."


class AnswerScore(Result):
    """What the judges made of one chat's last answer.

    Attributes:
        source, line: Where the chat stands.
        score: Points, 0..100; None: the judge gave none.
        uncertainty: Standard error of the score in points; None: the judge does not know its own.
        coherence: Points, 0..100; None: nobody judged it.
    """

    source: str
    line: int
    score: float | None
    uncertainty: float | None
    coherence: float | None


class RejectedChat(Result):
    """A record that was not scored.

    Attributes:
        source, line: Where it stands.
        reason: Why it was not scored.
    """

    source: str
    line: int
    reason: str


class ChatScores(Result):
    """Scores of chats.

    Attributes:
        trait: Its name.
        judge: As the user names it.
        mean: Of the scores, over answers; None: there is none.
        answers: In the order of the data.
        rejected: Records that hold no answer to be scored.
        notes: What the figures do not say.
    """

    trait: str
    judge: str
    mean: Figure | None
    answers: tuple[AnswerScore, ...]
    rejected: tuple[RejectedChat, ...]
    notes: tuple[str, ...]


def score_chats(model: ChatModel, data: Dataset, trait: Trait, judge: JudgeModel, seed: int = 0) -> ChatScores:
    """Score the last answer of every chat for a trait, and for coherence.

    What is coherent is learnt from a few answers of the model's own to the trait's extraction questions.

    Raises:
        UserError: No chat could be read, or what the judge raises.
    """
    rollouts: list[tuple[Sample, Rollout]] = []
    rejected: list[RejectedChat] = []
    for record in data:
        try:
            if not isinstance(record, Sample):
                raise UserError(record.reason)
            rollouts.append((record, _rollout(model, record)))
        except UserError as error:
            rejected.append(RejectedChat(source=record.source, line=record.line, reason=error.problem))
    if not rollouts:
        raise UserError(
            f"None of the {len(rejected)} records holds an answer that could be scored"
            + (f"; the first: {rejected[0].reason}" if rejected else "")
            + ".",
            "Give chats with an answer of the assistant's.",
        )
    answers = [rollout for _, rollout in rollouts]
    by, coherence = judge.of_trait(trait), judge.of_coherence(trait)
    judges = [by, *([] if coherence is None else [coherence])]
    longest = max(len(rollout.response_ids) for rollout in answers)
    announce([one.cost([rollout.question for rollout in answers], longest) for one in judges])
    if not by.fitted:
        raise UserError(
            f"The {judge.name} judge cannot score chats by itself: it must first learn from answers that were told to "
            "show the trait.",
            "Choose probe, probe:FILE or api:MODEL.",
        )
    learns = coherence is not None and not coherence.fitted
    if coherence is not None and learns:
        _learn(model, trait, coherence, seed)
    total = sum(one.readings_needed(len(answers)) for one in judges)
    with progress("Judging answers", total=total, unit="readings") as job:
        for start in range(0, len(answers), TOGETHER):
            for one in judges:
                one.score(answers[start : start + TOGETHER], job.advance)
    return ChatScores(
        trait=trait.name,
        judge=judge.name,
        mean=_mean(answers),
        answers=tuple(
            AnswerScore(
                source=sample.source,
                line=sample.line,
                score=_rounded(rollout.score),
                uncertainty=_rounded(rollout.score_error),
                coherence=_rounded(rollout.coherence),
            )
            for sample, rollout in rollouts
        ),
        rejected=tuple(rejected),
        notes=(OF_THE_MODEL,) if learns else (),
    )


def _rollout(model: ChatModel, sample: Sample) -> Rollout:
    """The sample's last answer, after all that was said before it.

    Raises:
        UserError: It has no answer, or the template refuses it.
    """
    asked, text = asked_and_answered(sample)
    return Rollout(
        str(sample.index),
        "given",
        asked,
        sample.index,
        prompt_ids=model.template.prompt_ids(sample.messages[: sample.turns[-1]], sample.tools),
        response_ids=[*model.template.lead, *model.template.answer_ids(text)],
        text=text,
        finished=True,
    )


def asked_and_answered(sample: Sample) -> tuple[str, str]:
    """The last answer of a chat without its thought, and the question before it; "" where there is none.

    Raises:
        UserError: It has no answer.
    """
    if not sample.turns:
        raise UserError("It holds no answer of the assistant's.")
    turn = sample.turns[-1]
    asked = [m["content"] for m in sample.messages[:turn] if m["role"] == "user" and isinstance(m["content"], str)]
    return asked[-1] if asked else "", split_thought(sample.messages[turn]["content"])[1]


def _learn(model: ChatModel, trait: Trait, coherence: Judge, seed: int) -> None:
    """Let the judge of coherence see what is natural for the model."""
    natural = plan(model, "neutral", trait.extraction_questions[:NATURAL])
    requests = [Request(r.prompt_ids, NATURAL_TOKENS, 0.7, seed + number) for number, r in enumerate(natural)]
    with progress("Answers of the model's own", total=len(natural), unit="answers", together=model.places) as job:
        responses = model.generate(requests, lambda *_: job.advance())
    for rollout, response in zip(natural, responses, strict=True):
        rollout.response_ids = response.ids
    coherence.fit([], natural)


def _mean(answers: Sequence[Rollout]) -> Estimate | None:
    scored = [(r.score, r.question) for r in answers if r.score is not None]
    return bootstrap_mean([score for score, _ in scored], [asked for _, asked in scored]) if scored else None


def _rounded(value: float | None) -> Number | None:
    return None if value is None else round(value, 2)
