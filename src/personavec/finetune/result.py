"""What a fine-tune did to the character, what it learned and what it cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from personavec.capability.result import Perplexity, TaskChanges
from personavec.results import Figure, Number, Result, Run
from personavec.shifts.result import SystemPrompt, SystemShift, TraitShift
from personavec.stats.estimate import Estimate


class Change(Result):
    """A figure before and after training: points of 100, or nats per token.

    Attributes:
        before, after: Each of what has it.
        change: Of what has both.
    """

    before: Figure
    after: Figure
    change: Figure


class TrainingPrompt(SystemPrompt):
    """A system prompt like those of the training; a trait may hide behind one.

    Attributes:
        origin: "prevention" is a preventative prompt, "data" the system prompt that most samples have.
        samples: How many have it.
    """

    origin: Literal["prevention", "data"]
    samples: int

    @property
    def title(self) -> str:
        """What pages call it."""
        return {"data": "the data's system prompt", "prevention": "the preventative prompt"}[self.origin]


class SystemChange(SystemShift):
    """What became of a trait under one system prompt.

    Attributes:
        score: Trait score of the answers under it, over questions; None: not known before and after.
    """

    score: Change | None


class TraitChange(TraitShift):
    """What became of a trait.

    Attributes:
        systems: The same under system prompts of the training.
        score, coherence: Of the answers to the trait's evaluation questions, over questions; None: the vector carries
            no judge.
    """

    systems: tuple[SystemChange, ...]
    score: Change | None
    coherence: Change | None


class WatchPoint(Result):
    """A point at which a coefficient was chosen by the shift that was watched.

    Attributes:
        step: Of the optimiser, after which it was read.
        shift: Along the unit vector, nothing being steered, over the watch prompts.
        coefficient: From this step on.
    """

    step: int
    shift: Figure
    coefficient: Number


class AutomaticCoefficient(Result):
    """A coefficient that followed the shift watched during the training; see `automatic.next_coefficient`.

    Attributes:
        bound: Largest coefficient that it could have.
        points: In order; before the first one the coefficient is 0.
        seconds: It took to read the prompts, in the attempt that finished the training.
    """

    bound: Number
    points: tuple[WatchPoint, ...]
    seconds: Number

    @property
    def acted(self) -> tuple[float, ...]:
        """The coefficient up to each point."""
        return (0.0, *(point.coefficient for point in self.points[:-1]))

    @property
    def mean(self) -> float:
        """Of the coefficient over the steps up to the last point."""
        steps = [0, *(point.step for point in self.points)]
        return sum(c * (end - start) for c, start, end in zip(self.acted, steps, steps[1:], strict=False)) / steps[-1]


class PreventedTrait(Result):
    """A trait that was kept from being learned.

    Attributes:
        trait: Its name.
        layer: Of its vector.
        coefficient: As given; of auto the mean over the steps; None: the method takes none.
        auto: How it was chosen; None: it was given.
    """

    trait: str
    layer: int
    coefficient: float | None
    auto: AutomaticCoefficient | None


class StreamPrevention(Result):
    """All that a prevention does to the stream: the same for two that do the same.

    Attributes:
        method: Its name.
        traits: Coefficient, by trait; "auto": it followed the shift.
        layers: Where it acts.
        positions: Which tokens are edited.
        directions: A short hash; that of coefficient 1 where it is auto.
    """

    method: str
    traits: dict[str, float | Literal["auto"]]
    layers: tuple[int, ...]
    positions: str
    directions: str


class LossPoint(Result):
    """Training loss at one step.

    Attributes:
        step: Of the optimiser.
        loss: In nats per token, under the prevention.
    """

    step: int
    loss: float


class ShiftPoint(Result):
    """The shift while it trained, without any prevention.

    Attributes:
        step: Of the optimiser, after which it was measured.
        shift: Along the unit vector, by trait.
    """

    step: int
    shift: dict[str, float]


class TrainingLoss(Result):
    """Of the training, in nats per token, under the prevention.

    Attributes:
        first, last: Means of so many steps at either end.
        window: How many.
        curve: Every step.
    """

    first: float
    last: float
    window: int
    curve: tuple[LossPoint, ...]


class ScoredAnswer(Result):
    """An answer.

    Attributes:
        text: What was said.
        score, coherence: Points of 100; None: it could not be scored.
    """

    text: str
    score: float | None
    coherence: float | None


class AnswerPair(Result):
    """A question with the answer before and the one after; a line of answers.jsonl.

    Attributes:
        trait: That it is to show.
        system: The system prompt; None: without one.
        question: One of the trait's evaluation questions.
        before, after: Training.
    """

    trait: str
    system: str | None
    question: str
    before: ScoredAnswer
    after: ScoredAnswer

    @property
    def change(self) -> float | None:
        """Of the score."""
        before, after = self.before.score, self.after.score
        return None if before is None or after is None else after - before


class AnswerExample(AnswerPair):
    """A pair that the page shows.

    Attributes:
        why: It was chosen.
    """

    why: str


class BothRuns(Result):
    """A figure of two runs.

    Attributes:
        without: Of that without prevention.
        with_: Of that with it ("with" in the file).
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    without: Figure
    with_: Figure = Field(validation_alias="with", serialization_alias="with")


