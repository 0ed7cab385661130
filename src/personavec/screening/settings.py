"""What decides the result of a screening, besides the model, the data and the vectors."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from personavec.errors import UserError
from personavec.judges.kinds import spellings
from personavec.projection.measure import Turns

Baseline = Literal["hybrid", "exact", "prompt"]
Specific = Literal["no", "span", "whiten"]


@dataclass(frozen=True)
class Settings:
    """What decides the result of a screening.

    Attributes:
        baseline: What the data's answers are compared with. "exact": the model's own greedy answers to every prompt
            (paper section 6.1). "prompt": the last prompt token, without generating (paper appendix on cheaper
            estimates). "hybrid": own answers to a random part of the prompts; for the others they are predicted from
            the prompt.
        turns: Which assistant turns count: "all" or the "last".
        precision: Hybrid: own answers are added until the 95 % interval they leave is at most this wide to either side,
            in standard deviations of the clean reference, or until the direction of the shift is clear.
        false_alarm_rate: Share of clean samples that may be flagged; sets the thresholds.
        threshold: Projection difference above which a sample is flagged; None: from the clean reference.
        specific: Screen along directions without what they share with other traits, length and refusals ("span"), or
            whitened by the covariance of clean answers ("whiten").
        max_new_tokens: Longest of the model's own answers.
        judge: Also scores samples, see `personavec.judges.kinds.open_judge`; None: no judge.
        judge_all: The judge scores every sample, and flags those above 50 as well; off: it scores the flagged ones.
        seed: Of everything random.
    """

    baseline: Baseline = "hybrid"
    turns: Turns = "all"
    precision: float = 0.15
    false_alarm_rate: float = 0.05
    threshold: float | None = None
    specific: Specific = "no"
    max_new_tokens: int = 64
    judge: str | None = None
    judge_all: bool = False
    seed: int = 0

    @classmethod
    def suited(cls, device: str, **given: Any) -> "Settings":
        """Settings with what was given; own answers of 64 tokens on a CPU and 256 elsewhere unless that was given."""
        if given.get("max_new_tokens") is None:
            given["max_new_tokens"] = 64 if device == "cpu" else 256
        return cls(**given)

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("--baseline", self.baseline, get_args(Baseline)),
            ("--turns", self.turns, get_args(Turns)),
            ("--specific", self.specific, get_args(Specific)),
        ):
            if value not in allowed:
                raise UserError(f"{option} {value!r} is not understood.", f"Choose {', '.join(allowed)}.")
        if not (math.isfinite(self.precision) and self.precision > 0):
            raise UserError(f"--precision {self.precision} is not usable.", "Choose a number above 0, such as 0.15.")
        if not 0 < self.false_alarm_rate < 1:
            raise UserError(
                f"--false-alarm-rate {self.false_alarm_rate} is not usable.", "Choose a share such as 0.05."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"--threshold {self.threshold} is not a number.", "Choose a projection difference.")
        if self.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens {self.max_new_tokens} is out of range.", "Choose 1 or more.")
        if self.judge_all and self.judge is None:
            raise UserError("--judge-all needs a judge.", f"Name one with --judge: {spellings()}.")
