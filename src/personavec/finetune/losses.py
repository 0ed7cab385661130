"""Losses: of samples that are not trained on, and of a training that goes wrong."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from transformers import TrainerCallback

from personavec.errors import UserError
from personavec.finetune.examples import Example
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.statistics import Floats

WINDOW = 5  # steps


def example_losses(model: ChatModel, examples: Sequence[Example], name: str = "Held-out loss") -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every example; nothing is steered."""
    return sequence_losses(
        model, [example.ids for example in examples], [example.labels for example in examples], name=name
    )


class LossGuard(TrainerCallback):
    """Ends a training whose loss is not finite or has exploded.

    A single batch says little, so the median of the last five steps is compared with that of the first five: more than
    three times as high, and higher by more than one nat, is an explosion. The second condition is for data whose loss
    is near zero from the start. Both medians are of the training's own loss, under whatever prevention is on.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the losses logged so far, those before an interruption included."""
        if "loss" not in (logs or {}):
            return
        advice = "Lower --learning-rate, or the coefficient of --prevent, and start again in another folder."
        if not math.isfinite(logs["loss"]):
            raise UserError(f"The training loss is {logs['loss']} at step {state.global_step}.", advice)
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if exploded(losses):
            first, last = median(losses[:WINDOW]), median(losses[-WINDOW:])
            raise UserError(
                f"The training loss exploded: {first:.3g} in the first {WINDOW} steps, {last:.3g} in the {WINDOW} up "
                f"to step {state.global_step}.",
                advice,
            )


def exploded(losses: Sequence[float]) -> bool:
    """Whether the last losses are far above the first; see `LossGuard`."""
    if len(losses) < 2 * WINDOW:
        return False
    first = median(losses[:WINDOW])
    return median(losses[-WINDOW:]) > max(3 * first, first + 1)
