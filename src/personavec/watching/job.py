"""Limits from a log of normal traffic, into a file and a page beside it."""

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from personavec.report.words import span
from personavec.stats.alarms import Codes, check_groups, groups_needed, rate_of_groups, spread_of_groups
from personavec.stats.estimate import Estimate
from personavec.watching.delays import delay_table
from personavec.watching.log import Traffic, commonest, read_log
from personavec.watching.page import write_limits_page
from personavec.watching.result import RULES, Limits, RuleLimits, RuleName
from personavec.watching.rules import exceeding, rule_limits
from personavec.watching.settings import WatchSettings

FOLDS = 5


def calibrate_limits(log: Path | str, out: Path | str, settings: WatchSettings | None = None) -> Limits:
    """Calibrate the limits of all alarm rules on normal traffic.

    Args:
        log: See `read_log`. Answers that were steered or read in another way than most are left out.
        out: File of the limits, JSON; a page is written beside it.

    Raises:
        UserError: The log cannot be read, or holds too few conversations for the rate.
    """
    settings, out = settings or WatchSettings(), Path(out)
    answers = read_log(log)
    kind, alike = commonest(answers)
    traffic = Traffic.of(alike, kind.traits)
    check_groups(traffic.conversations, settings.rate, "conversations", groups_needed(settings.rate))
    rules = {rule: rule_limits(rule, traffic, settings) for rule in RULES}
    rules = {rule: _held_out(rule, found, traffic, settings) for rule, found in rules.items()}
    limits = Limits(
        schema_version=Limits.SCHEMA, command=Limits.COMMAND, personavec=version("personavec"),
        written=time.strftime("%Y-%m-%dT%H:%M:%S%z"), arguments={"log": str(log), **vars(settings)},
        traits=kind.traits, vectors=dict(kind.vectors), steering=kind.steering,
        answers=len(traffic.answers), conversations=traffic.conversations,
        left_out=len(answers) - len(traffic.answers),
        horizon=settings.horizon or traffic.conversations, errors=_errors(traffic), rules=rules, delays=(), warnings=(),
    )  # fmt: skip
    limits = limits.model_copy(update={"delays": delay_table(limits, traffic, settings.seed)})
    limits = limits.model_copy(update={"warnings": _warnings(limits, settings)})
    limits.write(out)
    write_limits_page(limits, traffic, out.with_suffix(".html"))
    return limits


def _errors(traffic: Traffic) -> dict[str, tuple[float, float]]:
    found = {}
    for place, trait in enumerate(traffic.traits):
        means, deviations = spread_of_groups(traffic.mean[:, place], traffic.groups)
        found[trait] = (float(means[1:].std() / deviations[0]), float(deviations[1:].std() / deviations[0]))
    return found


def _held_out(rule: RuleName, found: RuleLimits, traffic: Traffic, settings: WatchSettings) -> RuleLimits:
    """The rule with its alarms among conversations that limits made in the same way did not know."""
    count = traffic.conversations
    if rule == "traffic" or count - -(-count // FOLDS) < groups_needed(settings.rate):
        return found
    folds = np.random.default_rng([settings.seed, 3]).permutation(count) % FOLDS
    groups: list[Codes] = []
    joint, alone = [], []
    for fold in range(FOLDS):
        left = folds == fold
        seen = exceeding(rule, rule_limits(rule, traffic.of_groups(~left), settings), traffic.of_groups(left), 1)
        groups.append(seen.groups + sum(int(part.max()) + 1 for part in groups))
        joint.append(seen.joint)
        alone.append(seen.alone)
    units = np.concatenate(groups)
    by_trait = dict(zip(traffic.traits, np.concatenate(alone).T, strict=True))
    return found.model_copy(
        update={
            "held_out": rate_of_groups(np.concatenate(joint), units).rounded(),
            "held_out_by_trait": {t: rate_of_groups(some, units).rounded() for t, some in by_trait.items()},
        }
    )


def _warnings(limits: Limits, settings: WatchSettings) -> tuple[str, ...]:
    said = []
    if limits.left_out:
        said.append(
            f"{limits.left_out} answers of the log were left out: steered or read in another way than most, or given "
            "again to the same turn."
        )
    held: list[tuple[RuleName, Estimate]] = [(r, one.held_out) for r, one in limits.rules.items() if one.held_out]
    if not held:
        needed = next(n for n in range(1, 10**9) if n - -(-n // FOLDS) >= groups_needed(settings.rate))
        said.append(
            f"False alarms could not be counted among conversations that the limits do not know: this takes {needed}."
        )
    said += [
        f"{RULES[rule]}: of what limits did not know a share of {found.mean:.3f} alarmed "
        f"({span(found, '.3f', 'conversations')}), more than the {limits.rules[rule].rate:g} promised. Is the log of "
        "one kind of traffic?"
        for rule, found in held
        if found.low > limits.rules[rule].rate
    ]
    return tuple(said)
