"""A coefficient for preventative steering, chosen from how far the data push the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from personavec.data import Sample
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.projection.measure import Tokens, measure, own_answers, tokenise
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.screening import Settings
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.sampling import priorities, smallest
from personavec.vector import PersonaVector

SAMPLES = 64
STRENGTH = 4.0  # measured: docs/finetuning-results.md
BATCH = 16  # samples that are answered together


@dataclass(frozen=True)
class Automatic:
    """A coefficient and the projection difference that it was chosen from."""

    coefficient: float
    difference: Estimate


def choose(
    model: ChatModel, samples: Sequence[Sample], vectors: Sequence[PersonaVector], seed: int = 0
) -> list[Automatic]:
    """A coefficient for each vector:

        alpha = max(0, 4 delta / |v_l|)

    delta is the mean over at most 64 samples, drawn at random, of the projection of the data's answers minus that of
    the model's own greedy answers to the same prompts, on the unit vector at the vector's layer l (the projection
    difference, paper section 6.1). Steering adds alpha v_l, which moves the projection by alpha |v_l|: delta / |v_l|
    pushes the stream as far as the data do. Measured, the weights learn along the vector all the same: the shift was
    gone at 2.5 times that in one fine-tune and at 5.7 in another, hence the 4. Data that push the other way get 0.

    Raises:
        UserError: No sample can be answered by the model.
    """
    panel = Panel.of(vectors)
    engine = TransformersEngine(model)
    own = OwnAnswers(engine, Settings.suited(model.device.type).max_new_tokens)
    drawn = [samples[at] for at in smallest(priorities([s.id for s in samples], seed), SAMPLES)]
    rows = []
    for both in beside_own(engine, drawn, own, "Beside the model's own answers"):
        kept = [sample for sample, _, _ in both]
        sides = [theirs for _, theirs, _ in both], [ours for _, _, ours in both]
        first, second = (measure(engine, kept, side, panel).answers for side in sides)
        rows.append(first - second)
    if not rows:
        raise UserError(
            "None of the samples drawn can be compared with an answer of the model itself.",
            "Give the coefficient in `prevent` as a number, such as 3.",
        )
    differences = np.concatenate(rows)
    return [from_difference(vector, differences[:, k].tolist(), seed) for k, vector in enumerate(vectors)]


def from_difference(vector: PersonaVector, differences: Sequence[float], seed: int = 0) -> Automatic:
    """The coefficient that belongs to projection differences of samples; see `choose`."""
    found = bootstrap_mean(differences, seed=seed)
    scale = float(vector.at(vector.layer).norm())
    return Automatic(max(0.0, STRENGTH * found.mean / scale), found)


def beside_own(
    engine: TransformersEngine, samples: Sequence[Sample], own: OwnAnswers, description: str
) -> Iterator[list[tuple[Sample, Tokens, Tokens]]]:
    """Batches of samples, each with its tokens and with those of the model's own answers to the same prompts.

    Left out is what cannot be compared: answers that are only a thought or do not fit the context, on either side.
    """
    with progress(description, total=len(samples), unit="samples") as job:
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            both = [
                (sample, theirs, Tokens(ours, False))
                for sample, ours in zip(batch, own_answers(engine, batch, "all", own), strict=True)
                if ours and (theirs := _tokens(engine, sample))
            ]
            if both:
                yield both
            job.advance(len(batch))


def _tokens(engine: TransformersEngine, sample: Sample) -> Tokens | None:
    try:
        return tokenise(engine, sample, "all")
    except UserError:
        return None
