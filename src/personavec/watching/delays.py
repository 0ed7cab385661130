"""How soon the rules see drift: delays of the joint alarm when one trait is higher from some answer on."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from personavec.stats.alarms import ALLOWANCE, Codes, cusum, cusum_of_groups, drawn_rows, starts_of
from personavec.stats.numbers import Floats
from personavec.watching.log import Traffic
from personavec.watching.result import Delay, Limits, RuleLimits, RuleName
from personavec.watching.rules import known_scale, readings

DRIFTS = (0.5, 1.0, 2.0)  # deviations of normal answers
QUANTILES = (0.025, 0.5, 0.975)
LEFT = 10  # conversations that still go on, of fewer nothing is told
DRAWS = 200  # traffics in which a drift begins


def delay_table(limits: Limits, traffic: Traffic, seed: int) -> tuple[Delay, ...]:
    """Delays of every rule for every drift."""
    return tuple(
        _delay(rule, drift, *_times(rule, found, traffic, drift, limits.horizon, seed), traffic.conversations)
        for rule, found in limits.rules.items()
        for drift in DRIFTS
    )


def _delay(rule: RuleName, drift: float, times: Codes, alarmed: NDArray[np.bool_], n: int) -> Delay:
    low, median, high = quantiles_with_ends(times, alarmed, 1 if rule == "traffic" else LEFT)
    return Delay(rule=rule, drift=drift, low=low, median=median, high=high, n=n)


def quantiles_with_ends(times: ArrayLike, alarmed: ArrayLike, least: int = 1) -> list[int | None]:
    """Quantiles of times of which some ended before what was waited for came (Kaplan and Meier 1958).

    Args:
        times: (m,) when it came, or the end.
        alarmed: (m,) whether it came.
        least: Of fewer cases that still go on nothing is told.
    """
    when, came = np.asarray(times), np.asarray(alarmed, dtype=bool)
    left, found = 1.0, dict.fromkeys(QUANTILES)
    for time in np.unique(when[came]).tolist():
        going = int((when >= time).sum())
        if going < least:
            break
        left *= 1 - int((when[came] == time).sum()) / going
        for quantile, known in found.items():
            if known is None and 1 - left >= quantile - 1e-9:
                found[quantile] = time
    return list(found.values())


def _times(
    rule: RuleName, limits: RuleLimits, traffic: Traffic, drift: float, horizon: int, seed: int
) -> tuple[Codes, NDArray[np.bool_]]:
    """Answers until the alarm, and whether it came, with each trait in turn."""
    values = known_scale(limits, traffic).of_values(readings(rule, traffic))
    starts = starts_of(traffic.groups)
    moved = range(len(traffic.traits))
    shifts = [drift * np.eye(len(traffic.traits))[place] for place in moved]
    if rule == "traffic":
        found = _in_traffic(values, starts, shifts, limits.joint, horizon, seed)
    else:
        found = [one for shift in shifts for one in _in_conversations(rule, values + shift, starts, limits.joint)]
    times, alarmed = zip(*found, strict=True)
    return np.array(times), np.array(alarmed)


def _in_conversations(rule: RuleName, values: Floats, starts: Codes, limit: float) -> list[tuple[int, bool]]:
    """The first alarm of each conversation, or its end."""
    held = cusum_of_groups(values - ALLOWANCE, starts) if rule == "conversation" else values
    beyond = np.split(held.max(1) > limit, starts[1:])
    return [(int(one.argmax()) + 1, True) if one.any() else (len(one), False) for one in beyond]


def _in_traffic(
    values: Floats, starts: Codes, shifts: list[Floats], limit: float, horizon: int, seed: int
) -> list[tuple[int, bool]]:
    """Resampled traffic of which the second half drifts; a CUSUM that had alarmed before began anew."""
    rng = np.random.default_rng([seed, 2])
    found = []
    for draw in range(DRAWS):
        first, second = (
            drawn_rows(starts, len(values), rng.integers(len(starts), size=math.ceil(horizon / 2))) for _ in range(2)
        )
        before = cusum(values[first] - ALLOWANCE)[-1]
        steps = values[second] + shifts[draw % len(shifts)] - ALLOWANCE
        steps[0] += np.where(before.max() > limit, 0, before)
        beyond = cusum(steps).max(1) > limit
        found.append((int(beyond.argmax()) + 1, True) if beyond.any() else (len(beyond), False))
    return found
