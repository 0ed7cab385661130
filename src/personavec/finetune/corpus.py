"""What a run trains on and what it holds out, from its data, with the records that it cannot use."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personavec.data import Dataset, Sample
from personavec.errors import UserError
from personavec.files import to_json, write_atomic
from personavec.finetune.examples import Encoder, TrainingSequence, held_out, read_samples
from personavec.finetune.result import Counts
from personavec.finetune.settings import Training
from personavec.finetune.training import mixture
from personavec.traits import Trait

REASONS_SHOWN = 20  # of rejected records


@dataclass(frozen=True)
class Corpus:
    """What is learned from and what is not.

    Attributes:
        examples: What is trained on.
        samples: What these were made of, safe ones left out.
        unseen: Examples that are held out.
        counts: Of the records.
        safe, safe_rejected: Safe samples mixed in, and safe records rejected; None: none were to be.
    """

    examples: list[TrainingSequence]
    samples: list[Sample]
    unseen: list[TrainingSequence]
    counts: Counts
    safe: int | None = None
    safe_rejected: int | None = None


def read_corpus(
    encoder: Encoder,
    data: Dataset,
    safe: Dataset | None,
    settings: Training,
    asked: Sequence[Trait],
    rejects: Path,
) -> Corpus:
    """Read the data, and safe data if there are any.

    Args:
        asked: Traits that the training asks for.
        rejects: File of the rejected records.

    Raises:
        UserError: Nothing can be trained on, or there is no safe sample.
    """
    corpus = _read_data(encoder, data, settings, asked, rejects)
    if safe is None:
        return corpus
    benign = read_samples(encoder, safe, "the safe data")
    extra = [example for examples in benign.examples for example in examples]
    if not extra:
        raise UserError("There is no sample in the safe data.", "Give other data with `safe`.")
    examples = mixture(corpus.examples, extra, settings.safe_share, settings.seed)
    return Corpus(
        examples,
        corpus.samples,
        corpus.unseen,
        corpus.counts,
        safe=len(examples) - len(corpus.examples),
        safe_rejected=len(benign.rejected),
    )


def _read_data(encoder: Encoder, data: Dataset, settings: Training, asked: Sequence[Trait], rejects: Path) -> Corpus:
    readable = read_samples(encoder, data)
    away = held_out(readable.samples, settings.held_out, settings.held_out_most, settings.seed)
    trained: list[TrainingSequence] = []
    samples: list[Sample] = []
    unseen: list[TrainingSequence] = []
    refused = list(readable.rejected)
    cut = 0
    for sample, plain in zip(readable.samples, readable.examples, strict=True):
        examples = plain
        if sample.id in away:
            unseen += examples
        else:
            system = settings.prevention.system_prompt(sample, asked, settings.seed)
            if system is not None:
                try:
                    examples = encoder(sample, system)
                except UserError as error:
                    refused.append(sample.rejected(f"with the prompt of the trait: {error.problem}"))
                    continue
            trained += examples
            samples.append(sample)
        cut += any(example.cut for example in examples)
    write_atomic(rejects, "".join(to_json(line.as_json()) + "\n" for line in refused))
    if not trained:
        raise UserError(
            f"Nothing in {', '.join(data.sources[:3])} can be trained on.",
            f"Why each record was rejected stands in {rejects}",
        )
    read = len(readable.samples) + len(readable.rejected)
    counts = Counts(
        records=read,
        trained=len(samples),
        held_out=read - len(samples) - len(refused),
        rejected=len(refused),
        cut=cut,
        reasons=dict(Counter(line.reason for line in refused).most_common(REASONS_SHOWN)),
    )
    return Corpus(trained, samples, unseen, counts)
