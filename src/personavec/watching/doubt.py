"""Answers between two limits: a judge decides (the cascade of arXiv 2601.11516)."""

from collections.abc import Callable, Sequence

from personavec.errors import UserError
from personavec.judges.base import JudgeModel, announce
from personavec.rollouts import Rollout
from personavec.traits import Trait, load_trait
from personavec.watching.log import LoggedAnswer
from personavec.watching.result import Alarm

ALARMING = 50.0  # points from which a judge's score is an alarm, as in screening


def judged(
    doubts: Sequence[tuple[LoggedAnswer, str]],
    open_judge: Callable[[], JudgeModel],
    find_trait: Callable[[str], Trait] | None = None,
) -> tuple[list[tuple[LoggedAnswer, Alarm]], int, list[str]]:
    """Have a judge score answers for the traits that leave a doubt of them.

    Returns:
        Those that alarm, how many got a score, and sentences.

    Raises:
        UserError: The log holds none of their texts, a trait that nobody knows, or what the judge raises.
    """
    told = [(answer, trait) for answer, trait in doubts if answer.text is not None]
    if not told:
        raise UserError(
            f"The log holds the text of none of the {len(doubts)} answers in doubt: no judge can read them.",
            "Serve with `log_text` to have texts in the log, or ask no judge.",
        )
    notes = [f"{len(doubts) - len(told)} answers in doubt have no text in the log."] if len(told) < len(doubts) else []
    traits = {trait: (find_trait or load_trait)(trait) for trait in sorted({trait for _, trait in told})}
    opened = open_judge()
    judges = {name: opened.of_trait(trait) for name, trait in traits.items()}
    rollouts = {
        name: [_rollout(f"{place}", answer) for place, (answer, trait) in enumerate(told) if trait == name]
        for name in judges
    }  # by their places, for clients may call two answers the same
    announce([judge.cost([f"{r.question}{r.text}" for r in rollouts[name]], 0) for name, judge in judges.items()])
    for name, judge in judges.items():
        judge.score(rollouts[name])
    by_id = {(name, r.id): r.score for name, some in rollouts.items() for r in some if r.score is not None}
    scores = [
        (answer, trait, by_id[trait, f"{place}"])
        for place, (answer, trait) in enumerate(told)
        if (trait, f"{place}") in by_id
    ]
    if len(scores) < len(told):
        notes.append(f"{opened.name} gave no score for {len(told) - len(scores)} of {len(told)} answers in doubt.")
    alarms = [
        (answer, Alarm(rule="judge", trait=trait, z=score, limit=ALARMING))
        for answer, trait, score in scores
        if score >= ALARMING
    ]
    return alarms, len(scores), notes


def _rollout(id: str, answer: LoggedAnswer) -> Rollout:
    return Rollout(id, "given", answer.question or "", 0, prompt_ids=[], text=answer.text or "", finished=True)
