"""A model that is being trained, put into evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; every module is then as it was, also after an error.

    Four-bit layers of bitsandbytes stay in training mode: on a CPU they repack their weights at the first forward in
    evaluation mode, and gradients no longer flow through them.
    """
    quantised = {module for module in model.modules() if type(module).__module__.startswith("bitsandbytes")}
    learning = [module for module in model.modules() if module.training and module not in quantised]
    try:
        for module in learning:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in learning:
            module.training = True
