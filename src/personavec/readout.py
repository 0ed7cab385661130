"""Readings of many conversations: what the residual stream held over spans of tokens, and how likely the spans were.

One forward serves all answers to one prompt, stops at the deepest layer needed, skips the LM head unless likelihoods
are asked for, and pools inside the forward: nothing of size tokens x layers is ever kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from personavec.model import ChatModel, Conversation

HEAD_TOKENS = 256  # logits of this many tokens at a time: with 150,000 words in the vocabulary a float32 row is 0.6 MB


@dataclass(frozen=True)
class Readings:
    """What was read, one row per span, spans in the order of the conversations.

    Attributes:
        means: (spans, layers, d) float32, mean of `h_l(t)` over the span's tokens (`a_l` of the paper, section 2.2);
            with directions (spans, layers, k), the scalar products of that mean with each. NaN where a span is empty.
        log_likelihood: (spans,) float32, mean log-probability per token of the span (natural logarithm); None unless
            asked for. NaN where a span is empty.
    """

    means: Tensor
    log_likelihood: Tensor | None


@dataclass(eq=False)
class _Line:
    """One row of a batch: a prefix and the endings that share it."""

    prefix: list[int]
    members: list[int]
    endings: list[list[int]]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.endings))


def read(
    model: ChatModel,
    conversations: Sequence[Conversation],
    *,
    layers: Sequence[int] | None = None,
    directions: Tensor | None = None,
    log_likelihood: bool = False,
    batch_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Readings:
    """Read every span of every conversation.

    Args:
        layers: Layers to read, 0..n_layers; None: all of them. May be empty when only likelihoods are wanted.
        directions: (layers, k, d); given, only scalar products with these are kept.
        log_likelihood: Also the mean log-probability of each span's tokens.
        batch_tokens: Upper limit of tokens in one forward, padding included.
        advance: Called with the number of conversations done after every forward.

    Returns:
        Float32 on the CPU, whatever the model's dtype. Independent of what else is in the batch up to rounding.
    """
    chosen = list(range(model.n_layers + 1)) if layers is None else list(layers)
    # On a CPU, more tokens only make the intermediate results too big for the allocator to reuse (measured, with AMX).
    budget = batch_tokens or (1024 if model.device.type == "cpu" else 32768)
    offsets = [0]
    for conversation in conversations:
        offsets.append(offsets[-1] + len(conversation.spans))
    width = model.hidden_size if directions is None else directions.shape[1]
    means = torch.full((offsets[-1], len(chosen), width), torch.nan)
    likelihoods = torch.full((offsets[-1],), torch.nan) if log_likelihood else None
    lines = _share(conversations, packing=model.packs, longest=max(budget // 2, 1))
    queue = _batches(lines, budget if model.pads else 0)
    while queue:
        batch = queue.pop(0)
        try:
            rows, sums, scores = _forward(model, conversations, batch, chosen, log_likelihood)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            queue[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            continue
        index = torch.tensor([offsets[member] + span for member, span in rows], dtype=torch.long)
        for i, layer_sums in enumerate(sums):
            if directions is not None:
                layer_sums = layer_sums @ directions[i].to(layer_sums).T
            means[index, i] = layer_sums.cpu()
        if likelihoods is not None and scores is not None:
            likelihoods[index] = scores.cpu()
        if advance is not None:
            advance(sum(len(line.members) for line in batch))
    return Readings(means, likelihoods)


def _share(conversations: Sequence[Conversation], *, packing: bool, longest: int) -> list[_Line]:
    """Conversations that are equal up to their last span go into one line, at most `longest` tokens each."""
    open_lines: dict[tuple[int, ...], _Line] = {}
    lines: list[_Line] = []
    for member, conversation in enumerate(conversations):
        split = conversation.spans[-1][0] if conversation.spans else len(conversation.ids)
        # A reading needs a predecessor for its first token's likelihood and a prefix of its own to share.
        prefix, ending = conversation.ids[:split], conversation.ids[split:]
        key = tuple(prefix)
        line = open_lines.get(key) if packing else None
        if line is None or line.length + len(ending) > longest:
            line = open_lines[key] = _Line(prefix, [], [])
            lines.append(line)
        line.members.append(member)
        line.endings.append(ending)
    return lines


def _batches(lines: Sequence[_Line], budget: int) -> list[list[_Line]]:
    """Lines of like length side by side, at least one; the longest first, so that memory runs out at once or never."""
    batches: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: -line.length):
        if line.length == 0:
            continue
        if not batches or batches[-1][0].length * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(line)
    return batches


@torch.inference_mode()
def _forward(
    model: ChatModel,
    conversations: Sequence[Conversation],
    batch: Sequence[_Line],
    layers: Sequence[int],
    log_likelihood: bool,
) -> tuple[list[tuple[int, int]], list[Tensor], Tensor | None]:
    """One forward: the (conversation, span) pairs it read, their means per layer, their likelihoods."""
    length = max(line.length for line in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    positions = torch.zeros(len(batch), length, dtype=torch.long)
    segments = torch.full((len(batch), length), -1, dtype=torch.long)  # 0 the prefix, 1.. the endings, -1 padding
    rows: list[tuple[int, int]] = []
    tokens: list[int] = []  # positions in the flattened batch of the tokens that are read
    owners: list[int] = []  # and the row of the result each belongs to
    sources: list[int] = []  # the tokens before them, which predict them
    targets: list[int] = []
    predicted: list[int] = []
    for b, line in enumerate(batch):
        start = len(line.prefix)
        ids[b, :start] = torch.tensor(line.prefix, dtype=torch.long)
        positions[b, :start] = torch.arange(start)
        segments[b, :start] = 0
        at = start
        for segment, (member, ending) in enumerate(zip(line.members, line.endings, strict=True), 1):
            end = at + len(ending)
            ids[b, at:end] = torch.tensor(ending, dtype=torch.long)
            positions[b, at:end] = torch.arange(start, start + len(ending))
            segments[b, at:end] = segment
            place = [b * length + (t if t < start else t - start + at) for t in range(start + len(ending))]
            for span, (low, high) in enumerate(conversations[member].spans):
                if low >= high:
                    continue
                row = len(rows)
                rows.append((member, span))
                tokens += place[low:high]
                owners += [row] * (high - low)
                if log_likelihood:
                    first = max(low, 1)
                    sources += place[first - 1 : high - 1]
                    targets += conversations[member].ids[first:high]
                    predicted += [row] * (high - first)
            at = end
    device = model.device
    packed = any(len(line.members) > 1 for line in batch)
    inputs = {"input_ids": ids.to(device)}
    if packed:
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        allowed = causal & ((segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0))
        allowed |= torch.eye(length, dtype=torch.bool)  # padding attends to itself: no row of the softmax is empty
        mask = torch.zeros(allowed.shape, dtype=model.blocks.dtype)
        mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min)
        inputs |= {"attention_mask": mask[:, None].to(device), "position_ids": positions.to(device)}
    elif (segments < 0).any():
        inputs["attention_mask"] = (segments >= 0).long().to(device)

    sums: dict[int, Tensor] = {}
    token_index, owner_index = torch.tensor(tokens, dtype=torch.long), torch.tensor(owners, dtype=torch.long)
    counts = torch.bincount(owner_index, minlength=len(rows)).clamp_min(1).float()[:, None]

    def pool(layer: int) -> Callable[[Tensor], None]:
        def add(hidden: Tensor) -> None:
            chosen = hidden.flatten(0, 1)[token_index.to(hidden.device)].float()
            total = chosen.new_zeros(len(rows), hidden.shape[-1])
            total.index_add_(0, owner_index.to(hidden.device), chosen)
            sums[layer] = total / counts.to(hidden.device)

        return add

    deepest = model.n_layers if log_likelihood else max(layers)
    with model.blocks.stopping_at(deepest), model.blocks.watching({layer: pool(layer) for layer in layers}):
        final = model.blocks.trunk(use_cache=False, **inputs).last_hidden_state
    scores = None
    if log_likelihood:
        scores = _likelihood(model, final.flatten(0, 1), sources, targets, predicted, len(rows))
    return rows, [sums[layer] for layer in layers], scores


def _likelihood(
    model: ChatModel, hidden: Tensor, sources: list[int], targets: list[int], owners: list[int], rows: int
) -> Tensor:
    """Mean log-probability per token for each row; a row that starts at the very first token leaves that one out."""
    total = torch.zeros(rows, device=hidden.device)
    count = torch.zeros(rows, device=hidden.device)
    for start in range(0, len(sources), HEAD_TOKENS):
        piece = slice(start, start + HEAD_TOKENS)
        logits = model.head(hidden[torch.tensor(sources[piece], device=hidden.device)])
        target = torch.tensor(targets[piece], device=hidden.device)
        logprob = logits.gather(1, target[:, None])[:, 0].float() - _log_sum_exp(logits)
        owner = torch.tensor(owners[piece], device=hidden.device)
        total.index_add_(0, owner, logprob)
        count.index_add_(0, owner, torch.ones_like(logprob))
    return total / count


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of each row, in float32.

    On a CPU a few rows at a time, in place: they stay in the processor's cache, which makes this ten times as fast as
    `torch.logsumexp` on all of them.
    """
    rows = []
    for piece in torch.split(logits, 8 if logits.device.type == "cpu" else len(logits)):
        values = piece.float()  # float32 logits are not copied: nobody reads them again
        highest = values.amax(-1, keepdim=True)
        rows.append(values.sub_(highest).exp_().sum(-1).log_() + highest[:, 0])
    return torch.cat(rows)
