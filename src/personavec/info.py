"""What is known of a vector: what its extraction measured, as run.json and the vector's file hold it."""

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from personavec.results import Figure, Machine, Number, Result
from personavec.stats.nulls import Null


class RolloutCounts(Result):
    """What became of the rollouts.

    Attributes:
        generated: Of all stages.
        extraction: For the direction.
        kept, kept_pairs: Of those, what passed the filter and made the direction: rollouts, and pairs of them.
        reasons: How many pairs were left out, by reason.
    """

    generated: int
    extraction: int
    kept: int
    kept_pairs: int
    reasons: dict[str, int]


class JudgeFacts(Result):
    """The judge of an extraction.

    Attributes:
        name: As the user named it.
        auc: How well it tells the sides apart on unseen questions and an unseen instruction, over questions.
        threshold: Points; positives above and negatives below it were kept.
        state: What it was calibrated to, so that later scores are on the same scale; empty for a judge without.
    """

    name: str
    auc: Figure
    threshold: float
    state: dict[str, dict[str, float]]


class Elicitation(Result):
    """Whether answers that were told to show the trait show it, to a judge that never saw an instruction.

    Attributes:
        judge: Its name; null: there is none, and all else is null or 0.
        why: Why there is none; null: there is one.
        told: Share of the answers told to show the trait that it scores above 50, over questions; those without a score
            count as below.
        told_not: The same of those told the opposite.
        difference: Of the two shares, by question.
        auc: How well its scores tell the two sides apart, over questions; null: it scored none of a side.
        answers, scored: How many there are of both sides, and how many of them it scored.
    """

    judge: str | None
    why: str | None
    told: Figure | None
    told_not: Figure | None
    difference: Figure | None
    auc: Figure | None
    answers: int
    scored: int


class SteeredPoint(Result):
    """Answers under one steering.

    Attributes:
        coefficient: Multiples of the vector.
        score, coherence: Points, over questions. Coherence counts every answer, the score those that have one.
    """

    coefficient: float
    score: Figure
    coherence: Figure


class SweepPoint(SteeredPoint):
    """Answers under steering at one of the candidate layers.

    Attributes:
        layer: Which, 1..n_layers.
    """

    layer: int


class DosePoint(SteeredPoint):
    """Answers under steering at the vector's layer.

    Attributes:
        share: The push as a share of the mean norm of what it is added to.
    """

    share: Number


class SteeringNull(Result):
    """Effects of random directions of the vector's norm, each at the layer it chose, on a few evaluation questions.

    Attributes:
        effects: Points, of each direction that left a question to score.
        layers: Of each direction.
        p: (1 + how many are as strong as the vector on the same questions) / (1 + how many there are).
        mean, p95, max, n: Of the effects' absolute values.
    """

    effects: tuple[float, ...]
    layers: tuple[int, ...]
    p: Number
    mean: float
    p95: float
    max: float
    n: int


class Prompting(Result):
    """Answers to the evaluation questions with the trait asked for in the system prompt, without steering.

    Attributes:
        instruction: The system prompt, one of the trait's own.
        score: Points by each judge, over questions; null: it scored no answer.
        scored: How many answers each of them scored.
        answers: How many there are.
        coherence: Points, over questions.
        coefficient: Of the steering that it is held against, in multiples of the vector.
        steered_coherence: Points under that steering, over questions: answers that fall apart are no rival.
        more: By judge, points with the prompt minus points under that steering, by question; null: none has both.
    """

    instruction: str
    score: dict[str, Figure | None]
    scored: dict[str, int]
    answers: int
    coherence: Figure
    coefficient: float
    steered_coherence: Figure
    more: dict[str, Figure | None]


class StyleChange(Result):
    """How a feature of style differs between two sets of answers.

    Attributes:
        name: Of the feature.
        change: Of its mean, by question.
    """

    name: str
    change: Figure


class StyleHeld(Result):
    """An effect on the score, and what remains of it with the style of the answers held equal.

    Attributes:
        effect: Points: score of one set of answers minus that of another, by question.
        remains: The same with all features of style held equal; null: it cannot be told.
        changes: How each of them differs between the two.
    """

    effect: Figure
    remains: Figure | None
    changes: tuple[StyleChange, ...]


class Steering(Result):
    """What steering does to the score, and what chance does.

    Attributes:
        effect: Points: score at plus `coefficient` minus score at minus `coefficient`, by question.
        effect_on_null_questions: Its mean on the questions that random directions were tried on.
        coefficient: Multiples of the vector.
        null: Of random directions.
        style: The effect with style held equal; null: not measured.
        from_plain: The same of plus `coefficient` against no steering; null: not measured.
    """

    effect: Figure
    effect_on_null_questions: float
    coefficient: float
    null: SteeringNull
    style: StyleHeld | None = None
    from_plain: StyleHeld | None = None


