"""Losses: of samples that are not trained on, and of a training that goes wrong."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from personavec.errors import UserError
from personavec.finetune.examples import IGNORED, Example
from personavec.finetune.wrapping import evaluating
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.statistics import Floats

BATCH_TOKENS = 2048
HEAD_TOKENS = 256  # whose logits are in memory together
WINDOW = 5  # steps


def example_losses(model: ChatModel, examples: Sequence[Example], name: str = "Held-out loss") -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every example; nothing is steered."""
    result = np.zeros(len(examples))
    order = sorted(range(len(examples)), key=lambda at: len(examples[at].ids))
    with progress(name, total=len(examples), unit="samples") as job, evaluating(model.model):
        while order:
            batch = [order.pop()]
            width = len(examples[batch[0]].ids)
            while order and width * (len(batch) + 1) <= BATCH_TOKENS:
                batch.append(order.pop())
            result[batch] = _batch_losses(model, [examples[at] for at in batch])
            job.advance(len(batch))
    return result


def _batch_losses(model: ChatModel, examples: Sequence[Example]) -> list[float]:
    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        stacked = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        return stacked.to(model.device)

    ids = padded([example.ids for example in examples], 0)
    mask = padded([[1] * len(example.ids) for example in examples], 0)
    labels = padded([example.labels for example in examples], IGNORED)[:, 1:]
    hidden = model.blocks.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    bears = labels != IGNORED
    states, wanted = hidden[bears.to(hidden.device)], labels[bears]
    pieces = [
        torch.nn.functional.cross_entropy(
            model.head(states[at : at + HEAD_TOKENS]).float(),
            wanted[at : at + HEAD_TOKENS].to(states.device),
            reduction="none",
        ).cpu()
        for at in range(0, len(states), HEAD_TOKENS)
    ]
    losses, at, means = torch.cat(pieces).double(), 0, []
    for count in bears.sum(1).tolist():
        means.append(float(losses[at : at + count].mean()))
        at += count
    return means


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
