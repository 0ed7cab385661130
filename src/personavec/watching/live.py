"""Answers held against limits one by one, as they come; what is remembered of conversations is bounded."""

from collections import OrderedDict
from collections.abc import Mapping

from personavec.stats.alarms import ALLOWANCE
from personavec.watching.log import LoggedAnswer, LoggedReading
from personavec.watching.log import fits as fits_kind
from personavec.watching.result import Alarm, Limits, RuleName

REMEMBERED = 10_000  # turns of conversations whose CUSUM is known
Levels = dict[str, float]  # a CUSUM by trait


class Watch:
    """The alarms of traffic that comes answer by answer.

    A CUSUM that alarms begins anew at 0. The one of a conversation goes on from the last turn before that was held
    against the limits: asking again counts once, and turns that were steered in another way are left out. Of
    conversations that were not heard of for long it begins anew.

    Args:
        remembered: Turns that are kept.

    Attributes:
        traffic: The CUSUM over the whole traffic, by trait.
    """

    def __init__(self, limits: Limits, remembered: int = REMEMBERED) -> None:
        self.limits, self.remembered = limits, remembered
        self.traffic: Levels = dict.fromkeys(limits.traits, 0.0)
        self._turns: OrderedDict[tuple[str, int], Levels] = OrderedDict()

    def fits(self, answer: LoggedAnswer) -> bool:
        """Whether an answer may be held against the limits: steered and read as those they were made of."""
        return fits_kind(answer, self.limits.traits, self.limits.vectors, self.limits.steering)

    def before(self, prompt: Mapping[str, float]) -> list[Alarm]:
        """What alarms before the first token, by the last prompt token's readings."""
        return self._beyond("before", prompt)

    def after(self, conversation: str, turn: int, traits: Mapping[str, LoggedReading]) -> list[Alarm]:
        """What alarms once an answer is there; turns are counted from 0."""
        found = self._beyond("during", {trait: one.max for trait, one in traits.items()})
        means = {trait: one.mean for trait, one in traits.items()}
        known = self._until(conversation, turn)  # it stays: whoever asks again goes on from there, too
        told, level = self._risen("conversation", known, means)
        for key, held in (((conversation, turn), known), ((conversation, turn + 1), level)):
            self._turns.pop(key, None)
            if held:
                self._turns[key] = held
        while len(self._turns) > self.remembered:
            self._turns.popitem(last=False)
        over, self.traffic = self._risen("traffic", self.traffic, means)
        return [*found, *told, *over]

    def _until(self, conversation: str, turn: int) -> Levels:
        """The CUSUM over the turns before one."""
        keys = ((conversation, at) for at in range(turn, 0, -1))
        return next((self._turns[key] for key in keys if key in self._turns), {})

    def doubtful(self, answer: LoggedAnswer) -> str | None:
        """The trait that leaves a doubt of an answer which did not alarm; None: there is none."""
        sides = {
            "before": {trait: one.before for trait, one in answer.traits.items()},
            "during": {trait: one.max for trait, one in answer.traits.items()},
        }
        found: list[tuple[float, str]] = []
        rules: tuple[RuleName, ...] = ("before", "during")
        for rule in rules:
            doubt, joint = self.limits.rules[rule].doubt, self.limits.rules[rule].joint
            z, trait = max((z, trait) for trait, z in self._z(rule, sides[rule]).items())
            if doubt is not None and doubt < z <= joint:
                found.append((z, trait))
        return max(found)[1] if found else None

    def z(self, rule: RuleName, readings: Mapping[str, float]) -> dict[str, float]:
        """Readings in deviations of normal traffic, of the traits that are watched."""
        return {trait: round(z, 4) for trait, z in self._z(rule, readings).items()}

    def _z(self, rule: RuleName, readings: Mapping[str, float]) -> Levels:
        found = self.limits.rules[rule]
        watched = [trait for trait in self.limits.traits if trait in readings]
        return {trait: (readings[trait] - found.centre[trait]) / found.deviation[trait] for trait in watched}

    def _beyond(self, rule: RuleName, readings: Mapping[str, float]) -> list[Alarm]:
        return self._alarms(rule, self._z(rule, readings))

    def _risen(self, rule: RuleName, level: Levels, means: Mapping[str, float]) -> tuple[list[Alarm], Levels]:
        """A CUSUM one answer on."""
        steps = self._z(rule, means)
        risen = {t: max(0.0, level.get(t, 0.0) + steps.get(t, ALLOWANCE) - ALLOWANCE) for t in self.limits.traits}
        alarms = self._alarms(rule, risen)
        return alarms, dict.fromkeys(risen, 0.0) if alarms else risen

    def _alarms(self, rule: RuleName, levels: Levels) -> list[Alarm]:
        limit = self.limits.rules[rule].joint
        trait = max(levels, key=levels.__getitem__, default=None)
        if trait is None or levels[trait] <= limit:
            return []
        return [Alarm(rule=rule, trait=trait, z=levels[trait], limit=limit)]
