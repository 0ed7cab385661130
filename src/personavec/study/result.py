"""What many small fine-tunes did to the character, and what prevention saved."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from personavec.finetune.result import Change
from personavec.results import Figure, Number, Result, Run
from personavec.shifts.result import RandomPlace
from personavec.stats.estimate import Estimate


@dataclass(frozen=True)
class FamilyEstimate(Estimate):
    """Over `runs` fine-tunes, with an interval from drawing their n families of data."""

    runs: int

    def rounded(self) -> "FamilyEstimate":
        """To four digits after the point, as files hold it."""
        return FamilyEstimate(round(self.mean, 4), round(self.low, 4), round(self.high, 4), self.n, self.runs)


FamilyFigure = Annotated[FamilyEstimate, AfterValidator(FamilyEstimate.rounded)]


class OtherScores(Result):
    """What one judge makes of one model's answers to the evaluation questions of one trait, in points (0..100).

    Attributes:
        score: Over questions; None: it scored no answer.
        by_question: The score of each; None where there is none.
    """

    score: Figure | None
    by_question: tuple[float | None, ...]


class AnswerScores(OtherScores):
    """What the first judge and others make of one model's answers to the evaluation questions of one trait.

    Attributes:
        coherence: Points (0..100) of all answers, refusals included, over questions.
        others: Of further judges, by name.
    """

    coherence: Figure
    others: dict[str, OtherScores] = Field(default_factory=dict)


class BaseScores(Result):
    """Of the model as it came.

    Attributes:
        plain: Without a system prompt.
        instructed: Under the trait's first positive instruction.
    """

    plain: AnswerScores
    instructed: AnswerScores


class WithinFamilies(Result):
    """Pearson's r of figures minus those of the normal level of the same family, over the other levels.

    Attributes:
        r: With the vector itself.
        random: Its place among random directions.
    """

    r: FamilyFigure
    random: RandomPlace


class Correlation(Result):
    """Pearson's r over fine-tunes, beside what else reaches it; see `figures.correlations`.

    Attributes:
        r: With the vector itself.
        random: Its place among random directions.
        others: With other traits' vectors in its place, by trait.
        length: With the mere length of the change; None: the shift is not the predictor.
        coherence: Of the answers' coherence with their score; None: the score is not the outcome.
        within: The same within families, which r alone may only tell apart; None: fewer than three fine-tunes have a
            normal level beside them.
    """

    r: FamilyFigure
    random: RandomPlace
    others: dict[str, Number]
    length: Number | None
    coherence: FamilyFigure | None
    within: WithinFamilies | None


class SuiteScores(AnswerScores):
    """After a fine-tune without prevention.

    Attributes:
        change: Of the score, of the questions that have one before and after.
        instructed, instructed_change: The same under the trait's first positive instruction. Each is None where too few
            answers have a score, or it was not asked so.
    """

    change: Figure | None
    instructed: Figure | None
    instructed_change: Figure | None


class LossEnds(Result):
    """Mean training loss.

    Attributes:
        first, last: Of the steps at either end, in nats per token.
    """

    first: float
    last: float


class SuiteRow(Result):
    """A fine-tune without prevention.

    Attributes:
        name: Of its data.
        family: Of the data.
        level: How strongly they show it; None: they were given.
        trained: Samples.
        steps: Of the optimiser.
        loss: Of the training.
        held_out_loss: In nats per token, over samples.
        difference: Projection difference of the data before training, over samples, by trait.
        shift: Over questions, by trait.
        scores: By trait.
    """

    name: str
    family: str
    level: str | None
    trained: int
    steps: int
    loss: LossEnds
    held_out_loss: Change | None
    difference: dict[str, Figure]
    shift: dict[str, Figure]
    scores: dict[str, SuiteScores]


class TrainingCost(Result):
    """What a way to train costs, beside training without prevention.

    Attributes:
        task_loss: On unseen samples of the task, in nats per token.
        task_change: How much more that is, in percent.
        task_learned: How much is learned of what is learned without prevention, in percent; None: nothing is.
        perplexity_change: How much more the perplexity of general text is, in percent, over passages.
    """

    task_loss: Figure
    task_change: Figure
    task_learned: Figure | None
    perplexity_change: Figure


class PreventionBase(BaseScores, TrainingCost):
    """The model as it came, beside the fine-tune without prevention."""


class HalfOutcome(Result):
    """Of every other question and sample.

    Attributes:
        prevented: Share of the score's rise, in percent; None: there is none.
        task_change: How much more the loss on the task is, in percent.
    """

    prevented: Figure | None
    task_change: Figure


class Arm(AnswerScores, TrainingCost):
    """One way to train, or to steer at inference.

    Attributes:
        arm: Its name.
        kind: A method; "random" is steering along a random vector, "inference" steering of the unprotected fine-tune.
        coefficient: Chosen or given; None: it takes none.
        prevented: Share of the score's rise, in percent; None: there is none.
        halves: By the first a way is chosen, by the second it is judged.
        instructed: Score under the trait's first positive instruction.
        shift: Over questions.
        held_out_loss: In nats per token, over samples.
        seconds: Of the training. These four are None at inference.
    """

    arm: str
    kind: str
    coefficient: float | None
    prevented: Figure | None
    halves: tuple[HalfOutcome, HalfOutcome]
    instructed: Figure | None = None
    shift: Figure | None = None
    held_out_loss: Figure | None = None
    seconds: float | None = None


class TraitPrevention(Result):
    """Every way to keep one trait from being learned.

    Attributes:
        data: Name of the data.
        vector_norm: Length of the trait's vector at its layer.
        base: The model as it came.
        arms: The ways, that without prevention first.
    """

    data: str
    vector_norm: Number
    base: PreventionBase
    arms: tuple[Arm, ...]

    @property
    def plain(self) -> Arm:
        """Training without prevention."""
        return next(arm for arm in self.arms if arm.kind == "none")


class StudyRun(Run):
    """What `personavec study finetune` finds.

    Attributes:
        layers: Of the vectors, by trait.
        judges: Names of those of the answers, the first one first, by trait.
        base: The model as it came, by trait.
        suite: The fine-tunes without prevention.
        correlations: Over these, by trait and pair of figures; see `figures.correlations`.
        prevention: By trait.
        seconds: The study took, over all processes that worked on it.
        timings: Seconds by part.
        verdict: Sentences.
    """

    COMMAND: ClassVar[str] = "study finetune"

    layers: dict[str, int]
    judges: dict[str, tuple[str, ...]]
    base: dict[str, BaseScores]
    suite: tuple[SuiteRow, ...]
    correlations: dict[str, dict[str, Correlation]]
    prevention: dict[str, TraitPrevention]
    seconds: float
    timings: dict[str, float]
    verdict: tuple[str, ...] = ()
