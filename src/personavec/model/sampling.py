"""Tokens drawn from logits, each row with its own temperature, nucleus and draw."""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 512  # tokens of the vocabulary that are drawn from together; about its square root


def draw(logits: Tensor, temperatures: Sequence[float], draws: Sequence[float]) -> list[int]:
    """One token per row: greedy at temperature 0, else the inverse of the cumulative distribution at the row's draw.

    Args:
        logits: (n, vocabulary).
        temperatures, draws: Of each row; a draw is in [0, 1).
    """
    temperature = torch.tensor(temperatures, device=logits.device)
    greedy = temperature == 0
    best = logits.argmax(-1) if bool(greedy.any()) else None
    if best is not None and bool(greedy.all()):
        return list(map(int, best.tolist()))
    # In two steps, first a block of tokens, then a token in it: a running sum over a whole vocabulary is slow. In
    # place: a float32 copy of the logits is big enough for its allocation to cost more than the arithmetic.
    padded = torch.nn.functional.pad(logits, (0, -logits.shape[-1] % BLOCK), value=-torch.inf).float()
    padded.sub_(padded.amax(-1, keepdim=True)).div_(torch.where(greedy, 1.0, temperature)[:, None])
    weights = padded.exp_().view(len(draws), -1, BLOCK)
    blocks = weights.sum(-1)
    target = torch.tensor(draws, dtype=torch.float32, device=logits.device)[:, None] * blocks.sum(-1, keepdim=True)
    block, rest = _reach(blocks, target)
    within, _ = _reach(weights.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0], rest)
    chosen = (block * BLOCK + within)[:, 0]
    if best is not None:
        chosen = torch.where(greedy, best, chosen)
    return list(map(int, chosen.tolist()))


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits (vocabulary,) of which only the likeliest tokens that together reach `top_p` are left.

    The likeliest token always stays (Holtzman et al. 2020, The curious case of neural text degeneration).
    """
    ordered, order = (logits.float() / (temperature or 1.0)).softmax(-1).sort(descending=True)
    out = ordered.cumsum(-1) - ordered >= top_p
    out[0] = False
    return logits.masked_fill(out.scatter(0, order, out), -torch.inf)


def _reach(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum of each row of weights (n, m) first exceeds its target (n, 1), and the target from there.

    A target that rounding has put at or above the row's sum counts as just below it, so that nothing of weight zero is
    ever chosen.
    """
    sums = weights.cumsum(-1)
    target = target.minimum(torch.nextafter(sums[:, -1:], torch.zeros_like(target)))
    index = torch.searchsorted(sums, target, right=True).clamp_max(weights.shape[-1] - 1)
    return index, (target - (sums.gather(1, index) - weights.gather(1, index))).clamp_min(0)
