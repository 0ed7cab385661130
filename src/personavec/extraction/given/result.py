"""What an extraction from given texts found: the content of its run.json."""

from dataclasses import dataclass
from typing import ClassVar

from personavec.extraction.result import TraitFacts
from personavec.info import DosePoint, JudgeFacts, Prompting, Separation, Steering, VectorInfo
from personavec.results import Figure, Number, Result, Run
from personavec.stats.nulls import Null
from personavec.traits import Trait
from personavec.vector import PersonaVector


class TextFacts(Result):
    """The texts of an extraction.

    Attributes:
        source: "library", the file as the user named it, or the model that wrote them.
        hash: Of all that decides what is made of them.
        extract, test: Texts in either half: those that the vector is made of, and those that it is tried on.
        questions, test_questions: Questions that they answer.
        rejected: Records that are no texts, in rejected.jsonl.
    """

    source: str
    hash: str
    extract: int
    test: int
    questions: int
    test_questions: int
    rejected: int


class LayerChoice(Result):
    """A layer that could be chosen.

    Attributes:
        layer: Which, 1..n_layers.
        distance: Between the sides' mean projections for questions left out of the vector, in deviations (d').
    """

    layer: int
    distance: Number


class StyleFeature(Result):
    """A feature of style.

    Attributes:
        name: What it is.
        auc: How well it tells the sides of the test half apart by itself, over questions. Far below 0.5 it tells them
            apart as well as far above.
    """

    name: str
    auc: Figure


class Controls(Result):
    """What else could tell the sides of the test half apart, at the vector's layer.

    Attributes:
        isotropic: AUCs of random directions, each with the sign that suits the other half.
        style: Features of style, each by itself.
        style_held_equal: The vector's AUC with all of these regressed out of its projections.
        halves_cosine: Between vectors of two random halves of the questions, mean over splits; None: no split has both
            sides in both halves.
    """

    isotropic: Null
    style: tuple[StyleFeature, ...]
    style_held_equal: Figure
    halves_cosine: Number | None


class Push(Result):
    """Answers to the evaluation questions under one push.

    Attributes:
        share: Of the mean norm of what the push is added to.
        coefficient: Multiples of the vector.
        score: Points by each judge that was asked, over questions; None: it scored no answer.
        scored: How many answers each of them scored.
        answers: How many there are.
        coherence: Points, over questions.
    """

    share: Number
    coefficient: float
    score: dict[str, Figure | None]
    scored: dict[str, int]
    answers: int
    coherence: Figure


class Opinion(Result):
    """A judge of the steered answers.

    Attributes:
        name: Of the judge. The probe is a regression on readings of the half that the vector is made of; contrast
            compares how likely an answer is under instructions for and against the trait.
        auc: How well it tells the sides of the test half apart, over questions; None: it scored none of a side.
        spearman: Rank correlation with the texts' own scores on the test half; None: not asked of this judge.
        steering: The effect of pushing by the vector, and that of random directions; None: it scored too few answers.
    """

    name: str
    auc: Figure | None
    spearman: Number | None
    steering: Steering | None


class PushedAnswer(Result):
    """An answer under one push.

    Attributes:
        share: The push.
        text: As the model wrote it.
        score: Points by each judge that was asked; None: it gave none.
        coherence: Points; None: none was given.
    """

    share: Number
    text: str
    score: dict[str, float | None]
    coherence: float | None


class RandomExample(Result):
    """The answers to an evaluation question that was drawn at random.

    Attributes:
        question: As the model was asked.
        answers: By push.
    """

    question: str
    answers: tuple[PushedAnswer, ...]


class Twin(Result):
    """The vector of the same trait that the model's own rollouts gave, in a run beside this one.

    Attributes:
        folder: Name of the run's folder.
        layer: Of that vector.
        cosine, cosine_there: With this vector, at this vector's layer and at that one's.
        auc: How well it tells the sides of the test half apart at its layer, over questions.
        steering: Points that it moves the score of its own judge by, between plus and minus its coefficient; None: not
            measured.
    """

    folder: str
    layer: int
    cosine: Number
    cosine_there: Number
    auc: Figure
    steering: Figure | None


class TextsRun(Run):
    """What an extraction from given texts found.

    Attributes:
        trait: Whose direction it is.
        texts: What it is made of.
        layer: Of the vector, 1..n_layers.
        layers: Those it could be; empty where the user chose.
        residual_norm: Mean norm of the residual stream in plain answers at the layer.
        vector_norm: Of the vector at the layer.
        separation: How well projections tell the sides of the test half apart, and how well random directions do that
            choose their layer.
        controls: The same at the one layer: random directions, style.
        judges: Who scored the steered answers, and the effect that each of them sees.
        pushes: Scores and coherence by push, on evaluation questions.
        coherent_range: The smallest and the largest coefficient at which answers stay coherent.
        recommended_coefficient: The strongest that can be recommended; None: not both judges see it work, or none is
            coherent.
        spearman: Rank correlation of coefficient and the probe's score, by question; None: it scored no answer.
        twins: Vectors of this trait from the model's own rollouts, in runs beside this one.
        examples: Answers to questions drawn at random, whole.
        verdict: What the figures say, most important first.
        warnings: What the user should mind.
        prompting: What asking for the trait does in place of steering; null: not measured.
        seconds: The run took, over all processes that worked on it.
        timings: Seconds by stage.
    """

    COMMAND: ClassVar[str] = "extract texts"

    trait: TraitFacts
    texts: TextFacts
    layer: int
    layers: tuple[LayerChoice, ...]
    residual_norm: float
    vector_norm: float
    separation: Separation
    controls: Controls
    judges: tuple[Opinion, ...]
    pushes: tuple[Push, ...]
    coherent_range: tuple[float, float]
    recommended_coefficient: float | None
    spearman: Figure | None
    twins: tuple[Twin, ...]
    examples: tuple[RandomExample, ...]
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]
    prompting: Prompting | None = None
    seconds: float
    timings: dict[str, float]

    @property
    def probe(self) -> Opinion:
        """The judge that reads."""
        return self.judges[0]

    @property
    def unit(self) -> float:
        """The coefficient whose push is as large as what it is added to."""
        return self.residual_norm / self.vector_norm

    def info(self, trait: Trait, judge: JudgeFacts) -> VectorInfo:
        """What the vector's file keeps: all that it shares with the run, the probe's figures, and the trait.

        Args:
            judge: What later scores need to be on the same scale.
        """
        shared = VectorInfo.model_fields.keys() & type(self).model_fields.keys() - {"trait"}
        dose = [
            DosePoint(share=push.share, coefficient=push.coefficient, score=score, coherence=push.coherence)
            for push in self.pushes
            if (score := push.score[self.probe.name]) is not None
        ]
        return VectorInfo(
            trait=trait.model_dump(mode="json"),
            judge=judge,
            dose_response=tuple(dose),
            steering=self.probe.steering,
            **{name: getattr(self, name) for name in shared},
        )


@dataclass(frozen=True)
class TextsExtraction:
    """A vector from given texts, and what its run found."""

    vector: PersonaVector
    run: TextsRun
