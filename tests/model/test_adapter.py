"""Adapters: what fits as a whole and acts in the blocks is seen and can be taken off; what does not is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from personavec.errors import UserError
from personavec.finetune.adapter import saved_adapter
from personavec.model import ChatModel, Conversation, Request, load_model
from personavec.model.identity import adapter_hash, adapter_parameters
from personavec.readout import read
from tiny import causal_model, plain_greedy, plain_states, qwen2, random_ids, tokenizer, vector

LINEAR: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
PROMPT: dict[str, Any] = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
IDS = [*random_ids(14, 1), 3, 7]  # the last two have rows of their own in some adapters
CONVERSATION = [Conversation(IDS, [(5, len(IDS))])]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def base(untied: Path) -> ChatModel:
    return load(untied)


def saved(path: Path, **options: Any) -> Path:
    causal_model(qwen2(**options)).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def load(folder: Path, adapter: Path | None = None) -> ChatModel:
    return load_model(str(folder), device="cpu", dtype="float32", adapter=None if adapter is None else str(adapter))


def trained(config: peft.PeftConfig, place: Path, scale: float = 0.2, **options: Any) -> Path:
    """An adapter that does something, in a folder."""
    wrapped = peft.get_peft_model(causal_model(qwen2(**options)), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))
    wrapped.save_pretrained(str(place))
    return place


ADAPTERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "LoRA": lambda: peft.LoraConfig(r=4, **LINEAR),
    "LoRA of embeddings and head": lambda: peft.LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]),
    "LoRA with rows of tokens": lambda: peft.LoraConfig(r=4, trainable_token_indices=[3, 7], **LINEAR),
    "LoRA with modules": lambda: peft.LoraConfig(r=4, modules_to_save=["lm_head", "embed_tokens", "norm"], **LINEAR),
    "LoRA in one layer": lambda: peft.LoraConfig(r=4, layers_to_transform=[1], **LINEAR),
    "rows of tokens": lambda: peft.TrainableTokensConfig(token_indices=[3, 7], target_modules=["embed_tokens"]),
    "DoRA": lambda: peft.LoraConfig(r=4, use_dora=True, **LINEAR),
    "AdaLoRA": lambda: peft.AdaLoraConfig(total_step=10, **LINEAR),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "VB-LoRA": lambda: peft.VBLoRAConfig(r=4, vector_length=16, num_vectors=8, topk=2, **LINEAR),
    "LoHa": lambda: peft.LoHaConfig(r=4, **LINEAR),
    "LoKr": lambda: peft.LoKrConfig(r=4, **LINEAR),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, **LINEAR),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_seen_and_is_not_part_of_the_identity(
    kind: str, untied: Path, base: ChatModel, tmp_path: Path
) -> None:
    model = load(untied, trained(ADAPTERS[kind](), tmp_path))
    check_seen(model, base)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if "tokens" in kind or "embeddings" in kind])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_so_is_one_of_embeddings_that_are_the_head_too(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tie_word_embeddings=True)
    check_seen(load(folder, trained(ADAPTERS[kind](), tmp_path / "a", tie_word_embeddings=True)), load(folder))


def check_seen(model: ChatModel, base: ChatModel) -> None:
    assert model.weights_hash == base.weights_hash
    vector(base).check(model)
    plain, means = read(base, CONVERSATION).means, read(model, CONVERSATION).means
    states, _ = plain_states(model.model, model.blocks.layers, IDS)
    torch.testing.assert_close(means[0], states[:, 5:].mean(1), rtol=1e-4, atol=1e-4)
    assert (means - plain).abs().max() > 0.005
    [answer] = model.generate([Request(IDS, 6, 0.0)])
    assert answer.ids == plain_greedy(model.model, IDS, 6)[: len(answer.ids)]
    with model.unadapted():
        torch.testing.assert_close(read(model, CONVERSATION).means, plain)
    owners = list(adapter_parameters(model.model))
    assert owners
    hashes = {adapter_hash(model.model)}
    for _, owner, leaf in owners:
        with torch.no_grad():
            getattr(owner, leaf).flatten()[-1] += 1
        hashes.add(adapter_hash(model.model))
    assert len(hashes) == 1 + len(owners)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (lambda: peft.PromptTuningConfig(**PROMPT), "PROMPT_TUNING"),
        (lambda: peft.PrefixTuningConfig(**PROMPT), "PREFIX_TUNING"),
        (lambda: peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=16), "P_TUNING"),
        (lambda: peft.PolyConfig(r=4, n_tasks=1, **LINEAR), "POLY"),
        (lambda: peft.LoraConfig(r=4, alora_invocation_tokens=[3, 4], task_type="CAUSAL_LM", **LINEAR), "LORA"),
    ],
    ids=["prompt", "prefix", "P-tuning", "Poly", "activated LoRA"],
)
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing")
def test_an_adapter_that_acts_around_the_blocks_is_refused(
    config: Callable[[], peft.PeftConfig], kind: str, untied: Path, tmp_path: Path
) -> None:
    """Poly wants to be told the task at every forward; an activated LoRA acts after its invocation tokens alone."""
    place = trained(config(), tmp_path)
    with pytest.raises(UserError, match=rf"\({kind}\) acts outside of the decoder blocks"):
        load(untied, place)


def test_a_tuned_prompt_is_refused_however_little_it_does(untied: Path, tmp_path: Path) -> None:
    place = trained(peft.PrefixTuningConfig(**PROMPT), tmp_path, scale=0.0)
    with pytest.raises(UserError, match="it is a tuned prompt"):
        load(untied, place)


def test_an_adapter_of_nan_is_told(untied: Path, tmp_path: Path) -> None:
    trained(peft.LoraConfig(r=4, **LINEAR), tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in held.items()},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match="or of its adapter, are not finite"):
        load(untied, tmp_path)


def test_an_adapter_that_trains_biases_of_the_base_is_refused(untied: Path, tmp_path: Path) -> None:
    """PEFT writes them over the base's own, so that nothing takes them off again."""
    place = trained(peft.LoraConfig(r=4, bias="all", **LINEAR), tmp_path)
    with pytest.raises(UserError, match="changes weights of the base model itself"):
        load(untied, place)


