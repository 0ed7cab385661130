"""Readings of many conversations: what the residual stream held over spans of tokens, and how likely the spans were.

One forward computes what conversations begin alike with (a system prompt, a question, earlier turns) once, stops at the
deepest layer needed, skips the LM head unless likelihoods are asked for, and pools inside the forward: nothing of size
tokens x layers is ever kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from personavec.model import ChatModel, Conversation
from personavec.model.batches import additive, padded

LONGEST = 2048  # tokens in a line that several conversations share: attention grows with its square
# In a forward on a CPU: of more the intermediate results get too big for the allocator to reuse (measured, with AMX).
CPU_TOKENS = 1024
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
    """One row of a batch: conversations as paths through a tree, whose shared beginnings are in the row once.

    Attributes:
        tokens: Of the row.
        positions: Of each token in its conversation.
        members: Indices of the conversations.
        paths: Of each, where its tokens stand in the row.
        shared: Of each, how many of them an earlier one had put there.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)

    def add(self, member: int, ids: Sequence[int], shared: int) -> None:
        """Put in a conversation whose first `shared` tokens are those of the conversation before."""
        new = range(len(self.tokens), len(self.tokens) + len(ids) - shared)
        self.paths.append([*(self.paths[-1][:shared] if shared else ()), *new])
        self.tokens += ids[shared:]
        self.positions += range(shared, len(ids))
        self.members.append(member)
        self.shared.append(shared)

    def allowed(self, length: int) -> Tensor:
        """Which tokens (length, length) each attends to: those before it on its path; padding to itself, so that no row
        of the softmax is empty."""
        mask = torch.eye(length, dtype=torch.bool)
        for path, shared in zip(self.paths, self.shared, strict=True):
            places = torch.tensor(path, dtype=torch.long)
            mask[places[shared:, None], places[None, :]] = torch.ones(len(path), len(path), dtype=torch.bool).tril()[
                shared:
            ]
        return mask


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
    budget = batch_tokens or (CPU_TOKENS if model.device.type == "cpu" else 32768)
    offsets = [0]
    for conversation in conversations:
        offsets.append(offsets[-1] + len(conversation.spans))
    width = model.hidden_size if directions is None else directions.shape[1]
    means = torch.full((offsets[-1], len(chosen), width), torch.nan)
    likelihoods = torch.full((offsets[-1],), torch.nan) if log_likelihood else None
    lines = _share(conversations, packing=model.packs, longest=max(min(budget // 2, LONGEST), 1))
    queue = [[lines[at] for at in batch] for batch in model.side_by_side([len(line.tokens) for line in lines], budget)]
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
    """Conversations in lines of at most `longest` tokens (but for one that is longer), beginnings that are equal once.

    In the order of their tokens each conversation shares the most with the one before.
    """
    lines: list[_Line] = []
    before: Sequence[int] = ()
    for member in sorted(range(len(conversations)), key=lambda at: conversations[at].ids):
        ids = conversations[member].ids
        shared = _common(before, ids) if packing else 0
        if not shared or len(lines[-1].tokens) + len(ids) - shared > longest:
            lines.append(_Line())
            shared = 0
        lines[-1].add(member, ids, shared)
        before = ids
    return [line for line in lines if line.tokens]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass(eq=False)
class _Wanted:
    """What is read in a batch, tokens by their place in the flattened batch.

    Attributes:
        rows: The (conversation, span) pairs that are read.
        tokens, owners: The tokens of all spans, and the row that each belongs to.
        sources, targets, predicted: The tokens from which spans' tokens are predicted, the ids of those, and the row
            that each belongs to; the very first token of a conversation is predicted from nothing and left out.
    """

    rows: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)


def _wanted(conversations: Sequence[Conversation], batch: Sequence[_Line], length: int) -> _Wanted:
    wanted = _Wanted()
    for number, line in enumerate(batch):
        for member, path in zip(line.members, line.paths, strict=True):
            places = [number * length + place for place in path]
            for span, (low, high) in enumerate(conversations[member].spans):
                if low >= high:
                    continue
                row, first = len(wanted.rows), max(low, 1)
                wanted.rows.append((member, span))
                wanted.tokens += places[low:high]
                wanted.owners += [row] * (high - low)
                wanted.sources += places[first - 1 : high - 1]
                wanted.targets += conversations[member].ids[first:high]
                wanted.predicted += [row] * (high - first)
    return wanted


def _inputs(batch: Sequence[_Line], length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the trunk takes: tokens (rows, length), and where it is needed a mask and positions."""
    ids, present = padded([line.tokens for line in batch])
    if any(len(line.members) > 1 for line in batch):
        positions, _ = padded([line.positions for line in batch])
        mask = additive(torch.stack([line.allowed(length) for line in batch]), dtype)
        return {"input_ids": ids, "attention_mask": mask[:, None], "position_ids": positions}
    return {"input_ids": ids} if bool(present.all()) else {"input_ids": ids, "attention_mask": present}


@torch.inference_mode()
def _forward(
    model: ChatModel,
    conversations: Sequence[Conversation],
    batch: Sequence[_Line],
    layers: Sequence[int],
    log_likelihood: bool,
) -> tuple[list[tuple[int, int]], list[Tensor], Tensor | None]:
    """One forward: the (conversation, span) pairs it read, their means per layer, their likelihoods."""
    length = max(len(line.tokens) for line in batch)
    wanted = _wanted(conversations, batch, length)
    rows, tokens, owners = wanted.rows, wanted.tokens, wanted.owners
    inputs = {name: tensor.to(model.device) for name, tensor in _inputs(batch, length, model.blocks.dtype).items()}
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
        scores = _likelihood(model, final.flatten(0, 1), wanted)
    return rows, [sums[layer] for layer in layers], scores


def _likelihood(model: ChatModel, hidden: Tensor, wanted: _Wanted) -> Tensor:
    """Mean log-probability per token for each row; a row that starts at the very first token leaves that one out."""
    total = torch.zeros(len(wanted.rows), device=hidden.device)
    count = torch.zeros(len(wanted.rows), device=hidden.device)
    for start in range(0, len(wanted.sources), HEAD_TOKENS):
        piece = slice(start, start + HEAD_TOKENS)
        logits = model.head(hidden[torch.tensor(wanted.sources[piece], device=hidden.device)])
        target = torch.tensor(wanted.targets[piece], device=hidden.device)
        logprob = log_probabilities(logits, target)
        owner = torch.tensor(wanted.predicted[piece], device=hidden.device)
        total.index_add_(0, owner, logprob)
        count.index_add_(0, owner, torch.ones_like(logprob))
    return total / count


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability (n,), float32, of the token (n,) of each row of logits (n, vocabulary), which are used up.

    The logarithm of the sum of exponentials is taken, on a CPU, of a few rows at a time, in place: they stay in the
    processor's cache, which makes this ten times as fast as `torch.logsumexp` on all of them.
    """
    chosen = logits.gather(1, tokens[:, None])[:, 0].float()
    rows = []
    for piece in torch.split(logits, 8 if logits.device.type == "cpu" else len(logits)):
        values = piece.float()  # float32 logits are not copied: nobody reads them again
        highest = values.amax(-1, keepdim=True)
        rows.append(values.sub_(highest).exp_().sum(-1).log_() + highest[:, 0])
    return chosen - torch.cat(rows)
