"""Loading: folders, GGUF files, adapters, offloaded and quantised models; what is not there is said."""

import json
import pwd
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import gguf
import peft
import pytest
import torch
import transformers as tf
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from personavec.errors import UserError
from personavec.interventions import steer, steering
from personavec.model import ChatModel, Conversation, Request, load_model, weights_hash
from personavec.model.checkpoint import Checkpoint, open_checkpoint
from personavec.model.load import find_source
from personavec.readout import read
from tiny import SIZES, causal_model, chat_model, plain_greedy, plain_states, qwen2, random_ids, tokenizer, vector

PROMPT = random_ids(20, 1)
CONVERSATION = [Conversation(PROMPT, [(10, 20)])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = chat_model(qwen2(hidden_size=64, intermediate_size=128))
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(folder: Path) -> ChatModel:
    return load_model(str(folder), device="cpu", dtype="float32")


def adapted(model: Any, **options: Any) -> Any:
    """A LoRA adapter that does something."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options)
    return peft.get_peft_model(model, config)


def check_equal_to_plain(model: ChatModel) -> None:
    """Readings, generation and steering of a model however it is stored."""
    blocks = model.blocks.layers
    states, logits = plain_states(model.model, blocks, PROMPT)
    means = read(model, CONVERSATION).means[0]
    torch.testing.assert_close(means, states[:, 10:20].mean(1), rtol=1e-4, atol=1e-4)
    persona = vector(model)
    assert model.generate([Request(PROMPT, 6, 0.0)])[0].ids == plain_greedy(model.model, PROMPT, 6)
    [steered] = model.generate([Request(PROMPT, 6, 0.0, interventions=steering(persona, 2.0, positions="all"))])
    with steer(model.model, persona, 2.0, positions="all"):
        assert steered.ids == plain_greedy(model.model, PROMPT, 6)
        moved, after = plain_states(model.model, blocks, PROMPT)
    torch.testing.assert_close(moved[2], states[2] + 2.0 * persona.directions[2], rtol=1e-4, atol=1e-3)
    assert (after - logits).abs().max() > 0.01


def test_folder(base: ChatModel, folder: Path) -> None:
    again = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert again.id == str(folder) and again.dtype == torch.bfloat16 and again.context_length == 512
    assert again.weights_hash == base.weights_hash and again.template.hash == base.template.hash
    check_equal_to_plain(base)


def test_adapter(base: ChatModel, folder: Path, tmp_path: Path) -> None:
    """An adapter changes the readings, not the identity: the base's vectors are for it, too."""
    inner = load_model(str(folder), device="cpu", dtype="float32").model
    adapted(inner, modules_to_save=["lm_head"]).save_pretrained(tmp_path)
    model = load_model(str(folder), device="cpu", dtype="float32", adapter=str(tmp_path))
    assert model.id == f"{folder}+{tmp_path}"
    assert model.weights_hash == base.weights_hash
    vector(base).check(model)
    check_equal_to_plain(model)
    with_adapter = read(model, CONVERSATION).means
    plain = read(base, CONVERSATION).means
    assert (with_adapter - plain).abs().max() > 0.01
    with model.unadapted():
        torch.testing.assert_close(read(model, CONVERSATION).means, plain)
    torch.testing.assert_close(read(model, CONVERSATION).means, with_adapter)


def test_other_kind_of_adapter_is_not_part_of_the_identity(base: ChatModel, folder: Path) -> None:
    inner = load_model(str(folder), device="cpu", dtype="float32").model
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = ChatModel(peft.get_peft_model(inner, config), base.tokenizer, "ia3")
    assert model.weights_hash == base.weights_hash
    merged = adapted(load_model(str(folder), device="cpu", dtype="float32").model).merge_and_unload()
    assert ChatModel(merged, base.tokenizer, "merged").weights_hash != base.weights_hash


def test_model_spread_over_devices(base: ChatModel, folder: Path, tmp_path: Path) -> None:
    """Two of the blocks wait on the disk, and come when they are needed."""
    places: dict[str, Any] = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
    places |= {"model.layers.1": "disk", "model.layers.2": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path, dtype=torch.float32
    )
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    chat = ChatModel(model, base.tokenizer, "spread")
    assert chat.weights_hash == base.weights_hash
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    check_equal_to_plain(chat)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_quantised_model(base: ChatModel, folder: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    options = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
    )
    assert not model.model.layers[0].mlp.up_proj.weight.is_floating_point()
    chat = ChatModel(model, base.tokenizer, f"{bits} bits")
    near = torch.cosine_similarity(read(chat, CONVERSATION).means, read(base, CONVERSATION).means, dim=-1)
    assert float(near.min()) > {8: 0.99, 4: 0.85}[bits]
    with pytest.raises(UserError, match="quantised copy"):
        vector(base).check(chat)
    vector(base).check(chat, other_weights=True)
    if bits == 4:  # 8-bit activations are rounded by what else is in the batch
        check_equal_to_plain(chat)


@pytest.mark.parametrize(
    ("four_bits", "factor", "decoding"),
    [(True, 1.02, "places"), (False, 1.02, "recompute"), (True, 1.2, "recompute")],
)
def test_four_bit_layers_may_round_single_tokens_otherwise(four_bits: bool, factor: float, decoding: str) -> None:
    """As bitsandbytes does on a CPU; elsewhere so much tells of layers that do not see all."""
    model = causal_model(qwen2(), 3)
    model.is_loaded_in_4bit = four_bits
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_hook(lambda _, __, out: out * factor if out.shape[-2] == 1 else out)
    assert ChatModel(model, tokenizer(), "rounding").decoding == decoding


def test_gguf_file(base: ChatModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, base)
    model = load_model(str(path), device="cpu", dtype="float32")
    assert model.prompt_ids([{"role": "user", "content": "hello <|im_end|>"}]) == base.prompt_ids(
        [{"role": "user", "content": "hello <|im_end|>"}]
    )
    torch.testing.assert_close(read(model, CONVERSATION).means, read(base, CONVERSATION).means, rtol=1e-4, atol=1e-4)
    assert model.generate([Request(PROMPT, 6, 0.0)]) == base.generate([Request(PROMPT, 6, 0.0)])


def write_gguf(path: Path, model: ChatModel, without: str | None = None, more: str | None = None) -> None:
    """The model as a file in float32, with its tokenizer; without one of its tensors, or with one more."""
    config = model.model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    words = {index: word for word, index in model.tokenizer.get_vocab().items()}
    special = set(model.tokenizer.added_tokens_decoder)
    tokens = [words.get(index, f"<unused{index}>") for index in range(config.vocab_size)]
    merges = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index in special else 1 for index in range(config.vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(model.tokenizer.eos_token_id)
    writer.add_chat_template(model.tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if (own := f"{names.get_name(stem)}.{kind}") != without:
            writer.add_tensor(own, tensor.float().numpy())
    if more is not None:
        writer.add_tensor(more, torch.full((4,), 8.0).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "./nowhere"}, "is not a model folder"),
        ({"name": "nowhere.gguf"}, "There is no file nowhere.gguf"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"dtype": "int7"}, "Unknown dtype 'int7'"),
        ({"adapter": "./no-adapter"}, "./no-adapter is not an adapter's folder"),
        ({"adapter": "runs/tuned/no-adapter"}, "runs/tuned/no-adapter is not an adapter's folder"),
        ({"name": "runs/tuned/no-model"}, "is not a model folder"),
    ],
)
def test_what_is_not_there(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(**{"name": str(folder), "device": "cpu", "dtype": "float32", **options})


@pytest.mark.parametrize("name", ["tiny.GGUF", "tiny.Gguf", "sha256-1d96146"])
def test_a_gguf_file_is_known_whatever_its_ending(name: str, base: ChatModel, tmp_path: Path) -> None:
    write_gguf(tmp_path / name, base)
    found = find_source(str(tmp_path / name))
    assert (found.kind, found.place) == ("gguf", str(tmp_path / name))
    with pytest.raises(
        UserError, match=f"is not a model folder.*name one, as {tmp_path}/tiny" if "." in name else "is not"
    ):
        find_source(str(tmp_path))
    assert load_model(found.label, device="cpu", dtype="float32").n_layers == base.n_layers


def test_a_folder_whose_name_ends_in_gguf_is_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(folder)
    assert find_source(str(tmp_path / "model.gguf")).kind == "folder"
    with pytest.raises(UserError, match=r"There is no file .*none\.GGUF"):
        find_source(str(tmp_path / "none.GGUF"))
    with pytest.raises(UserError, match=r"is a file, and no GGUF file\. Give the folder that it is in"):
        find_source(str(folder / "model.safetensors"))
    with pytest.raises(UserError, match="one part of a model that is cut into several files"):
        (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
        find_source(str(tmp_path / "m-00001-of-00002.gguf"))


TEXT = tf.LlamaConfig(**SIZES)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            tf.Qwen2VLConfig(),
            r"is a model of vision as well as text \(qwen2_vl\), which is not supported",
        ),
        (tf.LlavaConfig(text_config=TEXT), r"is a model of vision as well as text \(llava\)"),
        (tf.Qwen2AudioConfig(text_config=TEXT), r"is a model of audio as well as text \(qwen2_audio\)"),
        (tf.T5Config(), r"is no causal language model \(t5\)"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
@pytest.mark.parametrize("words", [True, False], ids=["tokenizer", "processor only"])
def test_what_is_no_model_of_text_alone_is_refused(
    config: tf.PreTrainedConfig, said: str, words: bool, base: ChatModel, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    if words:
        base.tokenizer.save_pretrained(tmp_path)
    for load in (load_model, open_checkpoint):
        with pytest.raises(UserError, match=said):
            load(str(tmp_path), device="cpu", dtype="float32")


def test_the_text_of_a_vision_model_that_transformers_runs_is_read(base: ChatModel, tmp_path: Path) -> None:
    eyes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes = {**SIZES, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 6}
    config = tf.Gemma3Config(text_config=sizes, vision_config={**eyes, "image_size": 28, "patch_size": 14})
    causal_model(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu", dtype="float32")
    assert model.blocks.layers is model.model.model.language_model.layers
    states, _ = plain_states(model.model, model.blocks.layers, PROMPT)
    torch.testing.assert_close(read(model, CONVERSATION).means[0], states[:, 10:20].mean(1), rtol=1e-4, atol=1e-4)


def test_a_model_that_looks_both_ways_is_refused(base: ChatModel, tmp_path: Path) -> None:
    """Its head is not its last hidden states times a matrix, and its attention is not causal."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    tf.BertForMaskedLM(tf.BertConfig(vocab_size=320, **sizes)).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertLMHeadModel does more than its decoder blocks and its head do"):
        load_model(str(tmp_path), device="cpu", dtype="float32")


def test_without_a_home_folder_the_cache_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> None:
        raise KeyError("uid not found")

    for variable in ("HOME", "PERSONAVEC_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert load_model(str(folder), device="cpu", dtype="float32").n_layers == 3
    with pytest.raises(UserError, match=r"no home folder to keep files in .* Set PERSONAVEC_CACHE"):
        load_model()
    with pytest.raises(UserError, match="~/model names a home folder, and there is none"):
        load_model("~/model")
    with pytest.raises(UserError, match="~/adapter names a home folder, and there is none"):
        load_model(str(folder), device="cpu", dtype="float32", adapter="~/adapter")
    monkeypatch.setenv("PERSONAVEC_CACHE", "~/elsewhere")
    with pytest.raises(UserError, match=r"files in ~/elsewhere\. Set PERSONAVEC_CACHE"):
        load_model()


def test_a_home_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.delenv("PERSONAVEC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"Cannot write the cache folder .*set PERSONAVEC_CACHE to another folder"):
        load_model()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_quantised_checkpoint(folder: Path, base: ChatModel, bits: int, device: str, tmp_path: Path) -> None:
    """Saved in 8 or 4 bits: all its tensors, those of the quantisation too, are read; with an adapter as well."""
    pytest.importorskip("bitsandbytes")
    options = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    inner = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
    )
    inner.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    chat = load_model(str(tmp_path / "model"), device=device, dtype="float32")
    assert not chat.model.model.layers[0].mlp.up_proj.weight.is_floating_point()
    means = read(chat, CONVERSATION).means
    near = torch.cosine_similarity(means, read(base, CONVERSATION).means, dim=-1)
    assert float(near.min()) > {8: 0.99, 4: 0.85}[bits]
    assert Checkpoint(tmp_path / "model", "m").weights_hash == chat.weights_hash != base.weights_hash
    adapted(inner).save_pretrained(tmp_path / "adapter")
    tuned = load_model(str(tmp_path / "model"), device=device, dtype="float32", adapter=str(tmp_path / "adapter"))
    assert tuned.weights_hash == chat.weights_hash
    assert (read(tuned, CONVERSATION).means - means).abs().max() > 0.01


@pytest.mark.parametrize("memory", [None, 250_000], ids=["enough memory", "the rest on the disk"])
def test_model_on_whatever_is_there(
    folder: Path, base: ChatModel, memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`device="auto"`, with an adapter too; weights that do not fit into memory wait on the disk."""
    monkeypatch.chdir(tmp_path)  # accelerate keeps what an adapter's base has on the disk below the working folder
    if memory is not None:
        monkeypatch.setattr(tf.integrations.accelerate, "get_max_memory", lambda *_: {"cpu": memory})
        monkeypatch.setattr(accelerate.utils.modeling, "get_max_memory", lambda *_: {"cpu": memory})
    adapted(AutoModelForCausalLM.from_pretrained(folder)).save_pretrained(tmp_path)
    near = load_model(str(folder), device="cpu", dtype="float32", adapter=str(tmp_path))
    for adapter, here in ((None, base), (str(tmp_path), near)):
        spread = load_model(str(folder), device="auto", dtype="float32", adapter=adapter)
        assert any(parameter.is_meta for parameter in spread.model.parameters()) == (memory is not None)
        assert spread.weights_hash == base.weights_hash and spread.adapter_hash == here.adapter_hash
        torch.testing.assert_close(read(spread, CONVERSATION).means, read(here, CONVERSATION).means)


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    with pytest.raises(UserError, match="Cannot load the model"):
        load_model(str(tmp_path / "broken.gguf"), device="cpu")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="Cannot load the model"):
        load_model(str(copy), device="cpu")
    adapted(load_model(str(folder), device="cpu", dtype="float32").model).save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 5'))
    with pytest.raises(UserError, match=r"Cannot load the adapter .*: its weights have other sizes than this model's"):
        load_model(str(folder), device="cpu", adapter=str(tmp_path / "adapter"))
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:100])
    with pytest.raises(UserError, match="Cannot load the adapter"):
        load_model(str(folder), device="cpu", adapter=str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(UserError, match=r"adapter_config\.json in .*adapter cannot be used \(Expecting value"):
        load_model(str(folder), device="cpu", adapter=str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": 3}')
    with pytest.raises(UserError, match="Cannot load the adapter"):
        load_model(str(folder), device="cpu", adapter=str(tmp_path / "adapter"))


CONFIG, GENERATION, WORDS, TOKENIZER = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        *[(file, None, "Expecting|Unterminated") for file in (CONFIG, GENERATION, WORDS, TOKENIZER)],
        *[(file, [1, 2], "not a JSON object") for file in (CONFIG, GENERATION, WORDS, TOKENIZER)],
        (CONFIG, {"hidden_size": "many"}, "hidden_size.*expected int"),
        (CONFIG, {"dtype": "float7"}, "float7"),
        (CONFIG, {"model_type": "nosuch"}, "nosuch"),
        (WORDS, {"model": 3}, "AttributeError"),
        (WORDS, {"pre_tokenizer": 3}, "PreTokenizer"),
        (WORDS, {"added_tokens": 3}, "TypeError"),
        (TOKENIZER, {"tokenizer_class": 3}, "AttributeError"),
        (TOKENIZER, {"eos_token": 3}, "eos_token"),
    ],
    ids=str,
)
def test_damaged_configuration(folder: Path, tmp_path: Path, file: str, change: Any, said: str) -> None:
    """Cut short, or of another shape: the message names the folder and the file."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / file).read_text()
    if isinstance(change, dict):
        (tmp_path / file).write_text(json.dumps({**json.loads(text), **change}))
    else:
        (tmp_path / file).write_text(text[: len(text) // 2] if change is None else json.dumps(change))
    with pytest.raises(UserError, match=rf"{re.escape(file)}.* in {tmp_path} cannot be used \(.*({said})"):
        load_model(str(tmp_path), device="cpu", dtype="float32")


def test_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != WORDS:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"lack tokenizer\.json"):
        load_model(str(tmp_path), device="cpu", dtype="float32")


def test_no_cuda(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="No CUDA device"):
        load_model(str(folder), device="cuda:1")


def test_weights_that_are_laid_out_for_a_processor_are_hashed_as_they_are_saved() -> None:
    """As bitsandbytes does to 4-bit layers in their first forward, on some processors."""

    class Laid(nn.Linear):
        def state_dict(self, *_: Any, **__: Any) -> Any:
            with torch.no_grad():
                self.weight.copy_(self.weight.flip(0))  # a layer that is saved is changed by it
            return {"weight": self.weight.detach()}

    class Model(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

    plain, laid = (Model(kind(8, 8, bias=False)) for kind in (nn.Linear, Laid))
    before = plain.layer.weight.detach().flip(0)
    with torch.no_grad():
        laid.layer.weight.copy_(before)
    assert weights_hash(laid) != weights_hash(plain)
    weight: Any = laid.layer.weight
    weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)
    assert weights_hash(laid) == weights_hash(plain) == weights_hash(laid)
    assert torch.equal(weight, before)
