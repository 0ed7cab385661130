"""Coefficients as they are given, and what is measured before training."""

from collections.abc import Sequence
from typing import Literal

from personavec.data import Sample
from personavec.finetune.examples import TrainingSequence
from personavec.finetune.losses import example_losses
from personavec.finetune.methods import Method
from personavec.finetune.push import pushes
from personavec.model import ChatModel
from personavec.results import Figure, Result
from personavec.vector import PersonaVector

Coefficient = float | Literal["auto"] | None  # None: the method takes none


class Start(Result):
    """The model as it came.

    Attributes:
        differences: Projection difference of the data, over samples, by trait.
        losses: Of the held-out examples, in nats per token.
    """

    differences: dict[str, Figure]
    losses: tuple[float, ...]


def start(
    model: ChatModel,
    measured: Sequence[PersonaVector],
    samples: Sequence[Sample],
    unseen: Sequence[TrainingSequence],
    seed: int,
) -> Start:
    """Measure.

    Args:
        measured: Vectors along which the push of the data is measured.
        samples: What is trained on.
        unseen: What is held out.
    """
    return Start(
        differences=pushes(model, samples, measured, seed),
        losses=tuple(example_losses(model, unseen, "Held-out loss before").tolist()),
    )


def doubts(method: Method, trait: str, coefficient: Coefficient) -> list[str]:
    """What speaks against a coefficient."""
    return method.doubts(trait, coefficient) if isinstance(coefficient, float | int) else []