class SeparationNull(Result):
    """AUCs of random directions with their own choice of layer.

    Attributes:
        isotropic: Drawn any way.
        shuffled: Made as the vector is, of answers whose sides were shuffled within each question.
    """

    isotropic: Null
    shuffled: Null


class Separation(Result):
    """How well projections tell unseen answers of the two sides apart.

    Attributes:
        auc: At the vector's layer, over questions.
        by_layer: AUC at layers 1, 2, ...
        null: Of random directions.
    """

    auc: Figure
    by_layer: tuple[Number, ...]
    null: SeparationNull


class Part(Result):
    """One of the vectors that a sum is made of.

    Attributes:
        trait, layer: Its own.
        directions: Short hash of its directions, as `personavec vectors show` prints it.
        coefficient: What it was multiplied by.
    """

    trait: str
    layer: int
    directions: str
    coefficient: float


class SpecificFacts(Result):
    """What was taken out of a vector, so that it means its trait and less else.

    Attributes:
        kind: "span": what lies in the span of other traits, length and refusing. "domains": that of clean domains too,
            or what does not tell the trait's texts from all that is known.
        made_of: "vector": the vector, less that span. "texts": the trait's texts against all that is known; the vector
            gave no more than its length.
        original: Short hash of the directions that it was made from.
        domains, traits, common: What was taken out, or told from: clean domains, other traits, and what all answers
            share.
        kept: At the vector's layer, the cosine with the original; the share of its norm that is left as well, since
            the vector is the original's projection on what was made.
        kept_by_layer: The same at layers 1, 2, ...; 0 where nothing is left, and the row is 0.
    """

    kind: Literal["span", "domains"]
    made_of: Literal["vector", "texts"]
    original: str
    domains: tuple[str, ...]
    traits: tuple[str, ...]
    common: tuple[str, ...]
    kept: Number
    kept_by_layer: tuple[Number, ...]


class VectorInfo(Result):
    """What the file of a vector knows of it. None: not measured, or written in a form that this version does not read.

    Attributes:
        personavec, arguments, versions, machine, written: Of the extraction, as in `Provenance`.
        trait: The texts it was extracted with, as JSON; `traits.of_vector.trait_of` reads them.
        rollouts, judge, elicitation, dose_response, layer_sweep, steering, prompting, separation: See their classes.
        coherent_range: The smallest and the largest coefficient at which answers stay coherent.
        recommended_coefficient: The strongest that can be recommended; None also where none can.
        spearman: Rank correlation of coefficient and score, by question.
        cross_effects: As `steering.effect`, on the scores of other traits by their names.
        seconds: The extraction took.
        parts: Of a sum of vectors, those that it is made of.
        specific: What was taken out of it.
    """

    personavec: str | None = None
    arguments: dict[str, JsonValue] | None = None
    versions: dict[str, str] | None = None
    machine: Machine | None = None
    written: str | None = None
    trait: dict[str, JsonValue] | None = None
    rollouts: RolloutCounts | None = None
    judge: JudgeFacts | None = None
    elicitation: Elicitation | None = None
    dose_response: tuple[DosePoint, ...] | None = None
    layer_sweep: tuple[SweepPoint, ...] | None = None
    coherent_range: tuple[float, float] | None = None
    recommended_coefficient: float | None = None
    spearman: Figure | None = None
    steering: Steering | None = None
    prompting: Prompting | None = None
    separation: Separation | None = None
    cross_effects: dict[str, Figure] | None = None
    seconds: float | None = None
    parts: tuple[Part, ...] | None = None
    specific: SpecificFacts | None = None

    def as_stored(self) -> dict[str, JsonValue]:
        """As JSON values, without what is not known."""
        stored: dict[str, JsonValue] = self.model_dump(mode="json", exclude_unset=True)
        return stored

    @classmethod
    def parse(cls, stored: Mapping[str, JsonValue]) -> "VectorInfo":
        """From the header of a vector's file, whoever wrote it: a part that cannot be read counts as absent."""
        parts: dict[str, object] = {}
        for name in cls.model_fields.keys() & stored.keys():
            try:
                part = cls.model_validate({name: stored[name]})
                json.dumps(part.as_stored(), allow_nan=False)
            except ValueError:  # another form, or a figure that is no number
                continue
            parts[name] = getattr(part, name)
        return cls.model_validate(parts)
