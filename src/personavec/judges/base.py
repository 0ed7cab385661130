"""What every judge is: a model that is opened once for a run, and from it a judge for each trait."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from personavec.errors import UserError
from personavec.judges.calibration import Calibration
from personavec.judges.coherence import Coherence
from personavec.rollouts import Rollout
from personavec.traits import Trait

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4  # roughly, for the estimate of what judging costs

Advance = Callable[[int], None]


class JudgeState(BaseModel):
    """What a judge has learned of a trait and a model. It is stored with a vector: later scores are on its scale.

    Attributes:
        calibration: From evidence to a score; None for a judge that scores by itself.
        coherence: What is natural for the model; None for a judge that reads coherence off the text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: Calibration | None = None
    coherence: Coherence | None = None

    def record(self) -> dict[str, dict[str, float]]:
        """As a JSON object, without what is not there."""
        return self.model_dump(exclude_none=True)


UNFITTED = JudgeState()


@dataclass(frozen=True)
class Cost:
    """What it takes, at most, to ask a model that somebody else runs.

    Attributes:
        model, where: Who is asked.
        requests: How many.
        characters: Of the prompts, as far as they are known.
        prompt_tokens_more: Tokens of the prompts besides.
        answer_tokens: Of all replies.
        price: US$ of a million prompt tokens and of a million answer tokens; None: not known.
        role: What the model is to the user.
    """

    model: str
    where: str
    requests: int
    characters: int
    prompt_tokens_more: int
    answer_tokens: int
    price: tuple[float, float] | None = None
    role: str = "Judge"

    def __add__(self, other: "Cost") -> "Cost":
        return replace(
            self,
            requests=self.requests + other.requests,
            characters=self.characters + other.characters,
            prompt_tokens_more=self.prompt_tokens_more + other.prompt_tokens_more,
            answer_tokens=self.answer_tokens + other.answer_tokens,
        )

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, roughly."""
        return self.characters // CHARACTERS_PER_TOKEN + self.prompt_tokens_more

    def __str__(self) -> str:
        money = "price not known"
        if self.price is not None:
            cents = math.ceil((self.prompt_tokens * self.price[0] + self.answer_tokens * self.price[1]) / 1e4)
            money = f"${cents / 100:,.2f}"
        return (
            f"{self.role} {self.model} at {self.where}: at most {self.requests:,} requests, about "
            f"{self.prompt_tokens:,} prompt tokens and {self.answer_tokens:,} answer tokens, {money}. "
            "Answers that are in the cache are not asked for again."
        )


def announce(costs: Iterable[Cost | None]) -> None:
    """Say in one line what asking will cost, if it costs anything; before anything is asked."""
    known = [cost for cost in costs if cost is not None]
    total = sum(known[1:], known[0]) if known else None
    if total is not None and total.requests:
        log.warning("%s", total)


class Judge(ABC):
    """Scores rollouts for a trait: it sets their `score`, their `coherence`, or both (0..100, or None).

    Attributes:
        name: As the user names it.
        instructed: Whether it compares instructions for and against the trait: then it may recognise an answer as told
            to show the trait though nothing of the trait is in it.
    """

    name: str
    instructed: bool = False

    @abstractmethod
    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score these.

        Raises:
            UserError: The model behind the judge fails.
        """

    @property
    def fitted(self) -> bool:
        """Whether it can score without having seen both sides of the trait; if not, `fit` comes first."""
        return True

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score rollouts of both sides and natural answers; a judge that needs calibration takes it from them."""
        self.score([*contrastive, *neutral], advance)

    def readings_needed(self, rollouts: int) -> int:
        """How many units `advance` will count for so many rollouts."""
        return rollouts

    def cost(self, asked: Sequence[str], tokens: int) -> Cost | None:
        """What scoring will cost; None where it costs nothing.

        Args:
            asked: One text for each answer: its question, and as much of the answer as is known.
            tokens: Of the longest answer, as far as its text is not known.
        """
        return None

    def state(self) -> JudgeState:
        """What is stored with the vector."""
        return UNFITTED


class TwoJudges(Judge):
    """One judge for the trait, and another one for coherence."""

    def __init__(self, trait: Judge, coherence: Judge) -> None:
        self.name, self.trait, self.coherence = trait.name, trait, coherence
        self.instructed = trait.instructed

    @property
    def fitted(self) -> bool:
        """Whether both are."""
        return self.trait.fitted and self.coherence.fitted

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Fit both, and let both score."""
        self.trait.fit(contrastive, neutral, advance)
        self.coherence.fit(contrastive, neutral, advance)

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score for the trait, then for coherence."""
        self.trait.score(rollouts, advance)
        self.coherence.score(rollouts, advance)

    def readings_needed(self, rollouts: int) -> int:
        """Those of both."""
        return self.trait.readings_needed(rollouts) + self.coherence.readings_needed(rollouts)

    def cost(self, asked: Sequence[str], tokens: int) -> Cost | None:
        """That of both."""
        costs = [cost for judge in (self.trait, self.coherence) if (cost := judge.cost(asked, tokens)) is not None]
        return sum(costs[1:], costs[0]) if costs else None

    def state(self) -> JudgeState:
        """What either has learned."""
        mine, other = self.trait.state(), self.coherence.state()
        return JudgeState(
            calibration=mine.calibration or other.calibration, coherence=mine.coherence or other.coherence
        )


class JudgeModel(ABC):
    """The model behind the judges of a run, whatever their traits. It is opened once, by `kinds.open_judge`.

    Attributes:
        name: As the user names it.
    """

    name: str

    @abstractmethod
    def of_trait(self, trait: Trait, state: JudgeState = UNFITTED) -> Judge:
        """A judge that scores for a trait; coherence may come along where it costs nothing.

        Args:
            state: What a judge has learned of this trait before.
        """

    @abstractmethod
    def of_coherence(self, trait: Trait, state: JudgeState = UNFITTED) -> Judge | None:
        """A judge of the coherence of answers that may show the trait; None where this model cannot judge it."""

    def of_both(self, trait: Trait, state: JudgeState = UNFITTED) -> Judge:
        """A judge that sets both figures of an answer.

        Raises:
            UserError: The model cannot judge coherence.
        """
        coherence = self.of_coherence(trait, state)
        if coherence is None:
            raise UserError(f"{self.name} cannot judge coherence here.", "Choose another judge.")
        return TwoJudges(self.of_trait(trait, state), coherence)
