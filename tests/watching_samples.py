"""Logs of readings that are drawn, and limits that are written down."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from personavec.files import to_json
from personavec.stats.numbers import Floats
from personavec.watching.log import LoggedAnswer, LoggedReading
from personavec.watching.result import RULES, Limits, RuleLimits

TRAITS = ("evil", "humorous")


def drawn(
    conversations: int, turns: int, *, seed: int = 0, traits: Sequence[str] = TRAITS, shift: float = 0.0
) -> list[LoggedAnswer]:
    """Normal traffic, moved by `shift`: half of the variance is a conversation's own."""
    rng = np.random.default_rng(seed)
    own = rng.normal(shift, 0.7, (conversations, 1, len(traits)))
    means: Floats = own + rng.normal(0, 0.7, (conversations, turns, len(traits)))
    more = rng.exponential(0.5, means.shape)
    return [
        LoggedAnswer(
            id=f"{c}-{t}", conversation=f"c-{c}", turn=t, time="2026-01-01T00:00:00+0000", model="default",
            traits={
                trait: LoggedReading(before=mean - some, mean=mean, max=mean + some)
                for trait, mean, some in zip(traits, means[c, t].tolist(), more[c, t].tolist(), strict=True)
            },
            vectors=dict.fromkeys(traits, "0123"), tokens=40, steering=(),
        )
        for c in range(conversations)
        for t in range(turns)
    ]  # fmt: skip


def write(answers: Sequence[LoggedAnswer], path: Path) -> Path:
    path.write_text("".join(to_json(answer.as_json()) + "\n" for answer in answers), encoding="utf-8")
    return path


def written_limits(
    traits: Sequence[str] = TRAITS,
    *,
    vectors: dict[str, str] | None = None,
    steering: tuple[str, ...] = (),
    **joint: float,
) -> Limits:
    """Limits on readings as they are: centre 0, deviation 1; 3 for all rules, or as given by the rule's name."""
    rules = {
        rule: RuleLimits(
            rate=0.01, rate_high=0.05, centre=dict.fromkeys(traits, 0.0), deviation=dict.fromkeys(traits, 1.0),
            limits=dict.fromkeys(traits, 3.0), joint=joint.get(rule, 3.0),
            doubt=1.0 if rule in ("before", "during") else None, held_out=None, held_out_by_trait={},
        )
        for rule in RULES
    }  # fmt: skip
    return Limits(
        schema_version=1, command="watch calibrate", personavec="0", written="", arguments={}, traits=tuple(traits),
        vectors=vectors or {}, steering=steering, answers=100, conversations=100, left_out=0, horizon=100,
        errors=dict.fromkeys(traits, (0.0, 0.0)), rules=rules, delays=(), warnings=(),
    )  # fmt: skip
