"""What decides the result of a fine-tune, besides the model, the data and the vectors."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, get_args

from annotated_doc import Doc

from personavec.errors import UserError, check_least, check_words
from personavec.operations import OPERATIONS, Layers, TrainedPositions

if TYPE_CHECKING:
    from personavec.finetune.methods import Method

_STREAM = ", ".join(operation.option for operation in OPERATIONS.values() if operation.trains)


@dataclass(frozen=True)
class Training:
    """What decides the result of a fine-tune. The defaults of the training are the paper's.

    How traits are kept from being learned is the `method`, a name of `METHODS`. Those that edit the stream and
    "regularise": see `Prevention`, also for `layers` and `positions`. "prompt": every training sample gets a system
    prompt that asks for the trait, evaluation does not (preventative or inoculation prompting). "interleave": safe
    samples are mixed into the data; where there are too few of them, they are repeated.

    The LoRA adapter is on all attention and MLP projections. An interrupted run goes on from its last checkpoint.

    Raises:
        UserError: Naming the field and what it may be.
    """

    method: Annotated[str, Doc(f"{_STREAM}, regularise, prompt, interleave or none.")] = "steer"
    layers: Annotated[Layers, Doc("best (the vector's own), all (steering: increments), or a number.")] = "best"
    positions: Annotated[TrainedPositions, Doc("Which tokens are steered in training: all or response.")] = "all"
    safe_share: Annotated[float, Doc("interleave: share of safe samples among all.")] = 0.5
    epochs: Annotated[float, Doc("How often every sample is seen.")] = 1.0
    rank: Annotated[int, Doc("Rank of the LoRA adapter.")] = 32
    alpha: Annotated[int, Doc("Alpha of the LoRA adapter.")] = 64
    dropout: Annotated[float, Doc("Dropout of the LoRA adapter.")] = 0.0
    rslora: Annotated[bool, Doc("Scale by alpha / sqrt(rank), not alpha / rank.")] = True
    learning_rate: Annotated[float, Doc("Highest learning rate; it falls linearly.")] = 1e-5
    warmup_steps: Annotated[int, Doc("Steps in which the learning rate rises.")] = 5
    batch: Annotated[int, Doc("Sequences in a forward.")] = 2
    accumulate: Annotated[int, Doc("Forwards in a step.")] = 8
    weight_decay: Annotated[float, Doc("Weight decay of AdamW.")] = 0.01
    max_length: Annotated[int, Doc("Tokens of the longest sequence; longer ones lose their end.")] = 2048
    held_out: Annotated[float, Doc("Share of the samples that is not trained on.")] = 0.1
    held_out_most: Annotated[int, Doc("At most so many samples.")] = 200
    checkpoint_every: Annotated[int, Doc("Steps between two checkpoints.")] = 50
    watch_every: Annotated[int, Doc("Steps between two measurements of the shift.")] = 10
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()

    @property
    def prevention(self) -> "Method":
        """The method itself."""
        from personavec.finetune.methods import METHODS

        return METHODS[self.method]

    def _check_choices(self) -> None:
        from personavec.finetune.methods import METHODS, either

        check_words(self, method=METHODS, positions=get_args(TrainedPositions))
        for field in fields(self):
            able = [method.name for method in METHODS.values() if field.name in method.options]
            if able and self.method not in able and getattr(self, field.name) != field.default:
                raise UserError(
                    f"The method {self.method} has no use for `{field.name}`.", f"It is for `method` {either(able)}."
                )

    def _check_numbers(self) -> None:
        check_least(
            self, rank=1, alpha=1, warmup_steps=0, batch=1, accumulate=1, max_length=2, held_out_most=0,
            checkpoint_every=1, watch_every=1, seed=0,
        )  # fmt: skip
        for name, number, allowed_range, good in (
            ("epochs", self.epochs, "above 0", self.epochs > 0),
            ("learning_rate", self.learning_rate, "above 0, such as 1e-5", self.learning_rate > 0),
            ("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0),
            ("dropout", self.dropout, "from 0 to below 1", 0 <= self.dropout < 1),
            ("held_out", self.held_out, "from 0 to below 1", 0 <= self.held_out < 1),
            ("safe_share", self.safe_share, "between 0 and 1", 0 < self.safe_share < 1),
        ):
            if not (math.isfinite(number) and good):
                raise UserError(f"`{name}` {number} is not usable.", f"Choose a number {allowed_range}.")
