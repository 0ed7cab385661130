"""Constant steering as a bias: which linear map of a block has its output added to the stream as it is.

The places are found by trial, since names tell nothing of a norm, a gate or a factor behind a linear map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from personavec.errors import UserError
from personavec.interchange.steering import ConstantSteering
from personavec.interventions import intervening
from personavec.model import ChatModel

TEXT = "Tell me about a walk that you liked."
FACTOR_NOISE = 0.01  # of a factor that was measured, in bfloat16 at worst


@dataclass(frozen=True)
class Place:
    """A linear map whose bias steers.

    Attributes:
        name: In the model.
        module: The map.
        bias: (d,) float32, what its output must be raised by.
    """

    name: str
    module: nn.Module
    bias: Tensor

    @property
    def in_features(self) -> int:
        """Width of what the map takes."""
        module: Any = self.module
        return int(module.weight.shape[0] if isinstance(module, Conv1D) else module.in_features)


def find_places(model: ChatModel, steering: ConstantSteering) -> list[list[Place]]:
    """The linear maps of each steered block that write to the stream as it leaves the block, the last one first.

    Of blocks whose parts run one after the other it is one map, where they run side by side, one of each.

    Raises:
        UserError: A block has none: a norm or a gate comes between, or experts take turns; or the model bears an
            adapter.
    """
    if model.adapter_hash is not None:
        raise UserError("The model bears an adapter, which an export cannot hold.", "Load it without `adapter`.")
    names = {module: name for name, module in model.model.named_modules()}
    return [_places(model, names, layer, delta) for layer, delta in steering.added.items()]


def _places(model: ChatModel, names: Mapping[nn.Module, str], layer: int, delta: Tensor) -> list[Place]:
    delta = delta.to(model.device)
    before = _output(model, layer)
    found = []
    maps = [module for module in model.blocks.layers[layer - 1].modules() if isinstance(module, nn.Linear | Conv1D)]
    for module in reversed(maps):
        if (module.nf if isinstance(module, Conv1D) else module.out_features) != model.hidden_size:
            continue
        handle = module.register_forward_hook(lambda _, __, out: out + delta.to(out))
        try:
            after = _output(model, layer)
        finally:
            handle.remove()
        factor = _factor(before, after, delta)
        if factor is not None:
            found.append(Place(names[module], module, (delta / factor).cpu()))
    if found:
        return found
    raise UserError(
        f"No linear map of block {layer} of {type(model.model).__name__} has its output added to the residual stream "
        "as it is, so no bias in it steers there: a norm, a gate or a choice of experts comes between.",
        "Export as gguf for llama.cpp, or steer with personavec.",
    )


def _factor(before: Tensor, after: Tensor, delta: Tensor) -> float | None:
    """`k` of `after = before + k delta` at every token; None: it is no such thing. Residual multipliers are not 1."""
    changed = (after - before).double()
    factor = float((changed @ delta.double() / delta.double().square().sum()).median())
    # What adding rounds away, and a thousandth of what is added.
    rounding = 4 * torch.finfo(before.dtype).eps * (before.abs() + after.abs())
    room = 2e-3 * abs(factor) * float(delta.abs().max()) + rounding
    if factor == 0 or not bool(((changed - factor * delta).abs() <= room).all()):
        return None
    return 1.0 if abs(factor - 1) < FACTOR_NOISE else factor


@torch.no_grad()
def _output(model: ChatModel, layer: int) -> Tensor:
    """States (tokens, d) after a block."""
    held: list[Tensor] = []
    blocks = model.blocks
    with blocks.unwatched(), blocks.stopping_at(layer), blocks.watching({layer: lambda h: held.append(h[0].clone())}):
        blocks.trunk(input_ids=probe_ids(model), use_cache=False)
    return held[0]


def probe_ids(model: ChatModel) -> Tensor:
    """A short conversation (1, tokens), on which exports are proved."""
    return torch.tensor([model.prompt_ids([{"role": "user", "content": TEXT}])], device=model.device)


@dataclass(frozen=True)
class Proof:
    """What an export must give back on a short conversation: made before the export touches the model.

    Attributes:
        ids: (1, tokens).
        plain, steered: Logits (1, tokens, vocabulary) without and with steering.
        dtype: Of the model.
    """

    ids: Tensor
    plain: Tensor
    steered: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, model: ChatModel, steering: ConstantSteering) -> "Proof":
        """From the model under hooks."""
        ids = probe_ids(model)
        plain = _logits(model.model, ids)
        with intervening(model, [steering.edits]):
            return cls(ids, plain, _logits(model.model, ids), model.dtype)

    def check(self, written: Any, what: str) -> str:
        """Refuse what does not do what steering does.

        Args:
            written: Model that was loaded from what was written.
            what: Names it.

        Returns:
            A sentence: how equal they are.

        Raises:
            UserError: They differ by more than rounding.
        """
        return self.compare(_logits(written, self.ids), what)

    def compare(self, found: Tensor, what: str) -> str:
        """See `check`; logits (1, tokens, vocabulary)."""
        effect = float((self.steered - self.plain).square().mean().sqrt())
        error = float((self.steered - found).square().mean().sqrt())
        exact = self.dtype in (torch.float32, torch.float64)
        if not error <= (1e-3 if exact else 0.1) * effect:
            raise UserError(
                f"{what} does not do what steering does: its logits differ from those of the steered model by "
                f"{error:.2g} (root mean square), and steering changes them by {effect:.2g}.",
                "This architecture cannot be exported so; please report the model's name."
                if exact
                else "Load the model with `dtype` float32, which rounds less.",
            )
        kind, largest = str(self.dtype).removeprefix("torch."), float((self.steered - found).abs().max())
        return (
            f"Proved on the model ({found.shape[1]} tokens, {kind}): logits of {what} and of the steered model differ "
            f"by at most {largest:.1g}; steering itself changes them by {effect:.2g} (root mean square)."
        )


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits
