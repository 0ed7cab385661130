"""Checkpoints that are not the model's: every parameter missing, tensor unused or other size is told, and refused."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from personavec.errors import UserError
from personavec.model import load_model, weights_hash
from personavec.model.checkpoint import Checkpoint
from tiny import SIZES, causal_model, chat_model, qwen2, tokenizer

Tensors = dict[str, Tensor]
GPT2 = GPT2Config(vocab_size=320, n_embd=32, n_layer=3, n_head=4, n_positions=512, eos_token_id=None)


def saved(folder: Path, config: PreTrainedConfig, change: Callable[[Tensors], Tensors], seed: int = 0) -> Path:
    causal_model(config, seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    changed = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: tensor.clone() for name, tensor in changed.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def added(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


def same(tensors: Tensors) -> Tensors:
    return tensors


NOT_ITS_OWN: dict[str, tuple[PreTrainedConfig, Callable[[Tensors], Tensors], str]] = {
    **{
        prefix: (
            qwen2(),
            prefixed(prefix),
            rf"39 parameters are missing from the file \(lm_head\.weight, model\.embed_tokens\.weight, .*, \.\.\.\); "
            rf"39 tensors of the file are not used \({re.escape(prefix)}lm_head\.weight, .*prefix of a wrapper",
        )
        for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module.")
    },
    "wrapped blocks": (
        qwen2(),
        lambda tensors: {name.replace("layers.1.", "layers.1._orig_mod."): t for name, t in tensors.items()},
        r"12 parameters are missing .*; 12 tensors of the file are not used \(model\.layers\.1\._orig_mod\.",
    ),
    "no head": (qwen2(), without("lm_head"), r"1 parameters are missing from the file \(lm_head\.weight\)"),
    "a layer too few": (qwen2(), without("layers.1."), r"12 parameters are missing from the file \(model\.layers\.1\."),
    "a layer too many": (
        qwen2(),
        lambda tensors: {
            **tensors,
            **{name.replace(".2.", ".10."): t for name, t in tensors.items() if ".2." in name},
            **{name.replace(".2.", ".9."): t for name, t in tensors.items() if ".2." in name},
        },
        r": 24 tensors of the file are not used \(model\.layers\.9\.",
    ),
    "biases that its config leaves out": (
        LlamaConfig(**SIZES),
        added(model__layers__0__self_attn__q_proj__bias=torch.ones(32)),
        r": 1 tensors of the file are not used \(model\.layers\.0\.self_attn\.q_proj\.bias\)",
    ),
    "a classifier": (
        qwen2(),
        lambda tensors: {**without("lm_head")(tensors), "score.weight": torch.ones(2, 32)},
        r"1 parameters are missing .*lm_head.*; 1 tensors of the file are not used \(score\.weight\)",
    ),
    "eyes": (
        qwen2(),
        added(visual__blocks__0__weight=torch.ones(2)),
        r"1 tensors of the file are not used \(visual.*Models that see or hear are not supported",
    ),
    "sizes": (
        qwen2(),
        lambda tensors: {**tensors, "model.norm.weight": torch.ones(4)},
        r": 1 have another size \(model\.norm\.weight \[4\] for \[32\]\)",
    ),
}


@pytest.mark.parametrize("kind", NOT_ITS_OWN)
def test_a_checkpoint_that_is_not_the_models_is_refused(kind: str, tmp_path: Path) -> None:
    config, change, said = NOT_ITS_OWN[kind]
    folder = saved(tmp_path / "model", config, change)
    with pytest.raises(UserError, match=said):
        load_model(str(folder), device="cpu", dtype="float32")
    with pytest.raises(UserError, match=r"not those of its|has the shape|are damaged"):
        _ = Checkpoint(folder, "m").weights_hash


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (qwen2(tie_word_embeddings=True), same),
        (
            qwen2(tie_word_embeddings=True),
            lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]},
        ),
        (qwen2(), lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()}),
        (qwen2(), added(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))),
        (LlamaConfig(**SIZES), added(model__layers__0__self_attn__rotary_emb__cos_cached=torch.ones(4))),
        (GPT2, added(transformer__h__0__attn__bias=torch.ones(4), transformer__h__0__attn__masked_bias=torch.ones(()))),
    ],
    ids=["head left out, tied", "head given, tied", "bare names", "frequencies", "cosines", "masks"],
)
def test_what_an_architecture_leaves_out_by_itself_is_no_hindrance(
    config: PreTrainedConfig, change: Callable[[Tensors], Tensors], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", config, change)
    expected = weights_hash(causal_model(config))
    assert load_model(str(folder), device="cpu", dtype="float32").weights_hash == expected
    assert Checkpoint(folder, "m").weights_hash == expected


def test_shards_are_read_as_one_and_refused_as_one(tmp_path: Path) -> None:
    model = causal_model(qwen2())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) == 7
    assert load_model(str(tmp_path), device="cpu", dtype="float32").weights_hash == weights_hash(model)
    whole = shards[1].read_bytes()
    save_file(prefixed("module.")(load_file(shards[1])), shards[1], {"format": "pt"})
    with pytest.raises(UserError, match=r"8 parameters are missing .*; 8 tensors of the file are not used \(module\."):
        load_model(str(tmp_path), device="cpu", dtype="float32")
    shards[1].write_bytes(whole)
    shards[2].unlink()
    with pytest.raises(UserError, match=rf"Cannot load the model .*{shards[2].name}"):
        load_model(str(tmp_path), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (prefixed("module."), r"39 parameters are missing .*prefix of a wrapper"),
        (without("layers.1."), "12 parameters are missing"),
        (lambda tensors: {"state_dict": tensors, "epoch": 3}, "39 parameters are missing .*epoch, state_dict"),
    ],
    ids=["prefix", "lacking", "a trainer's"],
)
def test_pickled_checkpoints_are_held_to_the_same(
    change: Callable[[Tensors], Tensors], said: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, qwen2(), same)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert load_model(str(folder), device="cpu", dtype="float32").weights_hash == weights_hash(causal_model(qwen2()))
    torch.save(change(tensors), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=said):
        load_model(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("lacking", "more", "said"),
    [
        ("blk.1.ffn_up.weight", None, r"1 parameters are missing from the file \(model\.layers\.1\.mlp\.up_proj"),
        (None, "blk.0.attn_sinks.weight", r"1 tensors of the file are not used \(blk\.0\.attn_sinks\.weight\)"),
        (None, "blk.3.ffn_up.weight", r"1 tensors of the file are not used \(blk\.3\.ffn_up\.weight\)"),
    ],
)
def test_a_gguf_file_is_held_to_the_same(lacking: str | None, more: str | None, said: str, tmp_path: Path) -> None:
    from test_load import write_gguf

    from personavec.model.checkpoint import open_checkpoint

    path = tmp_path / "tiny.gguf"
    write_gguf(path, chat_model(), without=lacking, more=more)
    with pytest.raises(UserError, match=said):
        load_model(str(path), device="cpu", dtype="float32")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=said):
        patch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
        open_checkpoint(str(path), dtype="float32")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.layers.1.mlp.up_proj.weight", math.nan, "are not finite"),
        ("lm_head.weight", math.nan, "are not finite"),
        ("", 0.0, "are all 0 where it matters"),
    ],
)
def test_weights_that_are_no_weights_are_told(name: str, value: float, said: str, tmp_path: Path) -> None:
    model = causal_model(qwen2(tie_word_embeddings=False))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if name in key:
                parameter.fill_(value)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"The weights of .* {said}"):
        load_model(str(tmp_path), device="cpu", dtype="float32")


def test_a_folder_with_a_model_and_an_adapter_is_refused(tmp_path: Path) -> None:
    """transformers would put the adapter on, and say of its tensors alone whether they fit."""
    folder = saved(tmp_path / "model", qwen2(), same)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="holds a model and an adapter"):
        load_model(str(folder), device="cpu", dtype="float32")
