"""Perplexity of the bundled passages, against one forward after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config

from personavec.capability import passage_losses, perplexity
from personavec.capability.passages import passages
from personavec.errors import UserError
from personavec.finetune.adapter import fresh_adapter
from personavec.finetune.settings import Training
from personavec.interventions import ablation, steering
from personavec.model import ChatModel
from tiny import causal_model, chat_model, editing, tokenizer, vector

FEW = 8  # passages, where all would show the same


def plain_losses(model: ChatModel, start: Sequence[int] = (), first: int | None = None) -> list[float]:
    """One passage at a time, in float64."""
    found = []
    for text in passages()[:first]:
        ids = [*start, *model.tokenizer(text)["input_ids"]][: model.context_length]
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids])).logits[0].double()
        found.append(-logits[:-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]].mean().item())
    return found


def test_the_passages_are_whole_and_of_one_size() -> None:
    texts = passages()
    assert len(set(texts)) == len(texts) == 40
    for text in texts:
        assert 80 <= len(text.split()) <= 150
        assert text[0].isupper() and text.endswith(".") and "\n" not in text and "  " not in text


def test_batched_losses_are_those_of_single_forwards(tiny: ChatModel) -> None:
    assert passage_losses(tiny, first=2 * FEW).tolist() == pytest.approx(plain_losses(tiny, first=2 * FEW), abs=1e-4)


def test_a_bos_token_comes_first_and_long_texts_are_cut() -> None:
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=None)
    model = ChatModel(causal_model(config), tokenizer(bos_token="<|im_start|>"), "tiny")
    assert all(len(model.tokenizer(text)["input_ids"]) > 128 for text in passages())
    start = [model.tokenizer.convert_tokens_to_ids("<|im_start|>")]
    assert passage_losses(model).tolist() == pytest.approx(plain_losses(model, start), abs=1e-4)


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_steering_acts_on_every_token(tiny: ChatModel, positions: Any) -> None:
    push = vector(tiny)
    steered = passage_losses(tiny, steering(push, 3.0, positions=positions), first=FEW)
    handle = editing(tiny.blocks.layers[1], lambda hidden: hidden + 3.0 * push.at(2))
    try:
        expected = plain_losses(tiny, first=FEW)
    finally:
        handle.remove()
    assert steered.tolist() == pytest.approx(expected, abs=1e-4)
    # Every passage feels it, and nothing stays behind.
    assert np.abs(steered - passage_losses(tiny, first=FEW)).min() > 0.01


def test_ablation_acts_too(tiny: ChatModel) -> None:
    push = vector(tiny)
    unit = push.unit(2)
    handle = editing(tiny.blocks.layers[1], lambda h: h - (h * unit).sum(-1, keepdim=True) * unit)
    try:
        expected = plain_losses(tiny, first=FEW)
    finally:
        handle.remove()
    assert passage_losses(tiny, ablation(push), first=FEW).tolist() == pytest.approx(expected, abs=1e-4)


def test_an_adapter_counts_and_dropout_does_not() -> None:
    model = chat_model()
    before = passage_losses(model, first=FEW)
    with fresh_adapter(model, Training(method="none", dropout=0.5)) as adapter:
        assert passage_losses(model, first=FEW) == pytest.approx(before, abs=1e-5)  # a fresh adapter does nothing
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05)
        adapter.train()
        tuned = passage_losses(model, first=FEW)
        assert adapter.training
        adapter.eval()
        assert tuned.tolist() == pytest.approx(plain_losses(model, first=FEW), abs=1e-4)
    assert np.abs(tuned - before).min() > 1e-3


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    losses = np.log(np.linspace(10, 30, 40))
    found = perplexity(losses, seed=1)
    assert found.mean == pytest.approx(np.exp(losses.mean())) and found.n == 40
    # The normal interval of a mean, an independent way.
    half = 1.96 * losses.std(ddof=1) / np.sqrt(40)
    assert (found.low, found.high) == pytest.approx((found.mean * np.exp(-half), found.mean * np.exp(half)), rel=0.03)
    assert perplexity(np.full(40, np.log(7.0))).low == pytest.approx(7)


def test_likelihoods_that_are_no_numbers_are_refused(tiny: ChatModel) -> None:
    def broken(hidden: Tensor) -> Tensor:
        return hidden * float("nan")

    handle = editing(tiny.blocks.layers[0], broken)
    try:
        with pytest.raises(UserError, match="40 of 40 passages"):
            passage_losses(tiny)
    finally:
        handle.remove()
