"""The judge that needs no second model: is a response likelier under instructions for the trait than against it?"""

import math
from collections.abc import Sequence

import numpy as np

from personavec.errors import UserError
from personavec.judges.base import UNFITTED, Advance, Judge, JudgeModel, JudgeState
from personavec.judges.calibration import Calibration
from personavec.judges.coherence import Coherence, worst_stretches
from personavec.judges.kinds import Surroundings, spellings
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.refusals import refuses
from personavec.rollouts import Rollout
from personavec.traits import Trait

JUDGING_PAIRS = 3
FOLDS = 5


def judging_pairs(trait: Trait, rollout: Rollout, count: int = JUDGING_PAIRS) -> list[int]:
    """The pairs of instructions that a response is judged by, never the one that it was given under.

    Answers to one question are judged by the same ones, and where there are more than `count` the questions take turns:
    what is odd about one pair is not in every score.
    """
    others = [pair for pair in range(len(trait.instructions)) if pair != rollout.pair] or [0]
    first = rollout.question_index
    return [others[(first + place) % len(others)] for place in range(min(count, len(others)))]


def read_evidence(
    model: ChatModel,
    trait: Trait,
    rollouts: Sequence[Rollout],
    advance: Advance | None = None,
    pairs: int = JUDGING_PAIRS,
) -> list[float]:
    """Evidence for the trait, per rollout, in nats per token.

    NaN for an empty response and for a refusal: it can be likelier under one of the instructions without showing any
    trait.

    Args:
        pairs: Of instructions, that each response is judged by.
    """
    conversations: list[Conversation] = []
    owners: list[tuple[int, int]] = []
    prompts: dict[tuple[str, str], list[int]] = {}
    for index, rollout in enumerate(rollouts):
        response = rollout.response_ids[model.template.response_start(rollout.response_ids) :]
        if not response:
            continue
        for pair in judging_pairs(trait, rollout, pairs):
            for sign, system in zip((1, -1), trait.system_prompts(pair), strict=True):
                key = (system, rollout.question)
                if key not in prompts:
                    messages = [{"role": "system", "content": system}, {"role": "user", "content": rollout.question}]
                    prompts[key] = model.prompt_ids(messages) + model.template.lead
                prompt = prompts[key]
                conversations.append(Conversation([*prompt, *response], [(len(prompt), len(prompt) + len(response))]))
                owners.append((index, sign))
    likelihoods = read(model, conversations, layers=[], log_likelihood=True, advance=advance).log_likelihood
    assert likelihoods is not None
    evidence = np.zeros(len(rollouts))
    counts = np.zeros(len(rollouts))
    for (index, sign), value in zip(owners, likelihoods.tolist(), strict=True):
        evidence[index] += sign * value
        counts[index] += 0.5
    with np.errstate(invalid="ignore"):
        evidence = evidence / counts
    evidence[[refuses(rollout.text) for rollout in rollouts]] = np.nan
    found: list[float] = evidence.tolist()
    return found


