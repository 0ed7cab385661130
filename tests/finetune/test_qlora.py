# mypy: disable-error-code="union-attr"
"""Steering of a model with four-bit weights."""

from pathlib import Path

import by_hand
import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from personavec.finetune import preventing

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")


@pytest.mark.parametrize("method", ["steer", "regularise"])
def test_four_bits(tmp_path: Path, method: str) -> None:
    by_hand.model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, device_map="cpu")
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model, config).train()
    assert type(model.get_base_model().model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    vector, batch = by_hand.vector(hidden_size=64), by_hand.batch()
    if method == "regularise":
        with preventing(model, vector, 1, method="regularise", other_weights=True) as prevention:
            plain = model(**batch).loss
            penalty = prevention.penalty()
            (plain + penalty).backward()
        assert float(penalty.detach()) > 0
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)
        return
    with by_hand.replaced(model.get_base_model().model.layers[1], lambda h: h + 3 * vector.directions[2]):
        wanted = by_hand.loss_and_gradients(model, batch)
    with preventing(model, vector, 3, other_weights=True):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted, 1e-4)
