"""A PEFT adapter: LoRA whose matrices are zero and whose bias is what steering adds."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save
from transformers.pytorch_utils import Conv1D

from personavec.files import write_atomic
from personavec.interchange.bias import Proof, find_places
from personavec.interchange.steering import ConstantSteering, new_folder
from personavec.model import ChatModel
from personavec.model.adapter import put_on


def write(steering: ConstantSteering, out: Path, model: ChatModel) -> tuple[Path, list[str]]:
    """See `FORMS`.

    Raises:
        UserError: The architecture has no place for it, PEFT refuses it, or the adapter does something else.
    """
    from peft import LoraConfig

    places, proof = [maps[0] for maps in find_places(model, steering)], Proof.of(model, steering)
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        lora_bias=True,
        target_modules=[place.name for place in places],
        fan_in_fan_out=isinstance(places[0].module, Conv1D),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.id,
        inference_mode=True,
    )
    tensors = {}
    for place in places:
        prefix = f"base_model.model.{place.name}.lora_"
        tensors[f"{prefix}A.weight"] = torch.zeros(1, place.in_features)
        tensors[f"{prefix}B.weight"] = torch.zeros(len(place.bias), 1)
        tensors[f"{prefix}B.bias"] = place.bias.contiguous()
    with new_folder(out) as folder:
        config.save_pretrained(str(folder))
        metadata = {"format": "pt", "personavec": steering.facts()}
        write_atomic(folder / "adapter_model.safetensors", save(tensors, metadata))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`lora_bias=True` was passed")  # told below
            wrapped = put_on(model.model, str(folder), str(out))
        try:
            proved = proof.check(wrapped, "the adapter")
        finally:
            wrapped.unload()
    return out / "README.md", [
        f"Biases of {', '.join(place.name for place in places)}, already times the coefficient: scale 1 is what is "
        "described here. It is LoRA of rank 1 with zero matrices (lora_bias); it cannot be merged into a layer without "
        "a bias.",
        f'PeftModel.from_pretrained(model, "{out.name}"), or model.load_adapter("{out.name}") of transformers. In one '
        'batch, adapter_names=["default", "__base__"] steers the first row and leaves the second.',
        proved,
    ]
