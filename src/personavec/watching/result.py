"""What watching leaves behind: a file of limits, and what a log looks like against them."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import JsonValue

from personavec.files import write_json
from personavec.results import Figure, Filed, Number, Result

RuleName = Literal["before", "during", "conversation", "traffic"]
RULES: dict[RuleName, str] = {
    "before": "An answer, before its first token",
    "during": "An answer, its highest passage",
    "conversation": "Drift over a conversation (CUSUM)",
    "traffic": "Drift over the whole traffic (CUSUM)",
}


class RuleLimits(Result):
    """The limits of one alarm rule. All are in deviations of normal traffic: `(reading - centre) / deviation`, or the
    CUSUM of these.

    Attributes:
        rate: False alarms that are promised: of answers, of conversations, or the chance of any within the horizon.
        rate_high: The promise is kept on average over logs; with the one log that there was the rate lies below this in
            97.5 % of cases (Beta distribution of an order statistic; the whole traffic's is the promise itself).
        centre, deviation: Of normal traffic by trait.
        limits: For each trait watched alone, at that rate.
        joint: For the highest of all traits, at that rate.
        doubt: Above it, and below `joint`, an answer is doubtful; None: the rule knows no doubt.
        held_out: Joint alarms of conversations that the limits did not know, by five-fold cross-validation, n =
            conversations; None: too few conversations, or the whole traffic, of which there is one.
        held_out_by_trait: The same for each trait watched alone.
    """

    rate: float
    rate_high: float
    centre: dict[str, float]
    deviation: dict[str, float]
    limits: dict[str, float]
    joint: float
    doubt: float | None
    held_out: Figure | None
    held_out_by_trait: dict[str, Figure]


class Delay(Result):
    """How soon a rule alarms (the joint one) when one trait is higher by so much from an answer on.

    Attributes:
        rule: Which.
        drift: In deviations of normal answers.
        median: Answers until the alarm, itself included, in half of the cases; None: half do not alarm before the
            conversation ends.
        low, high: The same for 2.5 and 97.5 % of the cases.
        n: Conversations.
    """

    rule: RuleName
    drift: float
    low: int | None
    median: int | None
    high: int | None
    n: int


class Limits(Filed):
    """What `personavec watch calibrate` writes.

    Attributes:
        personavec: Version.
        written: When, as in ISO 8601.
        arguments: What decides the result.
        traits: That are watched.
        vectors: Short hashes of their vectors, as far as the log tells.
        steering: What was done to the stream of all answers, in words; other answers cannot be held against these.
        answers, conversations: Normal ones behind the limits.
        left_out: Answers of the log that were steered or read in another way than most, or asked for again.
        horizon: Conversations that the rate of the rule for the whole traffic is for.
        errors: By trait, the standard errors of the mean and of the deviation of answers, in their deviations.
        rules: By name.
        delays: How soon drift is seen.
        warnings: Sentences.
    """

    COMMAND: ClassVar[str] = "watch calibrate"
    personavec: str
    written: str
    arguments: dict[str, JsonValue]
    traits: tuple[str, ...]
    vectors: dict[str, str]
    steering: tuple[str, ...]
    answers: int
    conversations: int
    left_out: int
    horizon: int
    errors: dict[str, tuple[Number, Number]]
    rules: dict[RuleName, RuleLimits]
    delays: tuple[Delay, ...]
    warnings: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            UserError: No such file, a damaged one, or one of another kind or version.
        """
        return cls.read_file(path)


class Alarm(Result):
    """Something went beyond a limit.

    Attributes:
        rule: Which; "judge" where a judge decided a doubt.
        trait: The one that lies highest.
        z: Deviations from normal traffic, or their CUSUM; of a judge its points, 0..100.
        limit: That was exceeded.
    """

    rule: RuleName | Literal["judge"]
    trait: str
    z: Number
    limit: Number


class AnswerAlarm(Result):
    """An alarm of a log.

    Attributes:
        answer, conversation, turn, time: Where it was, as the log says.
        alarm: What it was.
    """

    answer: str
    conversation: str
    turn: int
    time: str
    alarm: Alarm


class Replay(Result):
    """What would have alarmed of a log, answer by answer in its order.

    Attributes:
        answers, conversations: That were held against the limits.
        other: Answers that were not: steered or read in another way than those that the limits are of.
        alarms: In the order of the log.
        alarmed_answers, alarmed_conversations: How many have one at least, of the answer rules or of any but the
            traffic's.
        doubtful: Answers in doubt.
        judged: How many of them a judge scored.
        notes: Sentences.
    """

    answers: int
    conversations: int
    other: int
    alarms: tuple[AnswerAlarm, ...]
    alarmed_answers: int
    alarmed_conversations: int
    doubtful: int
    judged: int
    notes: tuple[str, ...]


class RuleCheck(Result):
    """Whether one rule still keeps its promise.

    Attributes:
        promised: Rate of false alarms.
        found: Of the new log, which is taken for normal; n = conversations, or blocks of the horizon's length.
        found_by_trait: The same for each trait watched alone.
        holds: Whether the promise may still be true: the interval does not lie above `rate_high`.
    """

    promised: float
    found: Figure
    found_by_trait: dict[str, Figure]
    holds: bool


class Drift(Result):
    """How normal readings of a trait have moved since the limits were made.

    Attributes:
        mean: Of answers, in deviations of then; 0: as it was.
        deviation: Over that of then; 1: as it was.
    """

    mean: Figure
    deviation: Figure


class LimitsCheck(Result):
    """Whether limits are still right, by a log of traffic that is taken for normal.

    Attributes:
        answers, conversations: Of the new log.
        other: Answers of another kind, left out.
        rules: By name.
        drift: By trait, of the means of answers.
        holds: Whether every rule does.
        sentences: What it comes to.
    """

    answers: int
    conversations: int
    other: int
    rules: dict[RuleName, RuleCheck]
    drift: dict[str, Drift]
    holds: bool
    sentences: tuple[str, ...]
