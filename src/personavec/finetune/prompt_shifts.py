"""How far a training has moved a model along persona vectors, read at the ends of some prompts."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.finetune.wrapping import blocks_of, is_sharded, unwrapped
from personavec.model.batches import by_length, padded
from personavec.model.blocks import Blocks
from personavec.model.evaluating import evaluating
from personavec.model.template import Template
from personavec.vector import PersonaVector

BATCH_TOKENS = 2048
RECORD = "personavec.shifts.measure"  # in the trainer's state; see `callback.RECORD`


class PromptShifts:
    """The shift `(h_l(last prompt token), now minus base) . v^_l` of every prompt, at each vector's own layer.

    Base is the model without its PEFT adapter; where there is none, the model as it was when training began, kept in
    the checkpoints. Nothing is steered while it is read.

    Args:
        vectors: Persona vectors.
        prompts: For each of them, user messages.
    """

    def __init__(self, vectors: Sequence[PersonaVector], prompts: Sequence[Sequence[str]]) -> None:
        self.vectors, self.prompts = vectors, prompts
        self._base: list[Tensor] = []
        self._blocks: Blocks | None = None
        self._ids: list[list[list[int]]] = []

    def begin(self, model: Any, processing_class: Any, state: Any) -> None:
        """Read the base, or take it from the checkpoint.

        Raises:
            UserError: No tokenizer, or a checkpoint that holds no base.
        """
        if processing_class is None:
            raise UserError("The trainer has no tokenizer.", "Give it one: processing_class=tokenizer.")
        template = Template(getattr(processing_class, "tokenizer", processing_class))
        self._ids = [
            [template.prompt_ids([{"role": "user", "content": text}]) for text in some] for some in self.prompts
        ]
        self._blocks = blocks_of(model)
        adapted = hasattr(unwrapped(model), "peft_config")
        if state.global_step > 0 and not adapted:
            kept = state.stateful_callbacks.get(RECORD, {}).get(self._fingerprint())
            if kept is None:
                raise UserError(
                    "The checkpoint holds no projections of the model before training on these vectors and prompts: no "
                    "shift can be measured.",
                    "Name the same vectors and prompts as before, watch none, or start a new run.",
                )
            self._base = [torch.tensor(some) for some in kept]
            return
        with unwrapped(model).disable_adapter() if adapted else nullcontext():
            self._base = last_projections(model, self._blocks, self.vectors, self._ids)
        # In the checkpoints, for a full fine-tune overwrites the base.
        state.stateful_callbacks.setdefault(RECORD, {})[self._fingerprint()] = [one.tolist() for one in self._base]

    @property
    def begun(self) -> bool:
        """Whether there is a base, and a model to read."""
        return self._blocks is not None

    def now(self, model: Any) -> list[Tensor]:
        """For each vector, the shifts (prompts,)."""
        assert self._blocks is not None
        found = last_projections(model, self._blocks, self.vectors, self._ids)
        return [after - before for after, before in zip(found, self._base, strict=True)]

    def end(self) -> None:
        """Let go of the model."""
        self._blocks = None

    def _fingerprint(self) -> str:
        """A fingerprint of the directions and prompts."""
        decides = [self.prompts, [vector.identity for vector in self.vectors]]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def last_projections(
    model: Any, blocks: Blocks, vectors: Sequence[PersonaVector], prompts: Sequence[Sequence[Sequence[int]]]
) -> list[Tensor]:
    """For each vector `h_l(last token) . v^_l` of its prompts (n,), at its own layer, in float32.

    The model runs in evaluation mode and is left as it was. Sharded, every process must call this.

    Args:
        model: As the trainer has it.
        prompts: For each vector, the token ids of its prompts.
    """
    whole = is_sharded(model)  # only a forward of all of it gathers its weights
    with ExitStack() as stack:
        stack.enter_context(evaluating(unwrapped(model)))
        if not whole:
            stack.enter_context(blocks.stopping_at(max(one.layer for one in vectors)))
        run = model if whole else blocks.trunk
        device = unwrapped(model).get_input_embeddings().weight.device
        found = []
        for vector, some in zip(vectors, prompts, strict=True):
            projections = torch.empty(len(some))
            for batch in by_length([len(ids) for ids in some], BATCH_TOKENS):
                projections[list(batch)] = _of_batch(run, blocks, [some[at] for at in batch], vector, device)
            found.append(projections)
        return found


def _of_batch(
    run: Any, blocks: Blocks, batch: Sequence[Sequence[int]], vector: PersonaVector, device: torch.device
) -> Tensor:
    """Projections (n,) of the last tokens of some prompts."""
    rows, mask = padded(batch, device)
    ends = mask.sum(1).cpu() - 1
    found: list[Tensor] = []

    def take(hidden: Tensor) -> None:
        last = hidden[torch.arange(len(batch)), ends].float()
        found.append((last @ vector.unit(vector.layer).to(last.device)).cpu())

    with blocks.watching({vector.layer: take}):
        run(input_ids=rows, attention_mask=mask, use_cache=False)
    return found[0]
