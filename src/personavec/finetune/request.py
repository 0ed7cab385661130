"""What a fine-tune was asked for: the parts that belong together, and a refusal where they do not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from pydantic import JsonValue

from personavec.capability.tasks import fingerprint
from personavec.data import Dataset
from personavec.errors import UserError
from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.coefficients import Coefficient
from personavec.finetune.methods import StreamMethod
from personavec.finetune.settings import Training
from personavec.model import ChatModel
from personavec.provenance import identity
from personavec.vector import PersonaVector, check_one_per_trait


@dataclass(frozen=True)
class TuningRequest:
    """What `fine_tune` was asked for; see there.

    Attributes:
        data, safe: Opened; safe is None where none are mixed in.
        lm_eval: Names of tasks.
    """

    model: ChatModel
    data: Dataset
    settings: Training
    prevent: Sequence[tuple[PersonaVector, Coefficient]]
    watch: Sequence[PersonaVector]
    safe: Dataset | None
    measure: bool
    lm_eval: Sequence[str]

    @property
    def vectors(self) -> list[PersonaVector]:
        """What the traits that are kept from being learned are steered by."""
        return [vector.steering for vector, _ in self.prevent]

    @property
    def measured(self) -> list[PersonaVector]:
        """What the traits that are watched or prevented are read along, each once."""
        return [*{v.trait: v.reading for v in [*self.watch, *(vector for vector, _ in self.prevent)]}.values()]

    @property
    def arguments(self) -> dict[str, JsonValue]:
        """What decides the result, as JSON values."""
        return {
            **asdict(self.settings),
            **identity(self.model),
            "data": self.data.digest,
            "safe": None if self.safe is None else self.safe.digest,
            "prevent": [[*vector.identity, coefficient] for vector, coefficient in self.prevent],
            "watch": [vector.identity for vector in self.watch],
            **({"measure": True} if self.measure else {}),
            **({"lm_eval": fingerprint(self.lm_eval)} if self.lm_eval else {}),
        }


def check_request(
    model: ChatModel,
    settings: Training,
    prevent: Sequence[tuple[PersonaVector, Coefficient]],
    watch: Sequence[PersonaVector],
    *,
    safe: bool,
    measure: bool,
    tasks: bool,
    other_weights: bool,
) -> None:
    """Refuse what does not go together, before anything is opened.

    Args:
        safe, tasks: Whether safe data and tasks of lm-evaluation-harness were named.

    Raises:
        UserError: Coefficients, vectors or data that the method has no use for or lacks, two vectors of a trait, a
            model that cannot be trained.
    """
    method, vectors = settings.prevention, [vector for vector, _ in prevent]
    coefficients = [coefficient for _, coefficient in prevent]
    method.check_vectors(bool(prevent))
    method.check_coefficients(coefficients, settings.layers)
    if safe and not method.mixes:
        raise UserError("Safe data go with `method` interleave only.", "Leave `safe` out.")
    _check_traits(vectors, watch)
    if isinstance(method, StreamMethod):  # now, and not after minutes of preparation
        PreventativeSteering(
            vectors,
            [given or 0.0 for given in coefficients] if method.example else None,
            method=method.name,
            layers=settings.layers,
            positions=settings.positions,
        )
    _check_model(model)
    if tasks and not measure:
        raise UserError("`lm_eval` is part of what is measured.", "Leave `measure` False out.")
    for vector in [*vectors, *watch]:
        vector.check(model, other_weights=other_weights)


def _check_traits(vectors: Sequence[PersonaVector], watch: Sequence[PersonaVector]) -> None:
    """A prevented vector may be watched too, and the same one named twice for that."""
    check_one_per_trait(vectors)
    different = {str(vector.identity): vector for vector in [*vectors, *watch]}
    check_one_per_trait(list(different.values()))


def _check_model(model: ChatModel) -> None:
    if hasattr(model.model, "peft_config"):
        raise UserError(f"The model {model.id} has an adapter already.", "Merge it into the weights, or leave it out.")
    if model.dtype == torch.float16:
        raise UserError("Gradients do not fit float16.", "Choose `dtype` bfloat16 or float32.")
    if model.device.type == "cuda" and model.device.index not in (None, torch.cuda.current_device()):
        raise UserError(
            f"Training runs on the first GPU, and the model is on {model.device}.",
            "Choose a GPU with CUDA_VISIBLE_DEVICES.",
        )
