"""How likely the model finds tokens: loss of whole sequences, batched, also under interventions."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from personavec.interventions import intervening
from personavec.model import ChatModel
from personavec.model.batches import padded
from personavec.model.edits import Intervention
from personavec.model.evaluating import evaluating
from personavec.progress import progress
from personavec.readout import HEAD_TOKENS, log_probabilities
from personavec.stats.numbers import Floats

IGNORED = -100  # label of a token that bears no loss
BATCH_TOKENS = 2048

Found = TypeVar("Found")


def sequence_losses(
    model: ChatModel,
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    interventions: Sequence[Intervention] = (),
    starts: Sequence[int] | None = None,
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
        interventions, starts: See `each_sequence`; a text has no prompt and no response, and so no starts.
        name, unit: For the progress bar.
    """

    def mean(at: int, states: Tensor) -> float:
        logs, _ = token_logs(model, states, [label for label in labels[at][1:] if label != IGNORED])
        return -float(logs.mean())

    return np.array(each_sequence(model, ids, labels, mean, interventions, starts, name=name, unit=unit))


def token_logs(model: ChatModel, states: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probability (n,), float64 on the CPU, of a token after each state (n, d), and whether it is the likeliest."""
    logs, greedy = [], []
    wanted = torch.tensor(tokens, device=states.device)
    for piece, those in zip(torch.split(states, HEAD_TOKENS), torch.split(wanted, HEAD_TOKENS), strict=True):
        logits = model.head(piece)
        those = those.to(logits.device)
        greedy.append((logits.argmax(-1) == those).cpu())
        logs.append(log_probabilities(logits, those).double().cpu())
    return torch.cat(logs), torch.cat(greedy)


def each_sequence(
    model: ChatModel,
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    use: Callable[[int, Tensor], Found],
    interventions: Sequence[Intervention] = (),
    starts: Sequence[int] | None = None,
    *,
    name: str,
    unit: str,
) -> list[Found]:
    """What `use` makes of every sequence, in their order.

    Args:
        ids, labels, name, unit: See `sequence_losses`. Labels may be one longer than the ids: the last token is then
            predicted only.
        use: Called with the index of a sequence and the hidden states (tokens, d), after the final norm, from which
            its tokens that bear loss are predicted.
        starts: Where the response of each sequence begins, which decides where interventions act, as in generation:
            "response" from the last token before it. None: everywhere.
    """
    result: dict[int, Found] = {}
    with progress(name, total=len(ids), unit=unit) as job, evaluating(model.model):
        for batch in model.side_by_side([len(row) for row in ids], BATCH_TOKENS):
            states = _states(model, [ids[at] for at in batch], interventions, starts and [starts[at] for at in batch])
            for at, row in zip(batch, states, strict=True):
                bears = [place for place, label in enumerate(labels[at][1:]) if label != IGNORED]
                result[at] = use(at, row[bears])
            job.advance(len(batch))
    return [result[at] for at in range(len(ids))]


def _states(
    model: ChatModel,
    rows: Sequence[Sequence[int]],
    interventions: Sequence[Intervention],
    starts: Sequence[int] | None,
) -> Tensor:
    """Hidden states (rows, tokens, d) after the final norm."""
    tokens, mask = padded(rows, model.device)
    phase: dict[str, bool | Tensor] = {"all": True, "prompt": True, "response": True}
    if starts is not None:
        place = torch.arange(tokens.shape[1], device=model.device)[None, :, None]
        begin = torch.tensor(starts, device=model.device)[:, None, None]
        phase |= {"prompt": place < begin, "response": place >= begin - 1}
    with intervening(model, [interventions]) as steering:
        steering.phase = phase
        where = {"attention_mask": mask} if len(rows) > 1 else {}
        hidden: Tensor = model.blocks.trunk(input_ids=tokens, use_cache=False, **where).last_hidden_state
    return hidden