class ContrastJudge(Judge):
    """Scores rollouts by the model itself: the evidence for the trait is the mean log-probability per token of a
    response under positive instructions minus the same under the matching negative ones, averaged over pairs.

    A refusal has no score. A response is never judged by the pair it was given under. Scores of the rollouts that the
    calibration is fitted on come from calibrations that did not see their question (five folds).

    Args:
        model: The model that wrote the rollouts, unsteered.
        trait: Supplies the instructions.
        pairs: Of instructions, that each response is judged by, unless a calibration says how many it was fitted with.
            More are less noise, at the price of two readings each.
        alone: It scores the trait alone, and leaves coherence to another judge.

    Attributes:
        calibration, coherence: Set by `fit`; they may be stored and set again later.
    """

    name = "contrast"
    instructed = True

    def __init__(
        self,
        model: ChatModel,
        trait: Trait,
        calibration: Calibration | None = None,
        coherence: Coherence | None = None,
        pairs: int = JUDGING_PAIRS,
        *,
        alone: bool = False,
    ) -> None:
        self.model, self.trait, self.alone = model, trait, alone
        self.calibration, self.coherence = calibration, coherence
        self.pairs = pairs if calibration is None else calibration.pairs

    @property
    def fitted(self) -> bool:
        """Whether it knows what tells the sides apart, and what is natural."""
        return self.calibration is not None and (self.alone or self.coherence is not None)

    def evidence(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> tuple[list[float], list[float]]:
        """Evidence for the trait, and the likelihood of the worst stretch; see `read_evidence`, `worst_stretches`.

        The latter is NaN where this judge scores the trait alone.
        """
        evidence = read_evidence(self.model, self.trait, rollouts, advance, self.pairs)
        return evidence, [math.nan] * len(rollouts) if self.alone else worst_stretches(self.model, rollouts, advance)

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Calibrate on rollouts of both sides and on natural answers, and score all of them.

        Raises:
            UserError: A side has no response at all, or the evidence does not tell the sides apart.
        """
        everyone = [*contrastive, *neutral]
        evidence, worst = self.evidence(everyone, advance)
        if not self.alone:
            self.coherence = Coherence.of_natural(worst[len(contrastive) :], neutral)

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
                    "The responses are empty; raise `max_new_tokens` or look at the trait's instructions.",
                )
        self.calibration = Calibration.fit(*sides(None), pairs=self.pairs)
        for fold in range(FOLDS):
            positive, negative = sides(fold)
            calibration = (
                Calibration.fit(positive, negative, pairs=self.pairs) if positive and negative else self.calibration
            )
            for rollout, e in zip(contrastive, evidence, strict=False):
                if rollout.question_index % FOLDS == fold:
                    rollout.score = calibration.score(e) if math.isfinite(e) else None
        for rollout, e in zip(neutral, evidence[len(contrastive) :], strict=True):
            rollout.score = self.calibration.score(e) if math.isfinite(e) else None
        self._set_coherence(everyone, worst)

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Set score and coherence of further rollouts by the fitted calibration."""
        if self.calibration is None or not self.fitted:
            raise ValueError("the contrast judge must be fitted first")
        evidence, worst = self.evidence(rollouts, advance)
        for rollout, e in zip(rollouts, evidence, strict=True):
            rollout.score = self.calibration.score(e) if math.isfinite(e) else None
        self._set_coherence(rollouts, worst)

    def _set_coherence(self, rollouts: Sequence[Rollout], worst: Sequence[float]) -> None:
        if self.coherence is not None:
            for rollout, value in zip(rollouts, worst, strict=True):
                rollout.coherence = self.coherence.score(value, rollout.response_ids)

    def readings_needed(self, rollouts: int) -> int:
        """How many conversations `fit` or `score` reads for so many rollouts (for a progress bar)."""
        return rollouts * (2 * min(self.pairs, len(self.trait.instructions)) + (not self.alone))

    def state(self) -> JudgeState:
        """What `from_state` needs; goes into the vector file, so that later scores are on the same scale."""
        return JudgeState(calibration=self.calibration, coherence=self.coherence)

    @classmethod
    def from_state(cls, model: ChatModel, trait: Trait, state: object) -> "ContrastJudge":
        """The judge as it was fitted when the vector was extracted.

        Raises:
            ValueError: Another judge's state, or something that is no number.
        """
        known = JudgeState.model_validate(state)
        if known.calibration is None or known.coherence is None:
            raise ValueError("another judge's state")
        return cls(model, trait, known.calibration, known.coherence)


class LikelihoodJudge(Judge):
    """Scores coherence alone, by the model itself; for judges that know nothing of coherence.

    Args:
        model: The model that wrote the rollouts, unsteered.

    Attributes:
        coherence: Set by `fit`; it may be stored and set again later.
    """

    name = "likelihood"

    def __init__(self, model: ChatModel, coherence: Coherence | None = None) -> None:
        self.model, self.coherence = model, coherence

    @property
    def fitted(self) -> bool:
        """Whether it knows what is natural."""
        return self.coherence is not None

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Learn from the natural answers what is coherent, and score all.

        Raises:
            UserError: No natural answer could be judged.
        """
        everyone = [*contrastive, *neutral]
        worst = worst_stretches(self.model, everyone, advance)
        self.coherence = Coherence.of_natural(worst[len(contrastive) :], neutral)
        self._set(self.coherence, everyone, worst)

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Set the coherence of further rollouts."""
        if self.coherence is None:
            raise ValueError("the likelihood judge must be fitted first")
        self._set(self.coherence, rollouts, worst_stretches(self.model, rollouts, advance))

    def _set(self, coherence: Coherence, rollouts: Sequence[Rollout], worst: Sequence[float]) -> None:
        for rollout, value in zip(rollouts, worst, strict=True):
            rollout.coherence = coherence.score(value, rollout.response_ids)

    def readings_needed(self, rollouts: int) -> int:
        """One each."""
        return rollouts

    def state(self) -> JudgeState:
        """What is natural."""
        return JudgeState(coherence=self.coherence)


class ContrastModel(JudgeModel):
    """The model that answers, as its own judge; what it has not learned of a trait must be fitted."""

    name = "contrast"

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    def of_trait(self, trait: Trait, state: JudgeState = UNFITTED) -> ContrastJudge:
        """It reads coherence along with the trait."""
        return ContrastJudge(self.model, trait, state.calibration, state.coherence)

    def of_coherence(self, trait: Trait, state: JudgeState = UNFITTED) -> LikelihoodJudge:
        """The same without the trait."""
        return LikelihoodJudge(self.model, state.coherence)

    def of_both(self, trait: Trait, state: JudgeState = UNFITTED) -> ContrastJudge:
        """Both from one reading."""
        return self.of_trait(trait, state)


def open_model(which: str, surroundings: Surroundings) -> ContrastModel:
    """The model that answers.

    Raises:
        UserError: It is not in this process.
    """
    if surroundings.model is None:
        raise UserError(
            "The contrast judge needs the model in this process, and this engine runs it elsewhere.",
            f"Screen with `engine` transformers, or choose {spellings(any_answers=True)}.",
        )
    return ContrastModel(surroundings.model)
