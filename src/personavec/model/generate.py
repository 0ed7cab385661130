"""Batched generation: lengths mixed, every rollout with its own seed and interventions, freed places filled at once."""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from personavec.errors import UserError
from personavec.model.batches import padded
from personavec.model.blocks import Blocks
from personavec.model.edits import Intervention, SteeringPlan
from personavec.model.places import Places, read_piece
from personavec.model.sampling import draw
from personavec.progress import progress

Decoding = Literal["places", "batch", "alone", "unmasked", "recompute"]
"""How responses are decoded, the fastest first: "places" holds keys and values of all rows in places that are refilled
(needs attention that is full at every layer); "batch" pads rows on the left and leaves the cache to the model; "alone"
is one row after the other with the model's cache; "unmasked" the same, and the model is given nothing but tokens;
"recompute" runs the whole sequence for every token."""
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
CACHES = ("past_key_values", "cache_params", "state")  # what families call what they remember

LONG = 4  # pieces of a prompt from which on its reading is shown


@dataclass(frozen=True)
class Request:
    """One response to be generated.

    Attributes:
        prompt_ids: Token ids of the prompt, at least one.
        max_new_tokens: Longest response.
        temperature: 0 is greedy.
        seed: Decides the draw of every token of this response, whatever else is in the batch.
        interventions: SteeringPlan of this response alone.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    interventions: Sequence[Intervention] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"A response of up to {self.max_new_tokens} tokens is none.", "Allow at least one token.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"The temperature {self.temperature} is out of range.", "Choose 0 (greedy) or more.")
        if self.seed < 0:
            raise UserError(f"The seed {self.seed} is negative.", "Choose 0 or more.")


@dataclass(frozen=True)
class Response:
    """A generated response: its token ids without the end-of-turn marker, and whether the model ended it."""

    ids: list[int]
    finished: bool


@dataclass(eq=False)
class _Row:
    """A request in a place of the batch."""

    index: int
    request: Request
    draws: np.ndarray[Any, np.dtype[np.float64]]
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Told:
    """Who is told of what is generated; see `Generator.run`."""

    stop_ids: frozenset[int]
    finished: Callable[[int, Response], None]
    token: Callable[[int, int], None] | None

    def collect(self, rows: Sequence[_Row], drawn: Sequence[int]) -> list[int]:
        """Book one drawn token per row; the positions of the rows that ended."""
        done = []
        for i, (row, chosen) in enumerate(zip(rows, drawn, strict=True)):
            stopped = chosen in self.stop_ids
            if not stopped:
                row.ids.append(chosen)
                if self.token is not None:
                    self.token(row.index, chosen)
            if stopped or len(row.ids) == row.request.max_new_tokens:
                self.finished(row.index, Response(row.ids, stopped))
                done.append(i)
        return done


class Generator:
    """Generates responses of a batch of places that are refilled as responses end.

    The prompt without its last token goes through the blocks once per distinct prompt (and per distinct steering of the
    prompt); the last token is the first decoding step, so a step always sees one token a row and the LM head never runs
    on prompts.

    Args:
        blocks: The model's blocks.
        head: Hidden states after the final norm (n, d) to logits (n, vocabulary).
        stop_ids: Token ids that end a response.
        places: How many responses run side by side.
        decoding: See `Decoding`.
        prompt_tokens: Upper limit of prompt tokens (padding included) in one prefill; in places, a longer prompt goes
            through in pieces of that many.
        cache_tokens: Upper limit of tokens whose keys and values are held at a time; fewer places if need be.
    """

    def __init__(
        self,
        blocks: Blocks,
        head: Callable[[Tensor], Tensor],
        stop_ids: frozenset[int],
        *,
        places: int,
        decoding: Decoding,
        prompt_tokens: int,
        cache_tokens: int,
    ) -> None:
        self.blocks, self.head, self.stop_ids = blocks, head, stop_ids
        self.places, self.decoding = places, decoding
        self.prompt_tokens, self.cache_tokens = prompt_tokens, cache_tokens
        self.device = next(blocks.trunk.parameters()).device
        self.takes_positions = "position_ids" in inspect.signature(blocks.trunk.forward).parameters

    @torch.inference_mode()
    def run(
        self,
        requests: Sequence[Request],
        finished: Callable[[int, Response], None],
        token: Callable[[int, int], None] | None = None,
    ) -> None:
        """Generate every request.

        Args:
            finished: Called with (index of the request, response) as each ends, in the order in which they end.
            token: Called with (index, token id) for every response token as it is drawn.
        """
        if not requests:
            return
        told = _Told(self.stop_ids, finished, token)
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), list(requests[i].prompt_ids)))
        waiting = [
            _Row(
                i,
                requests[i],
                np.random.Generator(np.random.Philox(requests[i].seed)).random(requests[i].max_new_tokens),
            )
            for i in order
        ]
        longest = max(len(row.request.prompt_ids) + row.request.max_new_tokens for row in waiting)
        count = max(1, min(self.places, len(waiting), self.cache_tokens // longest))
        if self.decoding == "places":
            self._run_in_places(waiting, Places(self.blocks, count, longest), told)
        elif self.decoding == "recompute":
            for row in waiting:
                self._run_anew(row, told)
        else:
            count = count if self.decoding == "batch" else 1
            for start in range(0, len(waiting), count):
                self._run_batch(waiting[start : start + count], told)

    def _run_in_places(self, waiting: list[_Row], places: Places, told: _Told) -> None:
        active: list[_Row] = []
        steering = SteeringPlan([[]])
        while waiting or active:
            # A prefill of a few rows costs nearly as much as one of many: wait until an eighth of the places is free.
            free = places.count - len(active)
            if waiting and (not active or free >= max(1, places.count // 8)):
                new, waiting = waiting[:free], waiting[free:]
                self._prefill(new, len(active), places)
                active += new
                steering = SteeringPlan([row.request.interventions for row in active])
            drawn = self._next(places.step(steering, [not row.ids for row in active]), active)
            places.advance(drawn)
            done = told.collect(active, drawn)
            for i in reversed(done):
                places.leave(i, len(active) - 1)
                active[i] = active[-1]
                active.pop()
            if done and active:
                steering = SteeringPlan([row.request.interventions for row in active])

    def _prefill(self, new: list[_Row], start: int, places: Places) -> None:
        """Read all but the last prompt token of each new row into places from `start`."""
        groups: dict[Any, list[int]] = {}
        for i, row in enumerate(new):
            on_prompt = tuple(id(item) for item in row.request.interventions if item.positions != "response")
            groups.setdefault((tuple(row.request.prompt_ids[:-1]), on_prompt), []).append(i)
            if len(row.request.prompt_ids) == 1:
                places.put(start + i, row.request.prompt_ids)
        distinct = [(list(ids), members) for (ids, _), members in groups.items() if ids]
        while distinct:
            longest = max(len(ids) for ids, _ in distinct[:1])
            batch: list[tuple[list[int], list[int]]] = []
            while distinct:
                longest = max(longest, len(distinct[0][0]))
                if batch and longest * (len(batch) + 1) > self.prompt_tokens:
                    break
                batch.append(distinct.pop(0))
            steering = SteeringPlan([new[members[0]].request.interventions for _, members in batch])
            cache = self._read_prompts([prompt for prompt, _ in batch], steering)
            for j, (_, members) in enumerate(batch):
                for i in members:
                    places.put(start + i, new[i].request.prompt_ids, cache, j)

    def _read_prompts(self, prompts: Sequence[Sequence[int]], steering: SteeringPlan) -> DynamicCache:
        """The keys and values of prompts, padded on the right; those of a single long one piece by piece."""
        cache = DynamicCache()
        if len(prompts) == 1:
            [ids] = prompts
            pieces = [ids[at : at + self.prompt_tokens] for at in range(0, len(ids), self.prompt_tokens)]
            shown = progress("Reading the prompt", len(ids), "tokens") if len(pieces) >= LONG else nullcontext()
            with shown as job:
                for piece in pieces:
                    read_piece(self.blocks, cache, piece, steering)
                    if job is not None:
                        job.advance(len(piece))
            return cache
        table, mask = padded(prompts, self.device)
        steering.phase = {"all": True, "prompt": True, "response": False}
        with self.blocks.watching(steering.edits(), first=True):
            self.blocks.trunk(input_ids=table, attention_mask=mask, past_key_values=cache, use_cache=True)
        return cache

    def _run_batch(self, rows: list[_Row], told: _Told) -> None:
        step_ids, mask = padded([row.request.prompt_ids for row in rows], self.device, side="left")
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        steering = SteeringPlan([row.request.interventions for row in rows])
        memory: dict[str, Any] = {}
        running = list(rows)
        last = torch.zeros(1, mask.shape[1], 1, dtype=torch.bool, device=self.device)
        last[:, -1] = True
        steering.phase = {"all": True, "prompt": True, "response": last}
        while running:
            where = {} if self.decoding == "unmasked" else {"attention_mask": mask}
            if where and self.takes_positions:
                where["position_ids"] = positions
            with self.blocks.watching(steering.edits(), first=True):
                output = self.blocks.trunk(input_ids=step_ids, use_cache=True, **where, **memory)
            memory = {name: output[name] for name in CACHES if output.get(name) is not None}
            if not memory:
                raise ValueError("The model gives out nothing to go on from.")
            drawn = self._next(output.last_hidden_state[:, -1], rows)
            still = [i for i, row in enumerate(rows) if row in running]
            done = told.collect(running, [drawn[i] for i in still])
            running = [row for i, row in enumerate(running) if i not in done]
            step_ids = torch.tensor(drawn, device=self.device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1
            steering.phase = {"all": True, "prompt": False, "response": True}

    def _next(self, hidden: Tensor, rows: Sequence[_Row]) -> list[int]:
        """One token per row from the trunk's last states (rows, d)."""
        if not bool(hidden.isfinite().all()):
            steered = any(row.request.interventions for row in rows)
            raise UserError(
                "The model's states are no longer finite numbers" + (" under this steering." if steered else "."),
                "Choose a smaller coefficient." if steered else "Load the model in another dtype, such as float32.",
            )
        draws = [row.draws[min(len(row.ids), len(row.draws) - 1)] for row in rows]
        return draw(self.head(hidden), [row.request.temperature for row in rows], draws)

    def _run_anew(self, row: _Row, told: _Told) -> None:
        prompt = list(row.request.prompt_ids)
        steering = SteeringPlan([row.request.interventions])
        done: list[int] = []
        while not done:
            ids = torch.tensor([prompt + row.ids], device=self.device)
            place = torch.arange(ids.shape[1], device=self.device)[None, :, None]
            in_prompt, in_response = place < len(prompt), place >= len(prompt) - 1
            steering.phase = {"all": True, "prompt": in_prompt, "response": in_response}
            with self.blocks.watching(steering.edits(), first=True):
                hidden = self.blocks.trunk(input_ids=ids, use_cache=False).last_hidden_state
            done = told.collect([row], self._next(hidden[:, -1], [row]))
