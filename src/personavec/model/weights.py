"""Weights as a file holds them: every parameter comes from it and every tensor of it is used, or it is refused.

transformers loads whatever names match, leaves other parameters at random values, and says so only in its log.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from personavec.errors import UserError

NAMED = 3  # how many names a message gives
# What torch.compile, data parallel training and FSDP put into the names of what they wrap.
WRAPPERS = re.compile(r"_orig_mod\.|(?<![^.])module\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
# Buffers of older versions that hold nothing learned: the mask's constant, tables of the rotary embedding.
CONSTANTS = re.compile(r"\.masked_bias$|rotary_emb\.(inv_freq|(cos|sin)_cached)$")
SENSES = re.compile(r"vision|visual|image|audio|multi_?modal|mm_projector|mm_proj", re.IGNORECASE)


def load_weights(label: str, source: str | Path, **options: Any) -> Any:
    """`AutoModelForCausalLM.from_pretrained` of a checkpoint that fits as a whole.

    Args:
        label: What the user calls the model.
        options: For `from_pretrained`.

    Raises:
        UserError: A parameter is missing from the file, a tensor of the file is not used though the architecture does
            not leave it out by itself, a size differs, or the folder holds an adapter too.
        Exception: Whatever transformers raises where files are missing or damaged.
    """
    from transformers import AutoModelForCausalLM

    # Sizes are looked at below: transformers would name them only in its log.
    model, report = AutoModelForCausalLM.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    if getattr(model, "_hf_peft_config_loaded", False):  # the report is that of the adapter alone
        raise UserError(
            f"{label} is an adapter, or a model with an adapter beside it (adapter_config.json).",
            "Name the base model with `model` and the adapter, in a folder of its own, with `adapter`.",
        )
    missing = set(report["missing_keys"])
    unused = {name for name in report["unexpected_keys"] if not CONSTANTS.search(name)}
    if "gguf_file" in options:
        unused |= _passed_over(Path(source) / options["gguf_file"], model)
    sizes = [f"{name} {list(held)} for {list(wanted)}" for name, held, wanted in sorted(report["mismatched_keys"])]
    if problem := misfit(missing, unused, sizes):
        raise UserError(
            f"The weights of {label!r} are not those of its {type(model).__name__}: {problem}.",
            _advice(missing, unused, gguf="gguf_file" in options),
        )
    return model


def misfit(missing: Iterable[str], unused: Iterable[str], sizes: Sequence[str] = ()) -> str:
    """How the names in a file differ from a model's, with counts and the first names; empty if they do not."""
    found = (
        (sorted(missing, key=_by_number), "parameters are missing from the file"),
        (sorted(unused, key=_by_number), "tensors of the file are not used"),
        (list(sizes), "have another size"),
    )
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for names, what in found
        if names
    )


def unwrapped_name(name: str) -> str:
    """A tensor's name without what wrappers of training put into it."""
    return WRAPPERS.sub("", name)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _advice(missing: set[str], unused: set[str], *, gguf: bool) -> str:
    if missing and {unwrapped_name(name) for name in unused} & missing:
        return (
            "The names carry the prefix of a wrapper (torch.compile, DDP, FSDP): save the model inside it again with "
            "save_pretrained, for example accelerator.unwrap_model(model).save_pretrained(...)."
        )
    if not missing and unused and all(SENSES.search(name) for name in unused):
        return "Models that see or hear are not supported: give a text-only model."
    if gguf:  # among them the frequencies of a scaled rotary embedding, without which the figures would be others
        return "transformers does not read this GGUF file as a whole: give the model as safetensors (its hub id)."
    return "Save the whole model again with save_pretrained, beside the config.json that it was trained with."


def _passed_over(gguf: Path, model: Any) -> set[str]:
    """Tensors of a GGUF file that transformers' older reader, which does not report them, has left out."""
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    metadata, names = read_gguf_metadata(str(gguf))
    architecture = metadata["general.architecture"]
    if is_gguf_arch_supported(architecture):  # by the newer one, which does
        return set()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    known = get_gguf_hf_weights_map(model, processor)
    # Experts, which come stacked, have names of their own; they are missing from the model if they are not read.
    return {name for name in names if name not in known and not re.search(r"_(exps|projs)\.", name)}
