"""How likely the model finds tokens: mean loss of whole sequences, batched, also under interventions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from personavec.interventions import intervening
from personavec.model import ChatModel
from personavec.model.evaluating import evaluating
from personavec.model.intervene import Intervention
from personavec.progress import progress
from personavec.statistics import Floats

IGNORED = -100  # label of a token that bears no loss
BATCH_TOKENS = 2048
HEAD_TOKENS = 256  # whose logits are in memory together
EVERYWHERE = {"all": True, "prompt": True, "response": True}  # see `Steering.phase`


def sequence_losses(
    model: ChatModel,
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    interventions: Sequence[Intervention] = (),
    *,
    name: str,
    unit: str = "samples",
) -> Floats:
    """Mean negative log-likelihood (n,), in nats per token that bears loss, of every sequence.

    In evaluation mode, without gradients; the logarithm of the softmax is taken in float32.

    Args:
        ids: Token ids.
        labels: The same where a token bears loss, `IGNORED` elsewhere; the first token has nothing to be predicted
            from and bears none.
        interventions: Act on every token, whatever their positions: a text has no prompt and no response.
        name, unit: For the progress bar.
    """
    result = np.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    with progress(name, total=len(ids), unit=unit) as job, evaluating(model.model):
        while order:
            batch = [order.pop()]
            width = len(ids[batch[0]])
            while order and width * (len(batch) + 1) <= BATCH_TOKENS:
                batch.append(order.pop())
            with intervening(model, [interventions]) as steering:
                steering.phase = EVERYWHERE
                result[batch] = _batch_losses(model, [ids[at] for at in batch], [labels[at] for at in batch])
            job.advance(len(batch))
    return result


def _batch_losses(model: ChatModel, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> list[float]:
    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        stacked = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        return stacked.to(model.device)

    mask = padded([[1] * len(row) for row in ids], 0)
    targets = padded(labels, IGNORED)[:, 1:]
    trunk = model.blocks.trunk(input_ids=padded(ids, 0), attention_mask=mask, use_cache=False)
    bears = targets != IGNORED
    states, wanted = trunk.last_hidden_state[:, :-1][bears.to(trunk.last_hidden_state.device)], targets[bears]
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
