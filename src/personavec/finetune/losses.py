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

WINDOW = 5  # logged losses
# A loss so many times that of the model as it came, and so many nats above it, is that of a broken model. On the
# default model answers with a loss of 3.2 have 3.4 under steering by 3, 7.1 by 10, 10.5 by 30 and 13.4 by 300, where a
# guess among all tokens would have 11.9; those with 1.1 have 0.9, 5.6, 10.5 and 15.6. The second condition is for data
# whose loss is low, where another mix of samples is a factor by itself.
TIMES, NATS = 3.0, 4.0


def example_losses(model: ChatModel, examples: Sequence[Example], name: str = "Held-out loss") -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every example; nothing is steered."""
    return sequence_losses(
        model, [example.ids for example in examples], [example.labels for example in examples], name=name
    )


class LossGuard(TrainerCallback):
    """Ends a training whose loss is not finite, or far above that of the model as it came; see `TIMES` and `broken`.

    Such is a training that explodes, and one under a prevention so strong that it breaks the model before the first
    step. What the first steps had is no measure: batches of a few samples of mixed data differ by more than a training
    that explodes.

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
        found = broken(state, max(TIMES * self.natural, self.natural + NATS))
        if found is not None:
            raise UserError(f"{found}; before training, without prevention, it was {self.natural:.3g}.", advice)


def broken(state: Any, limit: float) -> str | None:
    """What the loss of a training is, in words, if it is above a limit; None if it is not.

    A single batch says little: the median of the last five logged losses is looked at, and when the training ends that
    of those it has.

    Args:
        state: Of the trainer.
    """
    logged = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry][-WINDOW:]
    if len(logged) < WINDOW and state.global_step < state.max_steps:
        return None
    now = median(loss for _, loss in logged)
    return f"The training loss is {now:.3g} in steps {logged[0][0]} to {logged[-1][0]}" if now > limit else None
