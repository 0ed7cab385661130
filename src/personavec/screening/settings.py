"""What decides the result of a screening, besides the model, the data and the vectors."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_doc import Doc

from personavec.errors import UserError, check_least, check_words
from personavec.judges.kinds import spellings
from personavec.projection import Turns

Baseline = Literal["hybrid", "exact", "prompt", "none"]
Specific = Literal["no", "span", "whiten", "domains"]


@dataclass(frozen=True)
class ScreenSettings:
    """What decides the result of a screening.

    The data's answers are compared, by `baseline`, with the model's own greedy answers to every prompt ("exact", paper
    section 6.1), or with the last prompt token, without generating ("prompt", paper appendix on cheaper estimates), or
    with nothing ("none", raw projections).
    "hybrid" takes own answers to a random part of the prompts and predicts them from the prompt for the others; it adds
    own answers until the 95 % interval they leave is at most `precision` wide to either side, in standard deviations of
    the clean reference, or until the direction of the shift is clear.

    `specific` "span" screens along directions without what they share with other traits, length and refusals; "whiten"
    whitens them by the covariance of clean answers; "domains" screens along what tells the library's texts that show
    the trait from all else that is known: texts that lack it, other traits' texts, a bank of clean domains and the
    references. It reads the first tokens of the answers by themselves, so that its baseline is "none".

    Raises:
        UserError: Naming the field and what it may be.
    """

    baseline: Annotated[Baseline, Doc("hybrid, exact, prompt or none; none with `specific` domains.")] = "hybrid"
    turns: Annotated[Turns, Doc("Which assistant turns count: all or last.")] = "all"
    precision: Annotated[float, Doc("Half width of the interval at which a hybrid screening stops, in deviations.")] = (
        0.15
    )
    false_alarm_rate: Annotated[float, Doc("Share of clean samples that may be flagged.")] = 0.05
    threshold: Annotated[float | None, Doc("Flag above this projection difference instead.")] = None
    specific: Annotated[
        Specific,
        Doc("Directions without what other traits, length and refusals share: no, span, whiten or domains."),
    ] = "no"
    max_new_tokens: Annotated[int, Doc("Longest of the model's own answers.")] = 64
    judge: Annotated[str | None, Doc(f"Also score the flagged samples: {spellings()}.")] = None
    judge_all: Annotated[bool, Doc("Let the judge score every sample, and flag those above 50 too.")] = False
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    @classmethod
    def suited(cls, device: str, **given: Any) -> "ScreenSettings":
        """These, with what was given; own answers of 64 tokens on a CPU and 256 elsewhere unless that was given."""
        if given.get("max_new_tokens") is None:
            given["max_new_tokens"] = 64 if device == "cpu" else 256
        return cls(**given)

    def __post_init__(self) -> None:
        check_words(self, baseline=get_args(Baseline), turns=get_args(Turns), specific=get_args(Specific))
        if self.specific == "domains":
            if self.baseline not in ("hybrid", "none"):
                raise UserError(
                    f"`specific` domains compares answers with nothing, not by `baseline` {self.baseline}.",
                    "Leave the baseline out.",
                )
            object.__setattr__(self, "baseline", "none")
        if not (math.isfinite(self.precision) and self.precision > 0):
            raise UserError(f"`precision` {self.precision} is not usable.", "Choose a number above 0, such as 0.15.")
        if not 0 < self.false_alarm_rate < 1:
            raise UserError(
                f"`false_alarm_rate` {self.false_alarm_rate} is not usable.", "Choose a share such as 0.05."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"`threshold` {self.threshold} is not a number.", "Choose a projection difference.")
        check_least(self, max_new_tokens=1, seed=0)
        if self.judge_all and self.judge is None:
            raise UserError("`judge_all` needs a judge.", f"Name one with `judge`: {spellings()}.")
