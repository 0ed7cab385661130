"""A log held against limits, answer by answer as it came: what would have alarmed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from personavec.watching.check import of_kind
from personavec.watching.live import Watch
from personavec.watching.log import LoggedAnswer, read_log
from personavec.watching.result import Alarm, AnswerAlarm, Limits, Replay

if TYPE_CHECKING:
    from personavec.judges.base import JudgeModel
    from personavec.traits import Trait


def replay_log(
    log: Path | str,
    limits: Limits,
    open_judge: "Callable[[], JudgeModel] | None" = None,
    find_trait: "Callable[[str], Trait] | None" = None,
) -> Replay:
    """Say what of a log alarms.

    Args:
        open_judge: Opens a judge of the answers that are in doubt; None: doubts stay.
        find_trait: By its name; None: the library's.

    Raises:
        UserError: The log cannot be read, holds no answer of the limits' kind, or answers in doubt without their text;
            and what the judge raises.
    """
    answers = read_log(log)
    alike = of_kind(answers, limits)
    watch = Watch(limits, remembered=len(alike) + 1)
    alarms: list[tuple[LoggedAnswer, Alarm]] = []
    doubts: list[tuple[LoggedAnswer, str]] = []
    for answer in alike:
        prompt = {trait: one.before for trait, one in answer.traits.items()}
        found = [*watch.before(prompt), *watch.after(answer.conversation, answer.turn, answer.traits)]
        alarms += [(answer, alarm) for alarm in found]
        own = any(alarm.rule in ("before", "during") for alarm in found)
        if not own and (trait := watch.doubtful(answer)) is not None:
            doubts.append((answer, trait))
    scored, notes = 0, []
    if doubts and open_judge is None:
        notes.append(f"{len(doubts)} answers are in doubt: name a `judge` to have them scored.")
    elif doubts and open_judge is not None:
        from personavec.watching.doubt import judged  # which loads what judges need

        found_by_judge, scored, notes = judged(doubts, open_judge, find_trait)
        alarms += found_by_judge
    if len(alike) < len(answers):
        notes.append(
            f"{len(answers) - len(alike)} answers are steered or read in another way than those that the limits are of."
        )
    places = {id(answer): place for place, answer in enumerate(alike)}  # clients may call two answers the same
    return Replay(
        answers=len(alike),
        conversations=len({answer.conversation for answer in alike}),
        other=len(answers) - len(alike),
        alarms=tuple(_at(*one) for one in sorted(alarms, key=lambda one: places[id(one[0])])),
        alarmed_answers=len({places[id(a)] for a, alarm in alarms if alarm.rule in ("before", "during", "judge")}),
        alarmed_conversations=len({a.conversation for a, alarm in alarms if alarm.rule != "traffic"}),
        doubtful=len(doubts),
        judged=scored,
        notes=tuple(notes),
    )


def _at(answer: LoggedAnswer, alarm: Alarm) -> AnswerAlarm:
    return AnswerAlarm(
        answer=answer.id, conversation=answer.conversation, turn=answer.turn, time=answer.time, alarm=alarm
    )
