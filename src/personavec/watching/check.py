"""Are limits still right, on another engine, after quantisation, a month later?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from personavec.errors import UserError
from personavec.report.words import span
from personavec.stats.alarms import rate_of_groups, spread_of_groups
from personavec.stats.bootstrap import interval
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.watching.log import LoggedAnswer, Traffic, fits, read_log
from personavec.watching.result import RULES, Drift, Limits, LimitsCheck, RuleCheck, RuleName
from personavec.watching.rules import exceeding, known_scale

MOVED = 0.1  # share of the deviation by which it may change without a word


def of_kind(answers: Sequence[LoggedAnswer], limits: Limits) -> list[LoggedAnswer]:
    """Those that limits can be held against.

    Raises:
        UserError: There are none.
    """
    found = [answer for answer in answers if fits(answer, limits.traits, limits.vectors, limits.steering)]
    if not found:
        raise UserError(
            f"None of the {len(answers)} answers is read along {', '.join(limits.traits)} and steered as those that "
            f"the limits were made of ({'; '.join(limits.steering) or 'not at all'}).",
            "Calibrate limits on traffic of this kind.",
        )
    return found


def check_limits(log: Path | str, limits: Limits) -> LimitsCheck:
    """Hold limits against a log of traffic that is taken for normal.

    Raises:
        UserError: The log cannot be read, or holds no answer of the limits' kind.
    """
    answers = read_log(log)
    alike = of_kind(answers, limits)
    traffic = Traffic.of(alike, limits.traits)
    rules: dict[RuleName, RuleCheck] = {}
    for rule, known in limits.rules.items():
        seen = exceeding(rule, known, traffic, limits.horizon)
        found = rate_of_groups(seen.joint, seen.groups)
        rules[rule] = RuleCheck(
            promised=known.rate,
            found=found,
            found_by_trait={t: rate_of_groups(seen.alone[:, i], seen.groups) for i, t in enumerate(traffic.traits)},
            holds=found.low <= known.rate_high,
        )
    drift = _drift(limits, traffic)
    return LimitsCheck(
        answers=len(traffic.answers),
        conversations=traffic.conversations,
        other=len(answers) - len(alike),
        rules=rules,
        drift=drift,
        holds=all(found.holds for found in rules.values()),
        sentences=tuple(_sentences(rules, drift, limits.horizon, traffic.conversations)),
    )


def _drift(limits: Limits, traffic: Traffic) -> dict[str, Drift]:
    z = known_scale(limits.rules["traffic"], traffic).of_values(traffic.mean)
    found = {}
    for place, trait in enumerate(traffic.traits):
        drawn = spread_of_groups(z[:, place], traffic.groups)
        mean, deviation = (
            _with_error(some, error, traffic.conversations)
            for some, error in zip(drawn, limits.errors[trait], strict=True)
        )
        found[trait] = Drift(mean=mean, deviation=deviation)
    return found


def _with_error(drawn: Floats, error: float, count: int) -> Estimate:
    """A figure, the first, with the interval of its draws and of the standard error of what it is compared with."""
    value, (low, high) = float(drawn[0]), interval(drawn[1:], count, (-np.inf, np.inf))
    return Estimate(
        value, value - math.hypot(value - low, 1.96 * error), value + math.hypot(high - value, 1.96 * error), count
    )


def _sentences(
    rules: Mapping[RuleName, RuleCheck], drift: Mapping[str, Drift], horizon: int, conversations: int
) -> Iterator[str]:
    broken = [rule for rule, found in rules.items() if not found.holds]
    for rule in broken:
        found = rules[rule]
        yield (
            f"{RULES[rule]}: the limits are no longer right. Normal traffic alarms at {found.found.mean:.3f} "
            f"({span(found.found, '.3f', 'conversations' if rule != 'traffic' else 'blocks')}), promised are "
            f"{found.promised:g}: calibrate again."
        )
    if not broken:
        rule = max((rule for rule in rules if rule != "traffic"), key=lambda rule: rules[rule].found.high)
        yield (
            "No rule alarms of this traffic more often than was promised, as far as its n can tell: "
            f"{rules[rule].promised:g} are promised, {rules[rule].found.high:.3f} ({rule}) are not excluded."
        )
    if conversations < horizon and "traffic" not in broken:
        yield (
            f"The sum over the whole traffic is for {horizon} conversations together, and the log holds "
            f"{conversations}: of this rule it tells little."
        )
    for trait, moved in drift.items():
        if moved.mean.low > 0 or moved.mean.high < 0:
            yield (
                f"{trait}: normal answers lie {moved.mean.mean:+.2f} deviations from where they lay "
                f"({span(moved.mean, '+.2f', 'conversations')})."
            )
        if moved.deviation.low > 1 + MOVED or moved.deviation.high < 1 - MOVED:
            more = "more often than was promised" if moved.deviation.mean > 1 else "later than they could"
            yield (
                f"{trait}: their deviation is {moved.deviation.mean:.2f} times what it was "
                f"({span(moved.deviation, '.2f', 'conversations')}); the limits alarm {more}."
            )
