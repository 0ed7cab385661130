"""Which weights a model has: its base's parameters and its adapter's, told apart, and short hashes of both."""

import copy
import hashlib
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn


def weights_hash(model: Any) -> str:
    """Short hash of the weights' names, shapes and a sample of their values.

    Sixty-four numbers spread over every parameter, rounded to bfloat16: enough to tell any fine-tune from its base, the
    same for every dtype the model is loaded in, fast for any size. A PEFT adapter's own parameters do not count.
    """

    def sampled() -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        for name, owner, leaf in sorted(base_parameters(model), key=lambda found: found[0]):
            with align_module_device(owner):  # fetches what is offloaded
                parameter = getattr(owner, leaf)
                if getattr(getattr(parameter, "quant_state", None), "packing_format_for_cpu", False):
                    # In its first forward bitsandbytes lays 4-bit weights out for the processor. Saving undoes that,
                    # but leaves a layer that computes something else: so a copy of it.
                    parameter = copy.deepcopy(owner).state_dict()[leaf]
            flat = parameter.detach().flatten()
            yield name, tuple(parameter.shape), flat[sampled_places(flat.numel(), flat.device)]

    return hash_samples(sampled())


def sampled_places(numel: int, device: torch.device | None = None) -> Tensor:
    """Indices into a flattened parameter of the numbers that its hash is made of."""
    return torch.linspace(0, numel - 1, min(64, numel), dtype=torch.float64, device=device).long()


def hash_samples(parameters: Iterable[tuple[str, tuple[int, ...], Tensor]]) -> str:
    """The hash of names, shapes and sampled numbers, in the order of the names."""
    digest = hashlib.sha256()
    for name, shape, sample in parameters:
        digest.update(f"{name}{shape}".encode())
        values = sample.to(torch.bfloat16).double().cpu().tolist()
        digest.update(struct.pack(f"{len(values)}d", *values))
    return digest.hexdigest()[:16]


def adapter_hash(model: Any) -> str:
    """Short hash of all values of a PEFT adapter."""
    digest = hashlib.sha256()
    for name, owner, leaf in sorted(adapter_parameters(model), key=lambda found: found[0]):
        with align_module_device(owner):
            values = getattr(owner, leaf).detach().float().cpu().numpy()
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()[:16]


def base_parameters(model: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """The parameters that a model has without adapters: name there, the module that now holds it, its name in that.

    PEFT wraps modules in ones of its own, in the PeftModel or, where the model was given the adapter itself, in place.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    wrappers = _wrappers()
    for full, _ in base.named_parameters():
        module, own = base, []
        *path, leaf = full.split(".")
        for part in path:
            if not isinstance(module, wrappers):
                own.append(part)
            elif part not in ("base_layer", "original_module", "token_adapter", "model"):
                break  # of the adapter
            module = getattr(module, part)
        else:
            if not isinstance(module, wrappers):
                yield ".".join([*own, leaf]), module, leaf


def adapter_parameters(model: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """The other ones: full name, the module that holds it, its name in that."""
    base = {id(getattr(module, leaf)) for _, module, leaf in base_parameters(model)}
    for full, parameter in model.named_parameters():
        if id(parameter) not in base:
            owner, _, leaf = full.rpartition(".")
            yield full, model.get_submodule(owner), leaf


def _wrappers() -> tuple[type, ...]:
    """PEFT's modules that stand where modules of the model stood; none where PEFT was never imported."""
    if "peft" not in sys.modules:
        return ()
    from peft.tuners.adaption_prompt.layer import AdaptedAttention, AdaptedAttentionGPT
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return BaseTunerLayer, AuxiliaryTrainingWrapper, AdaptedAttention, AdaptedAttentionGPT
