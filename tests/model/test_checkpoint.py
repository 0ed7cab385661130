"""A model's files read without the model: everything that is known of it must be what the loaded one says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaConfig, PreTrainedConfig

from personavec.errors import UserError
from personavec.model import ChatModel, load_model
from personavec.model import checkpoint as checkpoint_module
from personavec.model.checkpoint import Checkpoint, open_checkpoint
from tiny import SIZES, causal_model, chat_model, qwen2, tokenizer, vector


def saved(folder: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    model = causal_model(config).to(dtype)
    model.generation_config = GenerationConfig(eos_token_id=[7, 302])
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (qwen2(), {}),
        (qwen2(tie_word_embeddings=True), {}),
        (qwen2(), {"max_shard_size": "20KB"}),
        (LlamaConfig(**SIZES), {"dtype": torch.bfloat16}),
    ],
    ids=["one file", "tied", "shards", "bfloat16"],
)
def test_it_is_what_the_loaded_model_is(
    config: PreTrainedConfig, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "model", config, **options)
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    found = open_checkpoint(str(folder), dtype="float32")
    monkeypatch.setattr(checkpoint_module, "weights_hash", None)  # nothing is loaded
    for name in (
        "id", "weights_hash", "adapter_hash", "n_layers", "hidden_size", "context_length", "stop_ids", "dtype", "device"
    ):  # fmt: skip
        assert getattr(found, name) == getattr(loaded, name), name
    assert found.stop_ids == {7, 302}
    assert found.template.hash == loaded.template.hash
    assert Checkpoint(folder, "m").dtype == options.get("dtype", torch.float32)


def test_tensors_in_another_layout_are_loaded_for_the_hash(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", qwen2())
    expected = Checkpoint(folder, "m").weights_hash
    tensors = load_file(folder / "model.safetensors")
    moved = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}  # as a model without its head
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    assert Checkpoint(folder, "m").weights_hash == expected


def test_another_fine_tune_has_another_hash(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", qwen2())
    before = Checkpoint(folder, "m").weights_hash
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] += 0.1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert Checkpoint(folder, "m").weights_hash != before


def test_a_vector_knows_its_checkpoint(tiny: ChatModel, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path / "right")
    tiny.tokenizer.save_pretrained(tmp_path / "right")
    vector(tiny).check(Checkpoint(tmp_path / "right", "right"))
    other = chat_model(seed=1)
    other.model.save_pretrained(tmp_path / "wrong")
    other.tokenizer.save_pretrained(tmp_path / "wrong")
    with pytest.raises(UserError, match="other weights"):
        vector(tiny).check(Checkpoint(tmp_path / "wrong", "wrong"))
    vector(tiny).check(Checkpoint(tmp_path / "wrong", "wrong"), other_weights=True)
    with pytest.raises(UserError, match="4 layers of width"):
        vector(tiny).check(Checkpoint(saved(tmp_path / "deep", qwen2(num_hidden_layers=4)), "deep"))


def test_a_gguf_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_load import write_gguf

    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_gguf(path, chat_model())
    loaded = load_model(str(path), device="cpu", dtype="float32")
    found = open_checkpoint(str(path), dtype="float32")
    assert found.weights_hash == loaded.weights_hash
    assert (found.id, found.stop_ids, found.template.hash) == (loaded.id, loaded.stop_ids, loaded.template.hash)
    assert json.loads((found.folder / "config.json").read_text())["dtype"] == "float32"
    monkeypatch.setattr(checkpoint_module, "unpack", None)
    assert open_checkpoint(str(path), dtype="float32").folder == found.folder
    assert [p.name for p in found.folder.parent.iterdir() if p.name.startswith(".")] == []


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    folder = saved(tmp_path / "model", qwen2())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"weights in .* are damaged"):
        _ = Checkpoint(folder, "m").weights_hash
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no safetensors"):
        open_checkpoint(str(folder))
    with pytest.raises(UserError, match="Unknown dtype"):
        open_checkpoint(str(folder), dtype="int3")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    with pytest.raises(UserError, match=r"Cannot load the model .*broken\.gguf"):
        open_checkpoint(str(tmp_path / "broken.gguf"))
    assert not list((tmp_path / "cache" / "models").glob("*broken*/"))
