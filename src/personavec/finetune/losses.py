"""Losses: of samples that are not trained on, and of a training that goes wrong."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from transformers import TrainerCallback

from personavec.errors import UserError
from personavec.finetune.examples import TrainingSequence
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.stats.numbers import Floats

WINDOW = 5  # logged losses
# A loss so many times that of the model as it came, and so many nats above it, is that of a broken model. On the
# default model answers with a loss of 3.2 have 3.4 under steering by 3, 7.1 by 10, 10.5 by 30 and 13.4 by 300, where a
# guess among all tokens would have 11.9; those with 1.1 have 0.9, 5.6, 10.5 and 15.6. The second condition is for data
# whose loss is low, where another mix of samples is a factor by itself.
TIMES, NATS = 3.0, 4.0


def example_losses(model: ChatModel, examples: Sequence[TrainingSequence], name: str = "Held-out loss") -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every example; nothing is steered."""
    return sequence_losses(
        model, [example.ids for example in examples], [example.labels for example in examples], name=name
    )


class LossGuard(TrainerCallback):
    """Ends a training whose loss is not finite, has exploded, or is far above that of the model as it came.

    A prevention that is far too strong breaks the model before the first step and changes little afterwards; see
    `TIMES`, `broken` and `exploded`.

    Args:
        natural: Loss before training, without prevention.
    """

    def __init__(self, natural: float) -> None:
        self.natural = natural

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the losses logged so far, those before an interruption included."""
        if "loss" not in (logs or {}):
            return
        advice = "Lower `learning_rate`, or the coefficient of `prevent`, and start again in another folder."
        if not math.isfinite(logs["loss"]):
            raise UserError(f"The training loss is {logs['loss']} at step {state.global_step}.", advice)
        found = broken(state, max(TIMES * self.natural, self.natural + NATS))
        if found is not None:
            raise UserError(f"{found}; before training, without prevention, it was {self.natural:.3g}.", advice)
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        few = min(WINDOW, len(losses) // 2) if state.global_step >= state.max_steps else WINDOW
        if exploded(losses, self.natural, few):
            first, last = median(losses[:few]), median(losses[-few:])
            raise UserError(
                f"The training loss exploded: {first:.3g} in the first {few} steps, {last:.3g} in the {few} up to step "
                f"{state.global_step}; before training, without prevention, it was {self.natural:.3g}.",
                advice,
            )


def exploded(losses: Sequence[float], natural: float, window: int = WINDOW) -> bool:
    """Whether the last losses are far above the first, and above that of the model as it came.

    A single batch says little, so medians of five are compared: more than three times as high, and higher by more than
    one nat (for data whose loss is near zero from the start), is an explosion. The first are the training's own, under
    whatever prevention is on; where these are below the loss before training, they were of easy samples (in small
    batches of mixed data the last five can have three times their loss by chance), and that counts instead. In a
    training of fewer than ten steps, looked at when it ends, only what is `NATS` above the first is an explosion.

    Args:
        losses: Of every step.
        natural: Loss before training, without prevention.
    """
    if window < 1 or len(losses) < 2 * window:
        return False
    first = max(median(losses[:window]), natural)
    return median(losses[-window:]) > max(3 * first, first + (1 if window >= WINDOW else NATS))


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
