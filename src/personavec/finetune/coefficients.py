"""What is chosen and measured before training: coefficients, and the loss of the model as it came."""

from collections.abc import Mapping, Sequence
from typing import Literal

from personavec.data import Sample
from personavec.errors import UserError
from personavec.finetune.automatic import Automatic, choose
from personavec.finetune.examples import Example
from personavec.finetune.losses import example_losses
from personavec.finetune.methods import Method
from personavec.finetune.result import AutomaticChoice
from personavec.model import ChatModel
from personavec.results import Figure, Result
from personavec.vector import PersonaVector

Coefficient = float | Literal["auto"] | None  # None: the method takes none


class Start(Result):
    """The model as it came, and what was chosen by it.

    Attributes:
        coefficients: Of each prevented vector; None: the method takes none.
        auto: What each was chosen from; None: it was given.
        differences: Projection difference of the data, over samples, by trait.
        losses: Of the held-out examples, in nats per token.
    """

    coefficients: tuple[float | None, ...]
    auto: tuple[AutomaticChoice | None, ...]
    differences: dict[str, Figure]
    losses: tuple[float, ...]


def start(
    model: ChatModel,
    prevent: Sequence[tuple[PersonaVector, Coefficient]],
    measured: Sequence[PersonaVector],
    samples: Sequence[Sample],
    unseen: Sequence[Example],
    seed: int,
) -> Start:
    """Choose and measure.

    Args:
        measured: Vectors along which the push of the data is measured, beside those that ask for a coefficient.
        samples: What is trained on.
        unseen: What is held out.

    Raises:
        UserError: A coefficient is to be chosen, and no sample can be answered by the model.
    """
    asking = [vector for vector, given in prevent if given == "auto"]
    along = {vector.trait: vector for vector in [*measured, *asking]}
    choices = _choices(model, along, samples, seed, needed=bool(asking))
    coefficients: list[float | None] = []
    auto: list[AutomaticChoice | None] = []
    for vector, given in prevent:
        if given == "auto":
            choice = choices[vector.trait]
            coefficients.append(round(choice.coefficient, 4))
            auto.append(AutomaticChoice(projection_difference=choice.difference))
        else:
            coefficients.append(given)
            auto.append(None)
    return Start(
        coefficients=tuple(coefficients),
        auto=tuple(auto),
        differences={trait: choice.difference for trait, choice in choices.items()},
        losses=tuple(example_losses(model, unseen, "Held-out loss before").tolist()),
    )


def _choices(
    model: ChatModel, along: Mapping[str, PersonaVector], samples: Sequence[Sample], seed: int, *, needed: bool
) -> dict[str, Automatic]:
    """By trait; none where no sample can be compared, which only a coefficient cannot do without."""
    if not along:
        return {}
    try:
        return dict(zip(along, choose(model, samples, list(along.values()), seed), strict=True))
    except UserError:
        if needed:
            raise
        return {}


def doubts(method: Method, trait: str, coefficient: float | None, auto: AutomaticChoice | None) -> list[str]:
    """What speaks against a coefficient.

    Args:
        auto: What it was chosen from; None: it was given.
    """
    if coefficient is None:
        return []
    if auto is None:
        return method.doubts(trait, coefficient)
    push = auto.projection_difference
    size = f"{push:+.2f}, n = {push.n} samples"
    if coefficient == 0:
        return [f"Nothing prevents {trait}: the data's push toward it is {size}, so auto chose 0."]
    if push.low <= 0 or push.n < 2:
        return [f"That the data push toward {trait} is not certain ({size}), nor is the coefficient auto chose."]
    return []
