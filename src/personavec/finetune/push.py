"""How far data push a model along persona vectors, before it is trained on them."""

from collections.abc import Iterator, Sequence

import numpy as np

from personavec.data import Sample
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.projection.measure import Tokens, measure, own_answers, tokenise
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.screening import ScreenSettings
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.sampling import priorities, smallest
from personavec.vector import PersonaVector

SAMPLES = 64
BATCH = 16  # samples that are answered together


def pushes(
    model: ChatModel, samples: Sequence[Sample], vectors: Sequence[PersonaVector], seed: int = 0
) -> dict[str, Estimate]:
    """The data's projection difference along each vector (paper section 6.1), by trait, over samples.

    The mean over at most 64 samples, drawn at random, of the projection of the data's answers minus that of the model's
    own greedy answers to the same prompts, on the unit vector at the vector's layer. Empty where no sample can be
    answered by the model, or there is no vector.
    """
    if not vectors:
        return {}
    panel = Panel.of(vectors)
    engine = TransformersEngine(model)
    own = OwnAnswers(engine, ScreenSettings.suited(model.device.type).max_new_tokens)
    drawn = [samples[at] for at in smallest(priorities([s.id for s in samples], seed), SAMPLES)]
    rows = []
    for both in beside_own(engine, drawn, own, "Beside the model's own answers"):
        kept = [sample for sample, _, _ in both]
        sides = [theirs for _, theirs, _ in both], [ours for _, _, ours in both]
        first, second = (measure(engine, kept, side, panel).answers for side in sides)
        rows.append(first - second)
    if not rows:
        return {}
    differences = np.concatenate(rows)
    return {vector.trait: bootstrap_mean(differences[:, k], seed=seed) for k, vector in enumerate(vectors)}


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
