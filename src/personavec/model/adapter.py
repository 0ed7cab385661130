"""A PEFT adapter on a model: put on as a whole or refused."""

import re
import warnings
from typing import Any

from personavec.errors import UserError
from personavec.model.identity import adapter_parameters, weights_hash
from personavec.model.weights import misfit

ADVICE = "Give a folder with adapter_config.json made for this base model."
# What PEFT does not write into the file, or under one of several names.
_SHARED = (".ranknum.", "vblora_vector_bank", "prompt_encoder", ".tinylora_v.", ".unilora_theta_d.")


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

    before = weights_hash(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # told below
            wrapped = PeftModel.from_pretrained(model, source)
        # from_pretrained keeps what fits of the file and does not say what does not. The same tensors once more do.
        mapping = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        held = load_peft_weights(source, device="cpu", key_mapping=mapping)
        result = set_peft_model_state_dict(wrapped, held)
    except MemoryError:
        raise
    except Exception as error:  # what is damaged makes the library raise whatever it stumbles on
        raise UserError(f"Cannot load the adapter {label!r}: {_reason(error)}", ADVICE) from error
    try:
        if not wrapped.active_peft_config.is_prompt_learning:  # PEFT counts a tuned prompt as unused though it is not
            problem = misfit(_missing(wrapped, set(result.missing_keys)), result.unexpected_keys)
            if problem:
                raise UserError(f"The adapter {label!r} does not fit this model: {problem}.", ADVICE)
        if weights_hash(wrapped) != before:
            raise UserError(
                f"The adapter {label!r} changes weights of the base model itself, such as its biases, so the base "
                "model could not be read beside it.",
                "Merge it into the base model, save that, and give it with `model`.",
            )
    except UserError:
        if hasattr(wrapped.base_model, "unload"):
            wrapped.unload()
        raise
    return wrapped


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
