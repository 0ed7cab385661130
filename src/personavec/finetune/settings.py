"""What decides the result of a fine-tune, besides the model, the data and the vectors."""

import math
from dataclasses import dataclass, fields
from typing import get_args

from personavec.errors import UserError
from personavec.finetune.methods import METHODS, Method, either
from personavec.finetune.prevention import TrainedPositions
from personavec.interventions import Layers


@dataclass(frozen=True)
class Training:
    """What decides the result of a fine-tune. The defaults of the training are the paper's.

    Attributes:
        method: How traits are kept from being learned, a name of `METHODS`. "steer", "ablate", "regularise": see
            `Prevention`. "prompt": every training sample gets a system prompt that asks for the trait, evaluation does
            not (preventative or inoculation prompting). "interleave": safe samples are mixed into the data. "none".
        layers, positions: See `Prevention`.
        safe_share: "interleave": share of safe samples among all that are trained on. Where there are too few of them,
            they are repeated.
        epochs: How often every sample is seen.
        rank, alpha, dropout, rslora: Of the LoRA adapter, on all attention and MLP projections. With rank-stabilised
            LoRA its output is scaled by alpha / sqrt(rank), else by alpha / rank.
        learning_rate: Of AdamW; rises over the warm-up steps, then falls linearly to 0.
        warmup_steps: See there.
        batch, accumulate: Sequences in a forward, and forwards in an optimiser step.
        weight_decay: Of AdamW.
        max_length: Tokens of the longest sequence; longer ones lose their end.
        held_out: Share of the samples that are not trained on, so that the loss can be measured on them.
        held_out_most: At most so many.
        checkpoint_every: Steps between two checkpoints, from which an interrupted run goes on.
        watch_every: Steps between two measurements of the shift.
        seed: Of everything random.
    """

    method: str = "steer"
    layers: Layers = "best"
    positions: TrainedPositions = "all"
    safe_share: float = 0.5
    epochs: float = 1.0
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    rslora: bool = True
    learning_rate: float = 1e-5
    warmup_steps: int = 5
    batch: int = 2
    accumulate: int = 8
    weight_decay: float = 0.01
    max_length: int = 2048
    held_out: float = 0.1
    held_out_most: int = 200
    checkpoint_every: int = 50
    watch_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()

    @property
    def prevention(self) -> Method:
        """The method itself."""
        return METHODS[self.method]

    def _check_choices(self) -> None:
        for option, text, allowed in (
            ("--method", self.method, tuple(METHODS)),
            ("--positions", self.positions, get_args(TrainedPositions)),
        ):
            if text not in allowed:
                raise UserError(f"{option} {text!r} is not understood.", f"Choose {', '.join(allowed)}.")
        for field in fields(self):
            able = [method.name for method in METHODS.values() if field.name in method.options]
            if able and self.method not in able and getattr(self, field.name) != field.default:
                raise UserError(
                    f"The method {self.method} has no use for --{field.name.replace('_', '-')}.",
                    f"It is for --method {either(able)}.",
                )

    def _check_numbers(self) -> None:
        for option, whole, least in (
            ("--rank", self.rank, 1),
            ("--alpha", self.alpha, 1),
            ("--warmup-steps", self.warmup_steps, 0),
            ("--batch", self.batch, 1),
            ("--accumulate", self.accumulate, 1),
            ("--max-length", self.max_length, 2),
            ("--checkpoint-every", self.checkpoint_every, 1),
            ("--watch-every", self.watch_every, 1),
            ("--seed", self.seed, 0),
        ):
            if whole < least:
                raise UserError(f"{option} {whole} is out of range.", f"Choose {least} or more.")
        for option, number, allowed_range, good in (
            ("--epochs", self.epochs, "above 0", self.epochs > 0),
            ("--learning-rate", self.learning_rate, "above 0, such as 1e-5", self.learning_rate > 0),
            ("--weight-decay", self.weight_decay, "0 or more", self.weight_decay >= 0),
            ("--dropout", self.dropout, "from 0 to below 1", 0 <= self.dropout < 1),
            ("--held-out", self.held_out, "from 0 to below 1", 0 <= self.held_out < 1),
            ("--safe-share", self.safe_share, "between 0 and 1", 0 < self.safe_share < 1),
        ):
            if not (math.isfinite(number) and good):
                raise UserError(f"{option} {number} is not usable.", f"Choose a number {allowed_range}.")
