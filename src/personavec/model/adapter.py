"""A PEFT adapter on a model: put on as a whole or refused, and told apart from the weights of its base."""

import re
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from personavec.errors import UserError
from personavec.model.weights import misfit

ADVICE = "Give a folder with adapter_config.json made for this base model."
# What PEFT registers under several names, of which the file holds one or, where a seed makes it anew, none.
_SHARED = ("vblora_vector_bank", "prompt_encoder", ".tinylora_v.", ".unilora_theta_d.")


def put_on(model: Any, source: str, label: str) -> Any:
    """The model with an adapter, as a PeftModel.

    Args:
        source: A folder or a hub id.
        label: What the user calls the adapter.

    Raises:
        UserError: The adapter cannot be read, a tensor of it is missing or is not used, or sizes differ. The model is
            without the adapter then, where PEFT can take it off again.
    """
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    try:
        wrapped = PeftModel.from_pretrained(model, source)
        # from_pretrained keeps what fits of the file and does not say what does not. The same tensors once more do.
        mapping = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        held = load_peft_weights(source, device="cpu", key_mapping=mapping)
        result = set_peft_model_state_dict(wrapped, held)
    except MemoryError:
        raise
    except Exception as error:  # what is damaged makes the library raise whatever it stumbles on
        raise UserError(f"Cannot load the adapter {label!r}: {_reason(error)}", ADVICE) from error
    if problem := misfit(_missing(wrapped, set(result.missing_keys)), result.unexpected_keys):
        if hasattr(wrapped.base_model, "unload"):
            wrapped.unload()
        raise UserError(f"The adapter {label!r} does not fit this model: {problem}.", ADVICE)
    return wrapped


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


def _missing(wrapped: Any, absent: set[str]) -> list[str]:
    """Parameters of the adapter that none of the file's tensors went into, by any of their names."""
    there = {id(p) for name, p in wrapped.named_parameters(remove_duplicate=False) if name not in absent}
    return [
        name
        for name, module, leaf in adapter_parameters(wrapped)
        if name in absent and id(getattr(module, leaf)) not in there and not any(mark in name for mark in _SHARED)
    ]


def probe_tokens(model: Any) -> list[int]:
    """Token ids on which alone an adapter may act: those whose rows it has, and those that switch it on."""
    configs = getattr(model, "peft_config", {}).values()
    values = [value for config in configs for value in config.to_dict().values()]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    lists = [value for value in values if isinstance(value, list | tuple) and value]
    return [item for value in lists if all(type(item) is int for item in value) for item in value]


def _reason(error: Exception) -> str:
    said = str(error)
    if sizes := re.findall(r"size mismatch for (\S+):", said):
        names = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
        return f"its weights have other sizes than this model's ({len(sizes)}: {names})."
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing from its file."
    first = said.strip().partition("\n")[0]
    return first if isinstance(error, OSError | ValueError) and first else f"{type(error).__name__} {first}".strip()


