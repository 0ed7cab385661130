"""The alarm rules: their limits from normal traffic, and what of other traffic exceeds them.

- before, during: an answer's reading in front of its first token, and that of its highest passage.
- conversation: the CUSUM of the means of a conversation's answers, from 0 on at its beginning.
- traffic: the same over all conversations, one after another.

Of several traits the highest counts, each in deviations of normal traffic. For the first three rules these come from a
quarter of the conversations and the joint limit from the others, so that no figure of the one has seen the other; each
conversation counts as one unit however long it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from personavec.errors import UserError
from personavec.stats.alarms import (
    ALLOWANCE,
    Codes,
    Scale,
    cusum_of_groups,
    drawn_maxima,
    parted,
    rate_given,
    starts_of,
    threshold_of_groups,
    upper_quantile,
)
from personavec.stats.numbers import Floats
from personavec.watching.log import Traffic
from personavec.watching.result import RuleLimits, RuleName
from personavec.watching.settings import WatchSettings


class Scores(NamedTuple):
    """What a rule holds against its limits.

    Attributes:
        values: (m, T), of answers, conversations, or blocks of them.
        groups: (m,) what counts as one unit of the rate.
    """

    values: Floats
    groups: Codes


def readings(rule: RuleName, traffic: Traffic) -> Floats:
    """What a rule looks at (n, T)."""
    return {"before": traffic.before, "during": traffic.highest}.get(rule, traffic.mean)


def scores(rule: RuleName, traffic: Traffic, scale: Scale, horizon: int) -> Scores:
    """What a rule makes of traffic.

    Args:
        horizon: Conversations in a block, for the whole traffic; the last block may be shorter.
    """
    values = scale.of_values(readings(rule, traffic))
    if rule in ("before", "during"):
        return Scores(values, traffic.groups)
    units = traffic.groups if rule == "conversation" else traffic.groups // horizon
    starts = starts_of(units)
    highest = np.maximum.reduceat(cusum_of_groups(values - ALLOWANCE, starts), starts, axis=0)
    return Scores(highest, np.arange(len(starts)))


def scale_of(rule: RuleName, traffic: Traffic) -> Scale:
    """Mean and deviation of what a rule looks at.

    Raises:
        UserError: Readings that do not vary.
    """
    scale = Scale.of(readings(rule, traffic)) if len(traffic.answers) > 1 else None
    for place, trait in enumerate(traffic.traits):
        if scale is None or not scale.deviation[place] > 0:
            raise UserError(
                f"The readings of {trait} are the same in all of {len(traffic.answers)} answers.",
                "Give a log of more, and of different conversations.",
            )
    assert scale is not None
    return scale


def rule_limits(rule: RuleName, traffic: Traffic, settings: WatchSettings) -> RuleLimits:
    """The limits of a rule, from normal traffic of enough conversations.

    Raises:
        UserError: Readings that do not vary.
    """
    if rule == "traffic":
        return _over_traffic(traffic, settings)
    few, rest = parted(traffic.conversations, settings.seed)
    scale = scale_of(rule, traffic.of_groups(few))
    joint = scores(rule, traffic.of_groups(rest), scale, 1)
    # Alone, a trait's answers are ranked alike on any scale: all conversations may tell its threshold.
    alone = joint if rule == "conversation" else scores(rule, traffic, scale, 1)
    limits = _by_trait(traffic, lambda place: threshold_of_groups(alone.values[:, place], alone.groups, settings.rate))
    first = limits[traffic.traits[0]]

    def joined(rate: float) -> float:
        return threshold_of_groups(joint.values.max(1), joint.groups, rate)

    return RuleLimits(
        rate=settings.rate,
        rate_high=rate_given(len(np.unique(joint.groups)), settings.rate),
        centre=_by_trait(traffic, lambda place: scale.centre[place]),
        deviation=_by_trait(traffic, lambda place: scale.deviation[place]),
        limits=limits,
        joint=first if len(traffic.traits) == 1 else joined(settings.rate),
        doubt=None if rule == "conversation" else joined(settings.doubt),
        held_out=None,
        held_out_by_trait={},
    )


def _over_traffic(traffic: Traffic, settings: WatchSettings) -> RuleLimits:
    scale = scale_of("traffic", traffic)
    horizon = settings.horizon or traffic.conversations
    drawn = drawn_maxima(traffic.mean, traffic.groups, horizon, settings.draws, settings.seed)
    rate = settings.traffic_rate
    return RuleLimits(
        rate=rate,
        rate_high=rate,
        centre=_by_trait(traffic, lambda place: scale.centre[place]),
        deviation=_by_trait(traffic, lambda place: scale.deviation[place]),
        limits=_by_trait(traffic, lambda place: upper_quantile(drawn[:, place], rate)),
        joint=upper_quantile(drawn.max(1), rate),
        doubt=None,
        held_out=None,
        held_out_by_trait={},
    )


def _by_trait(traffic: Traffic, of: Callable[[int], float]) -> dict[str, float]:
    return {trait: float(of(place)) for place, trait in enumerate(traffic.traits)}


class Exceeding(NamedTuple):
    """What exceeds the limits of a rule.

    Attributes:
        alone: (m, T) for each trait watched alone.
        joint: (m,).
        groups: (m,) what counts as one unit of the rate.
    """

    alone: NDArray[np.bool_]
    joint: NDArray[np.bool_]
    groups: Codes


def known_scale(limits: RuleLimits, traffic: Traffic) -> Scale:
    """The scale that limits are on."""
    return Scale(*(np.array([side[t] for t in traffic.traits]) for side in (limits.centre, limits.deviation)))


def exceeding(rule: RuleName, limits: RuleLimits, traffic: Traffic, horizon: int) -> Exceeding:
    """What of traffic exceeds the limits of a rule."""
    found = scores(rule, traffic, known_scale(limits, traffic), horizon)
    alone = found.values > np.array([limits.limits[trait] for trait in traffic.traits])
    return Exceeding(alone, found.values.max(1) > limits.joint, found.groups)
