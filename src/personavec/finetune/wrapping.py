"""Models as trainers have them: wrapped, sharded, in training mode."""

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from personavec.model.blocks import Blocks, find_blocks


def unwrapped(model: Any) -> Any:
    """The transformers or PEFT model inside a ChatModel, DDP, FSDP or a compiled module."""
    inner = getattr(model, "model", model) if hasattr(model, "blocks") else model
    return extract_model_from_parallel(inner, keep_torch_compile=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter is not here as a whole, so that only all processes together can run a forward."""
    kinds: tuple[type, ...] = ()
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FlatParameter
        from torch.distributed.tensor import DTensor

        kinds = (FlatParameter, DTensor)
    return any(parameter.is_meta or isinstance(parameter, kinds) for parameter in model.parameters())


def blocks_of(model: Any) -> Blocks:
    """The decoder blocks, proved by a forward where one can be run.

    On a CPU, bitsandbytes repacks four-bit weights at the first forward in evaluation mode, and gradients no longer
    flow through them.
    """
    inner = unwrapped(model)
    return find_blocks(inner, prove=not is_sharded(inner) and not getattr(inner, "is_quantized", False))
