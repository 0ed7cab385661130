"""What an extraction found: the content of its run.json."""

from dataclasses import dataclass
from typing import ClassVar

from personavec.info import (
    DosePoint,
    Elicitation,
    JudgeFacts,
    Prompting,
    RolloutCounts,
    Separation,
    Steering,
    SweepPoint,
    VectorInfo,
)
from personavec.results import Figure, Number, Result, Run
from personavec.traits import Trait
from personavec.vector import PersonaVector


class TraitFacts(Result):
    """The trait of an extraction.

    Attributes:
        name, description: As in `Trait`.
        writer: Who wrote its texts, as in `Trait`.
    """

    name: str
    description: str
    writer: str


class Answer(Result):
    """An answer under one coefficient.

    Attributes:
        coefficient: Multiples of the vector; 0: not steered.
        text: As the model wrote it.
        score, coherence: Points, 0..100; None: the judge gave none.
    """

    coefficient: float
    text: str
    score: float | None
    coherence: float | None


class Example(Result):
    """Answers to one evaluation question side by side.

    Attributes:
        question: As the model was asked.
        answers: By coefficient.
    """

    question: str
    answers: tuple[Answer, ...]


class RolloutScore(Result):
    """What the judge made of one extraction rollout.

    Attributes:
        score, coherence: Points, 0..100; None: the judge gave none.
        kept: Whether it went into the direction.
    """

    score: float | None
    coherence: float | None
    kept: bool


class SideScores(Result):
    """What the judge made of the extraction rollouts.

    Attributes:
        positive: Of those that were told to show the trait.
        negative: Of those that were told the opposite.
    """

    positive: tuple[RolloutScore, ...]
    negative: tuple[RolloutScore, ...]


class Projections(Result):
    """Projections of single answers on the vector at its layer, in units of the residual stream.

    Attributes:
        positive: Of those to unseen questions that were told to show the trait.
        negative: Of those that were told the opposite.
        neutral: Of those without instruction.
    """

    positive: tuple[Number, ...]
    negative: tuple[Number, ...]
    neutral: tuple[Number, ...]


class Specificity(Result):
    """A vector beside others of the same model. Rows are vectors; columns are vectors, or the scores of their traits.

    Attributes:
        vectors: Names of the traits; that of the run comes first.
        cosine: Of the row's vector with the column's, at the row's layer.
        effect: Points: what steering by the row's vector does to the column's score, from minus to plus the
            coefficient of its sweep; None: not measured.
    """

    vectors: tuple[str, ...]
    cosine: tuple[tuple[Number, ...], ...]
    effect: tuple[tuple[Figure | None, ...], ...]


class ExtractionRun(Run):
    """What an extraction found.

    Attributes:
        trait: Whose direction it is.
        rollouts: What became of them.
        judge: Who scored them, and how well it tells the sides apart.
        elicitation: Whether the answers that were told to show the trait show it.
        layer: Where the vector works best, 1..n_layers.
        residual_norm: Mean norm of the residual stream in neutral answers at the layer.
        vector_norm: Of the vector at the layer.
        layer_sweep: By layer and coefficient, on extraction questions.
        dose_response: By coefficient, on evaluation questions.
        coherent_range: The smallest and the largest coefficient at which answers stay coherent.
        recommended_coefficient: The strongest that can be recommended; None: none works, or none is coherent.
        spearman: Rank correlation of coefficient and score, by question.
        steering: The effect of steering, and that of random directions.
        examples: Answers side by side.
        projections: Of single answers.
        separation: How well projections tell the sides apart, and how well random directions do.
        scores: What the judge made of the extraction rollouts.
        specificity: The vector beside those of other traits.
        verdict: What the figures say, most important first.
        warnings: What the user should mind.
        prompting: What asking for the trait does in place of steering; null: not measured.
        seconds: The run took, over all processes that worked on it.
        timings: Seconds by stage.
    """

    COMMAND: ClassVar[str] = "extract"
    SCHEMA: ClassVar[int] = 3  # 3: the separation is read without instructions

    trait: TraitFacts
    rollouts: RolloutCounts
    judge: JudgeFacts
    elicitation: Elicitation
    layer: int
    residual_norm: float
    vector_norm: float
    layer_sweep: tuple[SweepPoint, ...]
    dose_response: tuple[DosePoint, ...]
    coherent_range: tuple[float, float]
    recommended_coefficient: float | None
    spearman: Figure
    steering: Steering
    examples: tuple[Example, ...]
    projections: Projections
    separation: Separation
    scores: SideScores
    specificity: Specificity
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]
    prompting: Prompting | None = None
    seconds: float
    timings: dict[str, float]

    def info(self, trait: Trait) -> VectorInfo:
        """What the vector's file keeps of this: all that it shares with the run, and the trait's texts."""
        shared = VectorInfo.model_fields.keys() & type(self).model_fields.keys() - {"trait"}
        return VectorInfo(trait=trait.model_dump(mode="json"), **{name: getattr(self, name) for name in shared})


@dataclass(frozen=True)
class Extraction:
    """An extracted vector, and what its run found."""

    vector: PersonaVector
    run: ExtractionRun
