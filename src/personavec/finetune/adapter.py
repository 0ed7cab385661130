"""The LoRA adapter that is trained: where it goes, and a model that is afterwards as it was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from personavec.errors import UserError
from personavec.finetune.settings import Training
from personavec.model import ChatModel
from personavec.model.adapter import put_on

ROUTERS = ("gate", "router", "shared_expert_gate")  # which expert a token goes to is not a projection of the stream
PROVED = {"packs", "pads", "decoding"}  # see `ChatModel`


def projections(model: ChatModel) -> list[str]:
    """Names of the linear maps inside the blocks (attention and MLP), as PEFT takes them.

    The last parts of the names where these mean the same modules, else the full names.

    Raises:
        UserError: There are none.
    """
    inside = {id(module) for module in model.blocks.layers.modules() if isinstance(module, nn.Linear | Conv1D)}
    linear = {
        name: id(module) in inside
        for name, module in model.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.rpartition(".")[2] not in ROUTERS
    }
    full = [name for name, wanted in linear.items() if wanted]
    if not full:
        raise UserError(
            f"No linear map was found in the blocks of {type(model.model).__name__}.",
            "This architecture is not supported yet; please report the model's name.",
        )
    short = {name.rpartition(".")[2] for name in full}
    elsewhere = {name.rpartition(".")[2] for name, wanted in linear.items() if not wanted}
    return full if short & elsewhere else sorted(short)


def save_adapter(model: ChatModel, adapter: Any, folder: Path) -> None:
    """Write an adapter in PEFT's format; the folder is there as a whole or not at all.

    Args:
        adapter: The PeftModel.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    for left in (temporary, folder):
        shutil.rmtree(left, ignore_errors=True)
    adapter.peft_config["default"].base_model_name_or_path = model.id
    adapter.save_pretrained(str(temporary), save_embedding_layers=False)
    temporary.rename(folder)


@contextmanager
def fresh_adapter(model: ChatModel, settings: Training) -> Iterator[Any]:
    """The model with a fresh LoRA adapter, as a PeftModel. When the context ends the model is as it was before.

    Raises:
        UserError: See `projections`.
    """
    from peft import LoraConfig, get_peft_model

    plain = model.model
    configs = [plain.config, plain.config.get_text_config(), getattr(plain, "generation_config", None)]
    kept = [(config, dict(vars(config))) for config in configs if config is not None]
    forward = plain.__dict__.get("forward")
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=projections(model),
        task_type="CAUSAL_LM",
    )
    with _unmarked(plain):
        wrapped = get_peft_model(plain, lora)
        try:
            yield wrapped
        finally:
            if any(getattr(module, "gradient_checkpointing", False) for module in plain.modules()):
                plain.gradient_checkpointing_disable()
                plain.disable_input_require_grads()
            # TRL puts a forward of its own on the model, and trainers write into its configs: token ids, no cache.
            if forward is None:
                plain.__dict__.pop("forward", None)
            else:
                plain.forward = forward
            wrapped.unload()
            for config, values in kept:
                vars(config).clear()
                vars(config).update(values)
            plain.eval()


@contextmanager
def saved_adapter(model: ChatModel, adapter: Path | str) -> Iterator[ChatModel]:
    """The model with a saved adapter on, its weights not copied. When the context ends the model is as it was before.

    Within it the model that was given carries the adapter too, but where the yielded one is `unadapted`.
    """
    with _unmarked(model.model) as plain:
        wrapped = put_on(plain, str(adapter), str(adapter))
        try:
            tuned = ChatModel(wrapped, model.tokenizer, f"{model.id}+{adapter}", thinking=model.template.thinking)
            # What was proved of attention and its cache holds for other projections too.
            vars(tuned).update({name: vars(model)[name] for name in PROVED & vars(model).keys()})
            yield tuned
        finally:
            wrapped.unload()


@contextmanager
def _unmarked(plain: Any) -> Iterator[Any]:
    """Take away what PEFT leaves on a model after it has unloaded an adapter."""
    learning = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    try:
        yield plain
    finally:
        if hasattr(plain, "peft_config"):
            del plain.peft_config
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(name in learning)