class TraitSaving(BothRuns):
    """What prevention saved of a trait.

    Attributes:
        without, with_: Change of the score by training, in points.
        saved: Score after training without prevention minus that with it, over questions.
        share: Of the rise, in percent; None: there was no rise, or too few questions.
        shift_without, shift_with: The shift of both runs.
    """

    saved: Figure
    share: Figure | None
    shift_without: Figure
    shift_with: Figure


class Savings(Result):
    """A run with prevention beside one without.

    Attributes:
        run: Folder of the one without.
        traits: By trait.
        loss: Of held-out samples after training, in nats per token.
        perplexity: What training multiplied that of general text by.
        coherence: Its change by training, in points. Each is None if a run has none.
    """

    run: str
    traits: dict[str, TraitSaving]
    loss: BothRuns | None
    perplexity: BothRuns | None
    coherence: BothRuns | None


class CharacterChange(Result):
    """The character before and after, as far as it was measured.

    Attributes:
        traits: By trait; empty if nothing was measured.
        coherence: Of all answers without a system prompt, over questions; None: there were none.
        perplexity: Of general text; None: not measured.
        lm_eval: Tasks of lm-evaluation-harness; None: none were named.
    """

    traits: dict[str, TraitChange] = Field(default_factory=dict)
    coherence: Change | None = None
    perplexity: Perplexity | None = None
    lm_eval: TaskChanges | None = None


class Counts(Result):
    """Records of the data.

    Attributes:
        records, trained, held_out, rejected: All of them ("read" in the file), and what became of them.
        cut: Samples that lost their end, for they are longer than the longest sequence.
        reasons: The most frequent reasons of rejection, with their number.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    records: int = Field(validation_alias="read", serialization_alias="read")
    trained: int
    held_out: int
    rejected: int
    cut: int
    reasons: dict[str, int]


class FinetuneRun(CharacterChange, Counts, Run):
    """What `personavec finetune` finds; see also `CharacterChange` and `Counts`.

    Attributes:
        method: How traits were kept from being learned.
        prevented: Which.
        prevention: What it did to the stream; None: nothing.
        data: Names of the sources.
        format: That the data were recognised as.
        safe, safe_rejected: Safe samples mixed in, and safe records rejected; None: none were to be.
        steps: Of the optimiser.
        tokens, tokens_with_loss: That were trained on.
        loss: Of the training.
        held_out_loss: In nats per token, without any prevention, over samples; None: none were held out.
        shift: While it trained.
        measured: Whether the character was.
        projection_differences: Of the data before training, along each vector, over samples, by trait.
        systems: System prompts under which was measured too.
        answers: Some with the question, before and after.
        seconds: Of the run that finished it.
        training_seconds: Of the training alone.
        peak_memory_bytes: Of the GPU in training, or of the process.
        warnings, verdict: Sentences.
        against: Beside a run without prevention; None: none was named.
    """

    COMMAND: ClassVar[str] = "finetune"

    method: str
    prevented: tuple[PreventedTrait, ...]
    prevention: StreamPrevention | None
    data: str
    format: str
    safe: int | None = None
    safe_rejected: int | None = None
    steps: int
    tokens: int
    tokens_with_loss: int
    loss: TrainingLoss
    held_out_loss: Change | None
    shift: tuple[ShiftPoint, ...]
    measured: bool
    projection_differences: dict[str, Figure]
    systems: tuple[TrainingPrompt, ...]
    answers: tuple[AnswerExample, ...]
    seconds: float
    training_seconds: float
    peak_memory_bytes: int
    warnings: tuple[str, ...]
    verdict: tuple[str, ...] = ()
    against: Savings | None = None


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tune.

    Attributes:
        adapter: Folder of the adapter, in PEFT's format: `load_model(name, adapter=tuned.adapter)`.
        run: All that was found.
    """

    adapter: Path
    run: FinetuneRun

    @property
    def coefficients(self) -> dict[str, float | None]:
        """Of each prevented trait, chosen or given; None where the method takes none."""
        return {prevented.trait: prevented.coefficient for prevented in self.run.prevented}

    @property
    def train_loss(self) -> float:
        """Mean of the last ten steps (of the last half if there were fewer than twenty), under the prevention."""
        return self.run.loss.last

    @property
    def held_out_before(self) -> Estimate | None:
        """Loss on samples that are not trained on, in nats per token; None if none were held out."""
        return None if self.run.held_out_loss is None else self.run.held_out_loss.before

    @property
    def held_out_after(self) -> Estimate | None:
        """The same after training, without any prevention."""
        return None if self.run.held_out_loss is None else self.run.held_out_loss.after

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return self.run.steps

    @property
    def seconds(self) -> float:
        """Of the run that finished it."""
        return self.run.seconds
