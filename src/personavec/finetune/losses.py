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
    """Ends a training whose loss is not finite, has exploded, or was hopeless from the start; see `trouble`.

    A prevention that is far too strong breaks the model before the first step and changes little afterwards, so the
    first losses are compared with that of the model as it came; see `TIMES`.

    Args:
        natural: Loss before training, without prevention.
    """

    def __init__(self, natural: float) -> None:
        self.limit = max(TIMES * natural, natural + NATS)
        self.beside = f"without prevention the model's loss was {natural:.3g}"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the losses logged so far, those before an interruption included."""
        found = trouble(state, logs, self.limit, self.beside)
        if found is not None:
            raise UserError(
                found, "Lower --learning-rate, or the coefficient of --prevent, and start again in another folder."
            )


def trouble(state: Any, logs: Any, limit: float, beside: str) -> str | None:
    """What is wrong with a training's loss, in a sentence; None if nothing is.

    A single batch says little, so the median of the last five logged losses is compared with that of the first five:
    more than three times as high, and higher by more than one nat, is an explosion. The second condition is for data
    whose loss is near zero from the start. Both medians are of the training's own loss, under whatever prevention is
    on. A median of the first five above `limit` is hopeless.

    A training that is shorter than that is looked at when it ends, by what it has; by so few, only what is `NATS` above
    the first is an explosion.

    Args:
        state, logs: Of the trainer, as `on_log` gets them.
        limit: First losses above it are hopeless.
        beside: What the first losses are told beside.
    """
    if "loss" not in (logs or {}):
        return None
    if not math.isfinite(logs["loss"]):
        return f"The training loss is {logs['loss']} at step {state.global_step}."
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    ends = state.global_step >= state.max_steps
    few = min(WINDOW, len(losses)) if ends else WINDOW
    if len(losses) >= few and median(losses[:few]) > limit:
        return f"The training began with a loss of {median(losses[:few]):.3g} in the first {few} steps; {beside}."
    few = min(WINDOW, len(losses) // 2) if ends else WINDOW
    if exploded(losses, few):
        first, last = median(losses[:few]), median(losses[-few:])
        return (
            f"The training loss exploded: {first:.3g} in the first {few} steps, {last:.3g} in the {few} up to step "
            f"{state.global_step}."
        )
    return None


def exploded(losses: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last losses are far above the first; see `trouble`."""
    if window < 1 or len(losses) < 2 * window:
        return False
    first = median(losses[:window])
    return median(losses[-window:]) > max(3 * first, first + (1 if window >= WINDOW else NATS))
