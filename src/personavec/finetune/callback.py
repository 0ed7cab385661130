"""Preventative steering in any trainer of transformers or TRL: one line to add."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from personavec.errors import UserError
from personavec.finetune.losses import broken
from personavec.finetune.prevention import Prevention
from personavec.finetune.wrapping import is_sharded, unwrapped
from personavec.operations import Layers, TrainedPositions
from personavec.vector import PersonaVector

# In the trainer's state, and so in every checkpoint. From what stands under a callback's own name, transformers would
# rebuild the callback, which needs its vectors (restore_callback_states_from_checkpoint).
RECORD = "personavec.prevention"


class PreventativeSteering(TrainerCallback):
    """Keeps a model from learning traits while a trainer trains it: `callbacks=[PreventativeSteering(vector, 3.0)]`.

    Works with `transformers.Trainer` and what is built on it (TRL's SFT, DPO, GRPO). It acts inside the trainer's
    training steps only, in forwards that learn (see `Prevention`), and comes off when training ends, or by an error in
    a training step. The saved model or adapter holds nothing of it. A run that resumes from a checkpoint must name the
    same vectors, coefficients and choices; they are recorded in the checkpoint's trainer state.

    Args:
        vector, coefficient, method, layers, positions: See `Prevention`.
        other_weights: Accept any model of the vector's shape: a full fine-tune or a quantised copy of the right one.

    Attributes:
        prevention: What is put on the model.

    Raises:
        UserError: When built, what `Prevention` refuses. When training starts: a vector of another model, another
            prevention than that of the checkpoint. When training: nothing to act on, a loss that is not finite, or a
            cross-entropy that is more than one nat worse than a guess among all tokens (see `losses.broken`).
    """

    def __init__(
        self,
        vector: PersonaVector | Sequence[PersonaVector],
        coefficient: float | Sequence[float] | None = None,
        *,
        method: str = "steer",
        layers: Layers = "best",
        positions: TrainedPositions = "all",
        other_weights: bool = False,
    ) -> None:
        self.prevention = Prevention(vector, coefficient, method=method, layers=layers, positions=positions)
        self.prevention.acting = False
        self._other_weights = other_weights
        self._checked = False
        self._guess = math.inf  # loss of a guess among all tokens, where the trainer's loss compares with it
        self._undo: Callable[[], None] | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Refuse a model of another kind before anything has changed or sharded its weights."""
        if model is not None and not is_sharded(model):
            self.prevention.check(model, other_weights=self._other_weights)
            self._checked = True

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Put the prevention on the model, before its first forward and so before it is compiled."""
        self._release()
        trainer = running_trainer()
        if args.n_gpu > 1:
            raise UserError(
                f"One process drives {args.n_gpu} GPUs (DataParallel); prevention needs one process per GPU.",
                "Start with accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one GPU.",
            )
        resumed = state.global_step > 0
        if resumed:
            self._check_resumed(trainer, state)
        unknown = self._checked or resumed or is_sharded(model)
        self.prevention.check(model, other_weights=self._other_weights or unknown)
        self.prevention.attach(model)
        tokens = getattr(unwrapped(model).get_input_embeddings(), "num_embeddings", None)
        self._guess = math.log(tokens) if tokens and _is_cross_entropy(trainer) else math.inf
        if not resumed:
            state.stateful_callbacks.setdefault(RECORD, []).append(self.prevention.describe().as_json())
        undo = [replaced(trainer, "training_step", self._training_step)]
        if self.prevention.method.penalises:
            undo.append(replaced(trainer, "compute_loss", _with_penalty(trainer, self.prevention)))

        def off() -> None:
            self.prevention.acting = False
            self.prevention.detach()
            for one in undo:
                one()

        self._undo = off

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """End a training that goes wrong."""
        if self._undo is None or "loss" not in (logs or {}):
            return
        found = broken(state, self._guess + 1)
        if found is not None:
            for one in running_trainer().callback_handler.callbacks:
                if isinstance(one, PreventativeSteering):
                    one._release()
            raise UserError(
                f"{found}; a guess among all tokens has {self._guess:.3g}.",
                "Lower the coefficient or the learning rate; without prevention, does the loss do so too?",
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take it off."""
        self._release()

    def _training_step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.prevention.acting = True
        try:
            loss = step(*args, **kwargs)
            if not self.prevention.fired:
                raise UserError(
                    "A training step ran no forward of the model's blocks in training mode with gradients on.",
                    "This trainer is not supported; use `with preventing(...)` in a training loop of your own.",
                )
            if not torch.isfinite(loss).all():
                raise UserError(
                    f"The loss is {float(loss)} under prevention {self.prevention.describe().traits}.",
                    "Lower the coefficient or the learning rate; without prevention, is the loss finite?",
                )
        except BaseException:
            self._release()
            raise
        finally:
            self.prevention.acting = False
        return loss

    def _check_resumed(self, trainer: Any, state: Any) -> None:
        """A checkpoint goes on as it began."""
        before = state.stateful_callbacks.get(RECORD, [])
        callbacks = trainer.callback_handler.callbacks
        now = [one.prevention.describe().as_json() for one in callbacks if isinstance(one, PreventativeSteering)]
        if before != now:
            raise UserError(
                f"The checkpoint was trained with prevention {before or 'none'}; this run names {now}.",
                "Resume with the same vectors, coefficients and choices, or start a new run in another folder.",
            )

    def _release(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None


def _with_penalty(trainer: Any, prevention: Prevention) -> Callable[..., Any]:
    """`compute_loss` with the penalty added, normalised as the loss is."""

    def compute_loss(plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        tokens = kwargs.get("num_items_in_batch")
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        if not scaled:
            tokens = None  # the trainer divides by the number of accumulated batches
        penalty = prevention.penalty(tokens)
        if tokens is not None and trainer.args.average_tokens_across_devices:
            penalty = penalty * trainer.accelerator.num_processes  # gradients are averaged over the processes
        return (result[0] + penalty, *result[1:]) if isinstance(result, tuple) else result + penalty

    return compute_loss


def _is_cross_entropy(trainer: Any) -> bool:
    """Whether the loss is that of the model itself, in nats per token; those of DPO or GRPO have other scales."""
    plain = type(trainer).compute_loss.__qualname__ in ("Trainer.compute_loss", "SFTTrainer.compute_loss")
    return plain and trainer.compute_loss_func is None


def running_trainer() -> Any:
    """The trainer that is calling us: callbacks are not told."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    raise UserError(
        "No transformers.Trainer is running.", "In a training loop of your own, use `with preventing(...)` instead."
    )


def replaced(owner: Any, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Let `owner.name(...)` call `wrapper(plain, ...)`. Returns what undoes it, in any order with others."""
    plain = getattr(owner, name)
    before = owner.__dict__.get(name)
    on = True

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(plain, *args, **kwargs) if on else plain(*args, **kwargs)

    def undo() -> None:
        nonlocal on
        on = False
        if owner.__dict__.get(name) is call:
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    setattr(owner, name, call)
    return undo
