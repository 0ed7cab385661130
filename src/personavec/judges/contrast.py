"""The judge that needs no second model: is a response likelier under instructions for the trait than against it?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personavec.errors import UserError
from personavec.judges.coherence import Coherence
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.refusals import refuses
from personavec.rollouts import Rollout
from personavec.traits import Trait

JUDGING_PAIRS = 3
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """Maps evidence (nats per token) to 0..100 so that 50 separates the sides.

    Attributes:
        middle: Evidence that scores 50.
        slope: Logits per nat. The means of the two sides score 10 and 90 where they are well apart; where they overlap
            the slope is that of the posterior of two normal distributions, which keeps scores near 50.
    """

    middle: float
    slope: float

    @classmethod
    def fit(cls, positive: Sequence[float], negative: Sequence[float]) -> "Calibration":
        """From the evidence of both sides."""
        high, low = float(np.mean(positive)), float(np.mean(negative))
        variance = (float(np.var(positive)) + float(np.var(negative))) / 2
        gap = high - low
        if gap <= 0:
            return cls((high + low) / 2, 0.0)
        return cls((high + low) / 2, min(2 * math.log(9) / gap, gap / max(variance, 1e-9)))

    def score(self, evidence: float) -> float:
        """0..100."""
        return 100 / (1 + math.exp(-max(-60.0, min(60.0, self.slope * (evidence - self.middle)))))


class ContrastJudge:
    """Scores rollouts by the model itself: the evidence for the trait is the mean log-probability per token of a
    response under positive instructions minus the same under the matching negative ones, averaged over pairs.

    A refusal has no score. A response is never judged by the pair it was given under. Scores of the rollouts that the
    calibration is fitted on come from calibrations that did not see their question (five folds).

    Args:
        model: The model that wrote the rollouts, unsteered.
        trait: Supplies the instructions.

    Attributes:
        calibration, coherence: Set by `fit`; they may be stored and set again later.
    """

    name = "contrast"

    def __init__(
        self,
        model: ChatModel,
        trait: Trait,
        calibration: Calibration | None = None,
        coherence: Coherence | None = None,
    ) -> None:
        self.model, self.trait = model, trait
        self.calibration, self.coherence = calibration, coherence

    def judging_pairs(self, own: int | None) -> list[int]:
        """The pairs a response given under pair `own` is judged by: the first ones that are not its own."""
        others = [pair for pair in range(len(self.trait.instructions)) if pair != own]
        return (others or [0])[:JUDGING_PAIRS]

    def evidence(
        self, rollouts: Sequence[Rollout], advance: Callable[[int], None] | None = None
    ) -> tuple[list[float], list[float]]:
        """Evidence for the trait, and the highest likelihood under any judging prompt (for coherence), per rollout.

        Both are NaN for an empty response, and there is no evidence in a refusal: it can be likelier under one of the
        instructions without showing any trait.
        """
        conversations: list[Conversation] = []
        owners: list[tuple[int, int]] = []
        prompts: dict[tuple[str, str], list[int]] = {}
        for index, rollout in enumerate(rollouts):
            start = self.model.template.response_start(rollout.response_ids)
            response = rollout.response_ids[start:]
            if not response:
                continue
            for pair in self.judging_pairs(rollout.pair):
                for sign, system in zip((1, -1), self.trait.system_prompts(pair), strict=True):
                    key = (system, rollout.question)
                    if key not in prompts:
                        messages = [
                            {"role": "system", "content": system},
                            {"role": "user", "content": rollout.question},
                        ]
                        prompts[key] = self.model.prompt_ids(messages) + self.model.template.lead
                    prompt = prompts[key]
                    conversations.append(
                        Conversation([*prompt, *response], [(len(prompt), len(prompt) + len(response))])
                    )
                    owners.append((index, sign))
        likelihoods = read(self.model, conversations, layers=[], log_likelihood=True, advance=advance).log_likelihood
        assert likelihoods is not None
        evidence = np.zeros(len(rollouts))
        counts = np.zeros(len(rollouts))
        best = np.full(len(rollouts), -np.inf)
        for (index, sign), value in zip(owners, likelihoods.tolist(), strict=True):
            evidence[index] += sign * value
            counts[index] += 0.5
            best[index] = max(best[index], value)
        with np.errstate(invalid="ignore"):
            evidence = evidence / counts
        evidence[[refuses(rollout.text) for rollout in rollouts]] = np.nan
        return evidence.tolist(), np.where(counts > 0, best, np.nan).tolist()

    def fit(
        self,
        contrastive: Sequence[Rollout],
        neutral: Sequence[Rollout],
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Calibrate on rollouts of both sides and on natural answers, and score all of them.

        Raises:
            UserError: A side has no response at all, or the evidence does not tell the sides apart.
        """
        everyone = [*contrastive, *neutral]
        evidence, likelihood = self.evidence(everyone, advance)
        natural = [
            (value, r.response_ids)
            for value, r in zip(likelihood[len(contrastive) :], neutral, strict=True)
            if math.isfinite(value)
        ]
        if not natural:
            raise UserError("The model gave no natural answer that could be judged.", "Raise --max-new-tokens.")
        self.coherence = Coherence.of_natural([value for value, _ in natural], [ids for _, ids in natural])

        def sides(leave_out: int | None) -> tuple[list[float], list[float]]:
            chosen = [
                (r.side, e)
                for r, e in zip(contrastive, evidence, strict=False)
                if math.isfinite(e) and (leave_out is None or r.question_index % FOLDS != leave_out)
            ]
            return [e for s, e in chosen if s == "positive"], [e for s, e in chosen if s == "negative"]

        for name, values in zip(("positive", "negative"), sides(None), strict=True):
            if not values:
                raise UserError(
                    f"No response under the {name} instructions could be judged for {self.trait.name!r}.",
                    "The responses are empty; raise --max-new-tokens or look at the trait's instructions.",
                )
        self.calibration = Calibration.fit(*sides(None))
        for fold in range(FOLDS):
            positive, negative = sides(fold)
            calibration = Calibration.fit(positive, negative) if positive and negative else self.calibration
            for rollout, e in zip(contrastive, evidence, strict=False):
                if rollout.question_index % FOLDS == fold:
                    rollout.score = calibration.score(e) if math.isfinite(e) else None
        for rollout, e in zip(neutral, evidence[len(contrastive) :], strict=True):
            rollout.score = self.calibration.score(e) if math.isfinite(e) else None
        for rollout, value in zip(everyone, likelihood, strict=True):
            rollout.coherence = self.coherence.score(value, rollout.response_ids)

    def score(self, rollouts: Sequence[Rollout], advance: Callable[[int], None] | None = None) -> None:
        """Set score and coherence of further rollouts by the fitted calibration."""
        if self.calibration is None or self.coherence is None:
            raise ValueError("the contrast judge must be fitted first")
        evidence, likelihood = self.evidence(rollouts, advance)
        for rollout, e, value in zip(rollouts, evidence, likelihood, strict=True):
            rollout.score = self.calibration.score(e) if math.isfinite(e) else None
            rollout.coherence = self.coherence.score(value, rollout.response_ids)

    def announce(self, questions: Sequence[str], tokens: int) -> None:
        """It costs nothing but time, which the progress bar tells."""

    def readings_needed(self, rollouts: int) -> int:
        """How many conversations `fit` or `score` reads for so many rollouts (for a progress bar)."""
        return rollouts * 2 * len(self.judging_pairs(None))

    def state(self) -> dict[str, Any]:
        """What `from_state` needs; goes into the vector file, so that later scores are on the same scale."""
        assert self.calibration is not None
        assert self.coherence is not None
        return {"calibration": vars(self.calibration), "coherence": vars(self.coherence)}

    @classmethod
    def from_state(cls, model: ChatModel, trait: Trait, state: dict[str, Any]) -> "ContrastJudge":
        """The judge as it was fitted when the vector was extracted.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: Another judge's state, or something that is no number.
        """
        calibration, coherence = ({**state[part]} for part in ("calibration", "coherence"))
        if not all(math.isfinite(value) for value in (*calibration.values(), *coherence.values())):
            raise ValueError("numbers that are not finite")
        if coherence["likelihood_deviation"] <= 0:
            raise ValueError("a deviation that is none")
        return cls(model, trait, Calibration(**calibration), Coherence(**coherence))
