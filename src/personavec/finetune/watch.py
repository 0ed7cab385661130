"""Watching what a fine-tune does to the character while it runs."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from personavec.errors import UserError
from personavec.finetune.prompt_shifts import PromptShifts
from personavec.finetune.trainers import log_beside, running_trainer
from personavec.finetune.wrapping import is_sharded, unwrapped
from personavec.stats.alarms import Scale, check_groups, groups_needed, parted, threshold_of_groups
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector, check_one_per_trait, reading_sides

log = logging.getLogger(__name__)

PREFIX, SUFFIX = "persona/", "_shift"  # around a trait, in what trainers log


def shift_limits(histories: Sequence[Sequence[Mapping[str, float]]], rate: float = 0.05) -> dict[str, float]:
    """Limits for `stop_above` that a training like these passes, for any trait and at any time, at most at this rate.

    Every training moves the readings, so that no shift is no norm: the norm are trainings that were found to be benign,
    of the same model, vectors, length and `every`. Of each counts how high a trait ever rose. A quarter of them, drawn
    at random, make traits comparable; the threshold for the highest of all traits is split-conformal over the others.

    Args:
        histories: `ShiftMonitor.history` of each benign training.

    Returns:
        The limit of each trait, in units of the projection.

    Raises:
        UserError: Too few trainings for the rate, one without a measurement or of other traits, or shifts all alike.
    """
    check_groups(len(histories), rate, "benign trainings", groups_needed(rate) if 0 < rate < 1 else None)
    names = [name for name in (histories[0][0] if histories[0] else {}) if name != "step"]
    if not names or any({*entry} - {"step"} != {*names} for history in histories for entry in history):
        raise UserError("The trainings were not watched for the same traits.", "Give histories of the same vectors.")
    if not all(histories):
        raise UserError("A training was never measured.", "Leave it out.")
    highest = np.array([[max(entry[name] for entry in history) for name in names] for history in histories])
    few, rest = parted(len(histories), seed=0)
    scale = Scale.of(highest[few])
    if not (scale.deviation > 0).all():
        raise UserError("The shifts of a quarter of the trainings are all alike.", "Give trainings that differ.")
    joint = threshold_of_groups(scale.of_values(highest[rest]).max(1), np.arange(rest.sum()), rate)
    limits = scale.centre + joint * scale.deviation
    return dict(zip(names, limits.tolist(), strict=True))


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
        stop_above: End training when a shift is above this: one number for all traits, or one for each by name
            (`shift_limits` makes them of benign trainings).
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
        self._trainer: Any = None
        self._shifts = PromptShifts(self.vectors, self.prompts)

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
        resumed = state.global_step > 0
        self._check(model, other_weights=self._checked or resumed or is_sharded(model))
        self._shifts.begin(model, processing_class, state)
        self.history, self.stopped = [], None

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
        self._trainer = None
        self._shifts.end()

    def _measure(self, model: Any, state: Any, control: Any) -> None:
        measured = self.history[-1]["step"] if self.history else None
        if not self._shifts.begun or measured == state.global_step:
            return
        shifts = zip(self.vectors, self._shifts.now(model), strict=True)
        shift = {vector.trait: float(some.mean()) for vector, some in shifts}
        self.history.append({"step": state.global_step, **shift})
        for trait, limit in self.stop_above.items():
            if not shift[trait] <= limit:
                found = f"the {trait} shift is {shift[trait]:.3g}, above {limit:.3g}"
                self.stopped = f"Training ends at step {state.global_step}: {found}."
                log.warning(self.stopped)
                control.should_training_stop = True
        log_beside(self._trainer, control, {f"{PREFIX}{trait}{SUFFIX}": value for trait, value in shift.items()})

    def _check(self, model: Any, *, other_weights: bool = False) -> None:
        for one in self.vectors:
            one.check(unwrapped(model), other_weights=self._other_weights or other_weights)


def watched_trait(key: str) -> str | None:
    """The trait whose shift a trainer logs under a key; None if the key stands for something else."""
    if not (key.startswith(PREFIX) and key.endswith(SUFFIX)):
        return None
    return key.removeprefix(PREFIX).removesuffix(SUFFIX)
