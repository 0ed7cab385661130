"""Watching what a fine-tune does to the character while it runs."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from personavec.errors import UserError
from personavec.finetune.callback import running_trainer
from personavec.finetune.wrapping import blocks_of, is_sharded, unwrapped
from personavec.model.batches import by_length, padded
from personavec.model.blocks import Blocks
from personavec.model.evaluating import evaluating
from personavec.model.template import Template
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector, check_one_per_trait, reading_sides

log = logging.getLogger(__name__)

BATCH_TOKENS = 2048
PREFIX, SUFFIX = "persona/", "_shift"  # around a trait, in what trainers log
RECORD = "personavec.shifts.measure"  # in the trainer's state; see `callback.RECORD`


class ShiftMonitor(TrainerCallback):
    """Logs the fine-tuning shift of each trait as `persona/{trait}_shift`, wherever the trainer reports to.

    The shift is `(mean over prompts of h_l(last prompt token), now minus base) . v^_l` (paper, section 4.2), in units
    of the projection, at the vector's own layer and without any prevention. Base is the model without its PEFT adapter;
    where there is none, the model as it was when training began (kept in the checkpoints). The training itself is not
    changed: a monitored run gives the same weights.

    Args:
        vector: One persona vector, or several.
        prompts: User messages; None: the evaluation questions of each vector's trait, from its file or the library.
        every: Measure after this many optimiser steps, and after the last; None: at evaluations and after the last.
            Evaluations are measured in any case.
        stop_above: End training when a shift is above this: one number for all traits, or one for each by name.
        other_weights: See `PersonaVector.check`.

    Attributes:
        history: One entry per measurement: "step" and the shift per trait.
        stopped: Why training was ended; None if it was not.

    Raises:
        UserError: No prompts, two vectors of one trait, a threshold for a trait that is not watched. When training
            starts: no tokenizer, a vector of another model, a checkpoint that holds no base.
    """

    def __init__(
        self,
        vector: PersonaVector | Sequence[PersonaVector],
        prompts: Sequence[str] | None = None,
        *,
        every: int | None = None,
        stop_above: float | Mapping[str, float] | None = None,
        other_weights: bool = False,
    ) -> None:
        self.vectors = reading_sides([vector] if isinstance(vector, PersonaVector) else vector)
        names = [one.trait for one in self.vectors]
        if not names:
            raise UserError("There is no vector to watch.", "Give one vector for each trait.")
        check_one_per_trait(self.vectors)
        if every is not None and every < 1:
            raise UserError(f"every={every} is not a number of steps.", "Choose 1 or more.")
        if prompts is not None and not any(prompts):
            raise UserError("There are no prompts.", "Give a few user messages, or None for the library's questions.")
        self.prompts = [list(prompts) if prompts is not None else questions(one) for one in self.vectors]
        limits = stop_above if isinstance(stop_above, Mapping) else dict.fromkeys(names, stop_above)
        unknown = set(limits) - set(names)
        if unknown:
            raise UserError(
                f"stop_above names {sorted(unknown)}; watched are {names}.", "Name traits that are watched."
            )
        self.stop_above = {name: limit for name, limit in limits.items() if limit is not None}
        self.every = every
        self.history: list[dict[str, float]] = []
        self.stopped: str | None = None
        self._other_weights = other_weights
        self._checked = False
        self._base: list[float] | None = None
        self._trainer: Any = None
        self._blocks: Blocks | None = None
        self._ids: list[list[list[int]]] = []

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Refuse a model of another kind before anything has changed or sharded its weights."""
        if model is not None and not is_sharded(model):
            self._check(model)
            self._checked = True

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        """Measure the base."""
        self._trainer = running_trainer()
        if processing_class is None:
            raise UserError("The trainer has no tokenizer.", "Give it one: processing_class=tokenizer.")
        resumed = state.global_step > 0
        self._check(model, other_weights=self._checked or resumed or is_sharded(model))
        template = Template(getattr(processing_class, "tokenizer", processing_class))
        self._ids = [
            [template.prompt_ids([{"role": "user", "content": text}]) for text in some] for some in self.prompts
        ]
        self._blocks = blocks_of(model)
        self.stopped = None
        adapted = hasattr(unwrapped(model), "peft_config")
        if resumed and not adapted:
            self._base = state.stateful_callbacks.get(RECORD, {}).get(self._fingerprint())
            if self._base is None:
                raise UserError(
                    "The checkpoint holds no projections of the model before training on these vectors and prompts: no "
                    "shift can be measured.",
                    "Watch along the same vectors with the same prompts, leave the monitor out, or start a new run.",
                )
        else:
            self.history = []
            with unwrapped(model).disable_adapter() if adapted else nullcontext():
                self._base = mean_projections(model, self._blocks, self.vectors, self._ids)
            # In the checkpoints, for a full fine-tune overwrites the base.
            state.stateful_callbacks.setdefault(RECORD, {})[self._fingerprint()] = self._base

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure when it is time."""
        due = self.every is not None and state.global_step % self.every == 0
        if due or state.global_step >= state.max_steps or control.should_training_stop:
            self._measure(model, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure."""
        self._measure(model, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the trainer and the model."""
        self._trainer = self._blocks = None

    def _measure(self, model: Any, state: Any, control: Any) -> None:
        measured = self.history[-1]["step"] if self.history else None
        if self._blocks is None or self._base is None or measured == state.global_step:
            return
        now = mean_projections(model, self._blocks, self.vectors, self._ids)
        shift = {one.trait: after - before for one, after, before in zip(self.vectors, now, self._base, strict=True)}
        self.history.append({"step": state.global_step, **shift})
        for trait, limit in self.stop_above.items():
            if not shift[trait] <= limit:
                found = f"the {trait} shift is {shift[trait]:.3g}, above {limit:.3g}"
                self.stopped = f"Training ends at step {state.global_step}: {found}."
                log.warning(self.stopped)
                control.should_training_stop = True
        # The trainer takes its own line of this step for written when anything is logged.
        due = control.should_log
        # Not the method of a subclass: TRL's would put the training metrics gathered so far into this line.
        Trainer.log(self._trainer, {f"{PREFIX}{trait}{SUFFIX}": value for trait, value in shift.items()})
        control.should_log = due

    def _fingerprint(self) -> str:
        """A fingerprint of the directions and prompts."""
        decides = [self.prompts, [vector.identity for vector in self.vectors]]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]

    def _check(self, model: Any, *, other_weights: bool = False) -> None:
        for one in self.vectors:
            one.check(unwrapped(model), other_weights=self._other_weights or other_weights)


def watched_trait(key: str) -> str | None:
    """The trait whose shift a trainer logs under a key; None if the key stands for something else."""
    if not (key.startswith(PREFIX) and key.endswith(SUFFIX)):
        return None
    return key.removeprefix(PREFIX).removesuffix(SUFFIX)


def mean_projections(
    model: Any, blocks: Blocks, vectors: Sequence[PersonaVector], prompts: Sequence[Sequence[Sequence[int]]]
) -> list[float]:
    """Mean of `h_l(last token) . v^_l` over the prompts of each vector, at its own layer.

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
        return [
            float(
                torch.cat(
                    [
                        _last_projections(run, blocks, [some[at] for at in batch], one, device)
                        for batch in by_length([len(ids) for ids in some], BATCH_TOKENS)
                    ]
                ).mean()
            )
            for one, some in zip(vectors, prompts, strict=True)
        ]


def _last_projections(
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