def renamed(place: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = place / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda held: {name.removeprefix("base_model.model."): tensor for name, tensor in held.items()},
            r"12 parameters are missing .*; 12 tensors of the file are not used \(model\.layers\.0\.mlp\.down_proj\.",
        ),
        (
            lambda held: {"module." + name: tensor for name, tensor in held.items()},
            r"12 parameters are missing .*; 12 tensors of the file are not used \(module\.base_model",
        ),
        (
            lambda held: {name: tensor for name, tensor in held.items() if "layers.1" not in name},
            r"not fit this model: 4 parameters are missing from the file \(base_model\.model\.model\.layers\.1\.",
        ),
        (
            lambda held: {**held, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)},
            r"not fit this model: 1 tensors of the file are not used \(base_model\.model\.model\.layers\.7\.",
        ),
        (lambda held: {"other": torch.ones(1)}, "12 parameters are missing .*1 tensors of the file are not used"),
    ],
    ids=["no prefix", "wrapper's prefix", "fewer layers", "more layers", "nothing of it"],
)
def test_an_adapter_without_a_match_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], said: str, untied: Path, tmp_path: Path
) -> None:
    place = trained(peft.LoraConfig(r=4, **LINEAR), tmp_path)
    renamed(place, change)
    with pytest.raises(UserError, match=said):
        load(untied, place)
    model = load(untied)
    before = model.weights_hash
    with pytest.raises(UserError, match=said), saved_adapter(model, place):
        pass
    assert [name for name, _ in model.model.named_parameters() if "lora" in name] == []
    assert ChatModel(model.model, model.tokenizer, "again").weights_hash == before


@pytest.mark.parametrize("layers", [2, 5])
def test_an_adapter_for_another_number_of_layers_is_refused(layers: int, untied: Path, tmp_path: Path) -> None:
    place = trained(peft.LoraConfig(r=4, **LINEAR), tmp_path, num_hidden_layers=layers)
    with pytest.raises(UserError, match="4 parameters are missing" if layers == 2 else "8 tensors .* not used"):
        load(untied, place)


def test_an_adapter_that_lacks_a_whole_module_is_refused(untied: Path, tmp_path: Path) -> None:
    place = trained(peft.LoraConfig(r=4, modules_to_save=["lm_head"], **LINEAR), tmp_path)
    renamed(place, lambda held: {name: tensor for name, tensor in held.items() if "lm_head" not in name})
    with pytest.raises(UserError, match=r"lm_head\.weight is missing from its file"):
        load(untied, place)


def test_sizes_of_another_model_are_named(untied: Path, tmp_path: Path) -> None:
    place = trained(peft.LoraConfig(r=4, **LINEAR), tmp_path, hidden_size=64)
    with pytest.raises(UserError, match=r"other sizes than this model's \(9: base_model.*layers\.0.*, \.\.\.\)"):
        load(untied, place)


def test_of_several_adapters_in_a_folder_the_first_is_loaded(untied: Path, tmp_path: Path) -> None:
    """PEFT writes the others into folders of their own, and these load too."""
    wrapped = peft.get_peft_model(causal_model(qwen2()), peft.LoraConfig(r=4, init_lora_weights=False, **LINEAR))
    wrapped.add_adapter("second", peft.LoraConfig(r=8, init_lora_weights=False, **LINEAR))
    wrapped.save_pretrained(str(tmp_path))
    first, second = load(untied, tmp_path), load(untied, tmp_path / "second")
    assert first.adapter_hash != second.adapter_hash
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["r"] == 8
    assert first.weights_hash == second.weights_hash
