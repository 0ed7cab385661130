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
# A training that begins above so many times the loss without prevention, and so many nats above it, is broken from the
# start. On the default model answers with a loss of 3.2 have 3.4 under steering by 3, 7.1 by 10, 10.5 by 30 and 13.4 by
# 300, where a guess among all tokens would have 11.9; those with 1.1 have 0.9, 5.6, 10.5 and 15.6. The second condition
# is for data whose loss is low: there another mix of samples, such as safe ones among them, is a factor by itself.
TIMES, NATS = 3.0, 4.0


def example_losses(model: ChatModel, examples: Sequence[Example], name: str = "Held-out loss") -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every example; nothing is steered."""
    return sequence_losses(
        model, [example.ids for example in examples], [example.labels for example in examples], name=name
    )


class LossGuard(TrainerCallback):
    """Ends a training whose loss is not finite, has exploded, or was hopeless from the start.

    A single batch says little, so the median of the last five steps is compared with that of the first five: more than
    three times as high, and higher by more than one nat, is an explosion. The second condition is for data whose loss
    is near zero from the start. Both medians are of the training's own loss, under whatever prevention is on. A
    prevention that is far too strong breaks the model before the first step and changes little afterwards, so the first
    five are also compared with the loss of the model as it came; see `TIMES`.

    A training that is shorter than that is looked at when it ends, by the steps that it has; by so few, only what is
    `NATS` above the first is an explosion.

    Args:
        natural: Loss before training, without prevention.
    """

    def __init__(self, natural: float) -> None:
        self.natural = natural

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the losses logged so far, those before an interruption included."""
        if "loss" not in (logs or {}):
            return
        advice = "Lower --learning-rate, or the coefficient of --prevent, and start again in another folder."
        if not math.isfinite(logs["loss"]):
            raise UserError(f"The training loss is {logs['loss']} at step {state.global_step}.", advice)
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        ends = state.global_step >= state.max_steps
        few = min(WINDOW, len(losses)) if ends else WINDOW
        if hopeless(losses, self.natural, few):
            raise UserError(
                f"The training began with a loss of {median(losses[:few]):.3g} in the first {few} steps; without "
                f"prevention the model's loss was {self.natural:.3g}.",
                advice,
            )
        few = min(WINDOW, len(losses) // 2) if ends else WINDOW
        if exploded(losses, few):
            first, last = median(losses[:few]), median(losses[-few:])
            raise UserError(
                f"The training loss exploded: {first:.3g} in the first {few} steps, {last:.3g} in the {few} up "
                f"to step {state.global_step}.",
                advice,
            )


def exploded(losses: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last losses are far above the first; see `LossGuard`."""
    if window < 1 or len(losses) < 2 * window:
        return False
    first = median(losses[:window])
    return median(losses[-window:]) > max(3 * first, first + (1 if window >= WINDOW else NATS))


def hopeless(losses: Sequence[float], natural: float, window: int = WINDOW) -> bool:
    """Whether the first losses are far above that of the model as it came; see `LossGuard`."""
    return len(losses) >= window and median(losses[:window]) > max(TIMES * natural, natural + NATS)
