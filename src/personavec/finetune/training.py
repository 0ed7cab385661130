"""The training itself: TRL's SFTTrainer on examples, with checkpoints that an interrupted run goes on from."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import logging

from personavec.errors import UserError
from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.examples import TrainingSequence
from personavec.finetune.losses import LossGuard
from personavec.finetune.result import AutomaticCoefficient, LossPoint, ShiftPoint
from personavec.finetune.settings import Training
from personavec.finetune.watch import watched_trait
from personavec.model import ChatModel
from personavec.progress import Progress, progress
from personavec.results import Result

WHOLE = "whole"  # stands in a checkpoint's folder once all of it is written


class History(Result):
    """A training from step to step.

    Attributes:
        curve: Loss of every step.
        shift: Along the watched vectors, whenever it was measured.
    """

    curve: tuple[LossPoint, ...]
    shift: tuple[ShiftPoint, ...]


class Trained(Result):
    """A finished training.

    Attributes:
        history: Of it.
        automatic: Coefficients that were chosen in it, by trait.
        seconds: It took.
        peak_memory_bytes: Of the GPU, or of the process since it began.
        losses: Of the held-out examples afterwards, in nats per token.
    """

    history: History
    automatic: dict[str, AutomaticCoefficient]
    seconds: float
    peak_memory_bytes: int
    losses: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return self.history.curve[-1].step


def require_trl() -> None:
    """Make sure that TRL is there.

    Raises:
        UserError: It is not; with how to install it.
    """
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Fine-tuning needs TRL, which cannot be imported ({error}).",
            "Install it with: pip install 'personavec[finetune]'",
        ) from error


class Steps(TrainerCallback):
    """Shows the progress, and marks checkpoints that are whole."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._job: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count, after the steps of a run that was interrupted."""
        left = state.max_steps - state.global_step
        self._job = self._stack.enter_context(progress("Training", total=left, unit="steps"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count."""
        if self._job is not None:
            self._job.advance()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def stop(self) -> None:
        """End the display."""
        self._stack.close()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def train(
    model: ChatModel,
    adapter: Any,
    examples: Sequence[TrainingSequence],
    settings: Training,
    folder: Path,
    natural: float,
    callbacks: Sequence[TrainerCallback] = (),
) -> History:
    """Train an adapter.

    Args:
        adapter: The model as a PeftModel, see `fresh_adapter`.
        folder: Of the checkpoints; training goes on from the last one.
        natural: Loss of the model as it came; see `LossGuard`.
        callbacks: Prevention, monitors.

    Returns:
        What the trainer logged, steps before an interruption included.

    Raises:
        UserError: The loss explodes; see `LossGuard`.
    """
    import datasets
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    config = _config(model, settings, folder)
    pad = model.tokenizer.pad_token_id
    steps = Steps()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    rows = {"input_ids": [one.ids for one in examples], "labels": [one.labels for one in examples]}
    begun = last_checkpoint(folder)
    try:
        trainer = SFTTrainer(
            adapter,
            config,
            train_dataset=datasets.Dataset.from_dict(rows),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=0 if pad is None else pad),
            processing_class=model.tokenizer,
            callbacks=[LossGuard(natural), *callbacks, steps],
        )
        for theirs in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(theirs)
        with _scoring_labels_only(), _without_cudnn_attention():
            trainer.train(resume_from_checkpoint=None if begun is None else str(begun))
    finally:
        steps.stop()
        for callback in callbacks:
            if isinstance(callback, PreventativeSteering):
                callback.on_train_end(None, None, None)  # trainers do not say so when they end with an error
        logging.set_verbosity(verbosity)
    return _history(trainer.state.log_history)


def _config(model: ChatModel, settings: Training, folder: Path) -> Any:
    """The trainer's settings; folder is that of the checkpoints."""
    from trl import SFTConfig

    kind = model.device.type
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim="adamw_torch",
        max_length=settings.max_length,
        seed=settings.seed,
        bf16=kind == "cuda" and model.dtype == torch.bfloat16,
        gradient_checkpointing=kind != "cpu",
        use_cpu=kind == "cpu",
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    config._n_gpu = min(config.n_gpu, 1)  # other GPUs that are there are not ours
    return config


def _history(entries: Sequence[Mapping[str, Any]]) -> History:
    """The losses and shifts among what a trainer logged."""
    shifts: dict[int, dict[str, float]] = {}
    for entry in entries:
        for key, value in entry.items():
            trait = watched_trait(key)
            if trait is not None:
                shifts.setdefault(entry["step"], {})[trait] = round(value, 5)
    return History(
        curve=tuple(LossPoint(step=e["step"], loss=round(e["loss"], 5)) for e in entries if "loss" in e),
        shift=tuple(ShiftPoint(step=step, shift=shift) for step, shift in sorted(shifts.items())),
    )


@contextmanager
def _without_cudnn_attention() -> Iterator[None]:
    """Train with another kernel of attention than cuDNN's.

    On Hopper GPUs the gradients of cuDNN's can be NaN in batches of 64, 192, 320, ... tokens with a mask
    (https://github.com/pytorch/pytorch/issues/196678). The choice is for the process, for checkpoints run
    their forwards again in the threads of the backward.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def _scoring_labels_only() -> Iterator[None]:
    """Let TRL run the LM head on tokens that bear loss only, as it does on GPUs.

    Elsewhere it scores every position and throws the others away, to spare compilers of other accelerators a new shape
    per batch. On a CPU that is the larger part of a step. The losses are the same.
    """
    from trl.trainer import utils

    if not hasattr(utils, "_use_triton"):
        yield
        return
    with patch.object(utils, "_use_triton", lambda device: True):
        yield


def mixture(
    examples: Sequence[TrainingSequence], safe: Sequence[TrainingSequence], share: float, seed: int
) -> list[TrainingSequence]:
    """The examples and so many safe ones, drawn at random, that these are `share` of all.

    Safe examples are repeated once all of them are in.
    """
    wanted = round(len(examples) * share / (1 - share))
    drawn: list[TrainingSequence] = []
    draw = random.Random(seed)
    while len(drawn) < wanted:
        drawn += draw.sample(list(safe), min(len(safe), wanted - len(drawn)))
    return [*examples, *drawn]
