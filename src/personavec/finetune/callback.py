"""Preventative steering in any trainer of transformers or TRL: one line to add."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from personavec.errors import UserError
from personavec.finetune.automatic import ClosedLoop
from personavec.finetune.losses import broken
from personavec.finetune.methods import stream_method
from personavec.finetune.prevention import Prevention
from personavec.finetune.result import AutomaticCoefficient, StreamPrevention
from personavec.finetune.trainers import replaced, running_trainer
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

    With the coefficient "auto" steering follows the shift that is watched while the model is trained, so that it stays
    near 0 (see `automatic.next_coefficient`): `PreventativeSteering(vector, "auto")`. The trainer then needs a
    tokenizer.

    Args:
        vector, coefficient, method, layers, positions: See `Prevention`; a coefficient may also be "auto".
        prompts: User messages at whose ends the shift is watched for "auto"; None: extraction questions of the trait.
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
        coefficient: float | Literal["auto"] | Sequence[float | Literal["auto"]] | None = None,
        *,
        method: str = "steer",
        layers: Layers = "best",
        positions: TrainedPositions = "all",
        prompts: Sequence[str] | None = None,
        other_weights: bool = False,
    ) -> None:
        given: list[Any] = list(coefficient) if isinstance(coefficient, list | tuple) else [coefficient]
        automatic = [at for at, one in enumerate(given) if one == "auto"]
        numbers: Any = coefficient
        if automatic:
            stream_method(method).check_coefficients(given, layers)
            numbers = [1.0 if one == "auto" else one for one in given]
        self.prevention = Prevention(vector, numbers, method=method, layers=layers, positions=positions)
        self.prevention.acting = False
        self._described = _described(self.prevention, automatic)  # before the coefficients move
        self._loop = ClosedLoop(self.prevention, automatic, prompts) if automatic else None
        self._other_weights = other_weights
        self._checked = False
        self._guess = math.inf  # loss of a guess among all tokens, where the trainer's loss compares with it
        self._undo: Callable[[], None] | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Refuse a model of another kind before anything has changed or sharded its weights."""
        if model is not None and not is_sharded(model):
            self.prevention.check(model, other_weights=self._other_weights)
            self._checked = True

    def describe(self) -> StreamPrevention:
        """All that it does, as `Prevention.describe`; coefficients that move are called "auto"."""
        return self._described

    @property
    def automatic(self) -> dict[str, AutomaticCoefficient]:
        """What became of the coefficients that were chosen in the training, by trait."""
        if self._loop is None:
            return {}
        return {vector.trait: found for vector, found in zip(self._loop.vectors, self._loop.found, strict=True)}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
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
            state.stateful_callbacks.setdefault(RECORD, []).append(self.describe().as_json())
        if self._loop is not None:
            self._loop.begin(model, processing_class, state, _preventions(trainer).index(self))
        undo = [replaced(trainer, "training_step", self._training_step)]
        if self.prevention.method.penalises:
            undo.append(replaced(trainer, "compute_loss", _with_penalty(trainer, self.prevention)))

        def off() -> None:
            self.prevention.acting = False
            self.prevention.detach()
            for one in undo:
                one()

        self._undo = off

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Choose the coefficient anew when it is time."""
        if self._loop is not None:
            self._loop.step(model, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """End a training that goes wrong."""
        if self._undo is None or "loss" not in (logs or {}):
            return
        found = broken(state, self._guess + 1)
        if found is not None:
            for one in _preventions(running_trainer()):
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
        now = [one.describe().as_json() for one in _preventions(trainer)]
        if before != now:
            raise UserError(
                f"The checkpoint was trained with prevention {before or 'none'}; this run names {now}.",
                "Resume with the same vectors, coefficients and choices, or start a new run in another folder.",
            )

    def _release(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None
        if self._loop is not None:
            self._loop.end()


def _preventions(trainer: Any) -> list[PreventativeSteering]:
    """Those of a trainer, in their order."""
    return [one for one in trainer.callback_handler.callbacks if isinstance(one, PreventativeSteering)]


def _described(prevention: Prevention, automatic: Sequence[int]) -> StreamPrevention:
    """What it does, with the names of traits whose coefficient moves."""
    found = prevention.describe()
    moving: dict[str, float | Literal["auto"]] = {prevention.vectors[at].trait: "auto" for at in automatic}
    return found.model_copy(update={"traits": found.traits | moving})


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
