"""Rows that are decoded side by side, one token a step, with their keys and values in places allotted beforehand."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from personavec.model.batches import additive
from personavec.model.blocks import Blocks
from personavec.model.edits import SteeringPlan


class _PlaceLayer(DynamicLayer):
    """Keys and values of one block: nothing is copied as sequences grow."""

    keys: Tensor
    values: Tensor
    is_initialized: bool
    places: "Places"

    def __init__(self, places: "Places") -> None:
        super().__init__()
        # Not a cycle of references: keys and values are let go of with their places, not when objects are next looked
        # through for cycles, which in a server that holds half a million of them is hundreds of requests later.
        self.places = weakref.proxy(places)

    def reserve(self, like_keys: Tensor, like_values: Tensor) -> None:
        """Room for all places; what was held stays where it was."""
        count, length = self.places.count, self.places.length
        before = (self.keys, self.values) if self.is_initialized else None
        self.keys = like_keys.new_zeros(count, like_keys.shape[1], length, like_keys.shape[3])
        self.values = like_values.new_zeros(count, like_values.shape[1], length, like_values.shape[3])
        if before is not None:
            rows, reach = min(count, before[0].shape[0]), min(length, before[0].shape[2])
            self.keys[:rows, :, :reach] = before[0][:rows, :, :reach]
            self.values[:rows, :, :reach] = before[1][:rows, :, :reach]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        places = self.places
        if not self.is_initialized:  # no prompt so far was longer than the token that starts its response
            self.reserve(key_states, value_states)
        rows, at = places.rows.to(key_states.device), places.at.to(key_states.device)
        self.keys[rows, :, at] = key_states[:, :, 0]
        self.values[rows, :, at] = value_states[:, :, 0]
        low, high = places.span
        return self.keys[low:high, :, : places.reach], self.values[low:high, :, : places.reach]


class Places:
    """Places of a batch.

    Args:
        count: How many there are.
        length: Tokens that each holds.

    Attributes:
        lengths: (count,) tokens held in each.
        next_ids: (count,) the token that each reads next.
    """

    def __init__(self, blocks: Blocks, count: int, length: int) -> None:
        self.blocks, self.count, self.length = blocks, count, length
        self.layers = [_PlaceLayer(self) for _ in range(len(blocks))]
        self.cache = Cache(layers=self.layers)
        self.device = next(blocks.trunk.parameters()).device
        self.lengths = torch.zeros(count, dtype=torch.long, device=self.device)
        self.next_ids = torch.zeros(count, dtype=torch.long, device=self.device)
        self.rows = self.at = torch.empty(0, dtype=torch.long)
        self.span, self.reach = (0, 0), 0

    def grow(self, count: int, length: int) -> None:
        """More places, or longer ones."""
        added = count - self.count
        self.count, self.length = count, length
        self.lengths = torch.nn.functional.pad(self.lengths, (0, added))
        self.next_ids = torch.nn.functional.pad(self.next_ids, (0, added))
        for layer in self.layers:
            if layer.is_initialized:
                layer.reserve(layer.keys, layer.values)

    def put(self, place: int, prompt_ids: Sequence[int], read: DynamicCache | None = None, row: int = 0) -> None:
        """A prompt into a place; its last token is read in the next step.

        Args:
            read: Holds keys and values of all but the last token in its `row`; None: the prompt is a single token.
        """
        tokens = len(prompt_ids) - 1
        if read is not None:
            for layer, filled in zip(self.layers, read.layers, strict=True):
                if not layer.is_initialized:
                    layer.reserve(filled.keys, filled.values)
                layer.keys[place, :, :tokens] = filled.keys[row, :, :tokens]
                layer.values[place, :, :tokens] = filled.values[row, :, :tokens]
        self.lengths[place], self.next_ids[place] = tokens, prompt_ids[-1]

    def step(self, steering: SteeringPlan, begin: Sequence[bool], low: int = 0) -> Tensor:
        """Last states (n, d) of n places from `low` on, each after its next token. Nothing counts before `advance`.

        Args:
            steering: Of the n rows.
            begin: Of each, whether its next token is the last of its prompt.
        """
        high = low + len(begin)
        self.span, self.rows = (low, high), torch.arange(low, high, device=self.device)
        self.at = self.lengths[low:high].clone()
        self.reach = int(self.at.max()) + 1
        reach = torch.arange(self.reach, device=self.device)
        mask = additive(reach[None, None, None] <= self.at[:, None, None, None], self.blocks.dtype)
        first = torch.tensor(begin, device=self.device).view(-1, 1, 1)
        steering.phase = {"all": True, "response": True, "prompt": first}
        with self.blocks.watching(steering.edits(), first=True):
            hidden: Tensor = self.blocks.trunk(
                input_ids=self.next_ids[low:high, None],
                attention_mask=mask,
                position_ids=self.at[:, None],
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
        return hidden[:, -1]

    def advance(self, drawn: Sequence[int], low: int = 0) -> None:
        """The places from `low` on hold one more token, and read next what was drawn for each."""
        self.lengths[low : low + len(drawn)] += 1
        self.next_ids[low : low + len(drawn)] = torch.tensor(drawn, device=self.device)

    def leave(self, place: int, last: int) -> None:
        """Free a place: what is in the last one that is taken comes there."""
        if place == last:
            return
        held = int(self.lengths[last])
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[place, :, :held] = layer.keys[last, :, :held]
                layer.values[place, :, :held] = layer.values[last, :, :held]
        self.lengths[place], self.next_ids[place] = self.lengths[last], self.next_ids[last]


def read_piece(blocks: Blocks, cache: DynamicCache, ids: Sequence[int], steering: SteeringPlan) -> None:
    """Go on reading a prompt: the next ids of one row, whose keys and values are appended to the cache."""
    steering.phase = {"all": True, "prompt": True, "response": False}
    device = next(blocks.trunk.parameters()).device
    with blocks.watching(steering.edits(), first=True):
        blocks.trunk(input_ids=torch.tensor([list(ids)], device=device), past_key_values=cache, use_cache=True)


def first_tokens(cache: DynamicCache, tokens: int) -> DynamicCache:
    """A cache of its own with a row's first tokens of another one."""
    copy = DynamicCache()
    for number, layer in enumerate(cache.layers if tokens else ()):
        copy.update(layer.keys[:, :, :tokens].clone(), layer.values[:, :, :tokens].clone(), number)
    return copy
