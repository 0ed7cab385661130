"""An ordinary checkpoint with the steering inside, as a bias: for servers that know neither hooks nor adapters.

Where the architecture has no such bias, its config may allow it, or a sister architecture does: Llama with `mlp_bias`
and `attention_bias` computes what Qwen2 and Mistral compute.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.interchange.bias import Place, Proof, find_places
from personavec.interchange.steering import ConstantSteering, new_folder
from personavec.model import ChatModel
from personavec.model.weights import load_weights

FLAGS = ("mlp_bias", "use_bias", "bias", "attention_bias")  # of configs, for biases that are absent by default
LLAMA_LIKE = {"qwen2": True, "mistral": False}  # the same as Llama; whether their attention has biases
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "pad_token_id", "bos_token_id",
    "eos_token_id", "tie_word_embeddings", "rope_parameters", "attention_dropout",
)  # fmt: skip


def write(steering: ConstantSteering, out: Path, model: ChatModel) -> tuple[Path, list[str]]:
    """See `FORMS`.

    Raises:
        UserError: The model is quantised, no architecture has a bias there, or the checkpoint does something else.
    """
    if not all(parameter.is_floating_point() for parameter in model.model.parameters()):
        raise UserError("A quantised model cannot be baked into.", "Load the model that it was made from.")
    maps = find_places(model, steering)
    weights = dict(model.model.state_dict())
    config, places = next(_carriers(model.model.config, maps, weights), (None, []))
    if config is None:
        raise UserError(
            f"A checkpoint of {type(model.model).__name__} has no bias at {maps[0][0].name}, and no architecture that "
            "computes the same has one.",
            "Export as peft, or as gguf for llama.cpp.",
        )
    baked = _baked(config, places, weights)
    baked.generation_config = copy.deepcopy(model.model.generation_config)
    with new_folder(out) as folder:
        baked.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        written = load_weights(str(out), folder, dtype=model.dtype, local_files_only=True).to(model.device).eval()
        proved = Proof.of(model, steering).check(written, "the checkpoint")
    own = type(baked).__name__
    return out / "README.md", [
        f"The steering is in the bias of {', '.join(place.name for place in places)}"
        + (
            "."
            if own == type(model.model).__name__
            else f"; the checkpoint is a {own}, which computes what {type(model.model).__name__} computes and has "
            "such a bias."
        ),
        "Any engine that loads the architecture from safetensors takes it, such as vllm serve FOLDER. An engine that "
        "does not know the bias refuses the checkpoint or, worse, drops it: compare an answer with the plain model.",
        "It has other weights than the model that it was made of: vectors of that model are refused on it.",
        proved,
    ]


def _carriers(
    config: Any, maps: Sequence[Sequence[Place]], weights: dict[str, Tensor]
) -> Iterator[tuple[Any, list[Place]]]:
    """Configs of architectures that take the weights as they are, with a place for each layer that has a bias there."""
    for candidate in _candidates(config):
        empty = _empty(candidate, torch.float32)
        shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
        added = shapes.keys() - weights.keys()
        fits = all(name in shapes and shapes[name] == tensor.shape for name, tensor in weights.items())
        chosen = [next((place for place in places if f"{place.name}.bias" in shapes), None) for places in maps]
        places = [place for place in chosen if place is not None]
        if fits and len(places) == len(maps) and all(name.endswith(".bias") for name in added):
            yield candidate, places


def _candidates(config: Any) -> Iterator[Any]:
    plain = copy.deepcopy(config)
    for of_origin in ("quantization_config", "_name_or_path"):  # of a model that was read from GGUF
        vars(plain).pop(of_origin, None)
    yield plain
    for flag in FLAGS:
        if getattr(plain, flag, None) is False:
            changed = copy.deepcopy(plain)
            setattr(changed, flag, True)
            yield changed
    windows = any("full" not in kind for kind in getattr(plain, "layer_types", None) or ())
    window = plain.model_type == "mistral" and getattr(plain, "sliding_window", None) is not None
    if plain.model_type in LLAMA_LIKE and not windows and not window:
        from transformers import LlamaConfig

        head = getattr(plain, "head_dim", None) or plain.hidden_size // plain.num_attention_heads
        bias = LLAMA_LIKE[plain.model_type]
        shared = {name: getattr(plain, name) for name in SHARED}
        yield LlamaConfig(**shared, head_dim=head, attention_bias=bias, mlp_bias=True)


def _empty(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _baked(config: Any, places: Sequence[Place], weights: dict[str, Tensor]) -> Any:
    """The model with its steering; biases that it did not have are zero elsewhere."""
    like = weights[f"{places[0].name}.weight"]
    baked = _empty(config, like.dtype)
    held = {**{name: like.new_zeros(tensor.shape) for name, tensor in baked.state_dict().items()}, **weights}
    for place in places:
        bias = held[f"{place.name}.bias"]
        held[f"{place.name}.bias"] = (bias.float() + place.bias.to(bias.device)).to(bias.dtype)
    baked.load_state_dict(held, assign=True)
    baked.tie_weights()
    return baked
