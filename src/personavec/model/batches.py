"""Which sequences go through the model side by side, and as what."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in batches of like length, of at most `budget` tokens with the padding, or of a single one.

    The longest first, so that memory runs out at once or never. With a budget of 0 each goes alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def padded(
    rows: Sequence[Sequence[int]], device: torch.device | str = "cpu", side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor]:
    """Sequences as one table (rows, longest), filled up with zeros on a side, and a mask: 1 where a row's own are."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    table, mask = (
        pad_sequence(some, batch_first=True, padding_side=side).to(device)
        for some in (tensors, [torch.ones_like(row) for row in tensors])
    )
    return table, mask


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to attention scores: 0 where allowed, the dtype's lowest number elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)
