# mypy: disable-error-code="index, no-any-return"
"""What leaves for another engine does there what steering does here, and is refused where it would not."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

from families import FAMILIES, family_model
from personavec import export_vector
from personavec.cli.app import app
from personavec.errors import UserError
from personavec.extraction import ExtractionSettings
from personavec.info import VectorInfo
from personavec.interchange.bias import Proof
from personavec.interchange.forms import FORMS
from personavec.interchange.gguf import read_control_vector, read_vector
from personavec.interventions import steer
from personavec.model import ChatModel, weights_hash
from personavec.vector import PersonaVector
from tiny import causal_model, chat_model, qwen2, random_ids, tokenizer, vector

IDS = torch.tensor([random_ids(9, 1), random_ids(9, 2)])
# Where the last thing that writes to the stream is no linear map, or a norm or a gate stands behind it.
NO_BIAS = {
    "gemma2",
    "gemma3",
    "gemma4",
    "olmo2",
    "qwen3-moe",
    "mixtral",
    "minimax",
    "minimax-linear-first",
    "qwen3-next",
}
NO_BIAS |= {"rwkv", "jamba"}
MAMBA = {"mamba", "mamba2"}  # PEFT takes no adapter there
# With a bias of their own, by a flag of their config, or as Llama.
BAKED = {"gpt2", "gpt-neox", "phi", "mamba", "mamba2", "recurrent-gemma", "llama", "granite", "cohere", "falcon-h1"}
BAKED |= {"bamba", "qwen2", "mistral", "falcon-alibi"}


def logits(model: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **options).logits


def steered(model: ChatModel, *parts: tuple[PersonaVector, float], layers: Any = "best") -> Tensor:
    vectors, coefficients = zip(*parts, strict=True)
    with steer(model.model, list(vectors), list(coefficients), layers=layers, positions="all"):
        return logits(model.model)


@pytest.fixture
def family(request: pytest.FixtureRequest) -> tuple[str, ChatModel]:
    name: str = request.param
    return name, family_model(name)


# PEFT


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_an_adapter_is_the_steering_or_is_refused(family: tuple[str, ChatModel], tmp_path: Path) -> None:
    name, model = family
    persona, before = vector(model), logits(model.model)
    if name in NO_BIAS | MAMBA:
        reason = "Mamba" if name in MAMBA else "No linear map of block 2"
        with pytest.raises(UserError, match=reason):
            export_vector(model, [(persona, 1.5)], "peft", tmp_path / "adapter")
        assert not list(tmp_path.iterdir())
    else:
        said = export_vector(model, [(persona, 1.5)], "peft", tmp_path / "adapter")
        assert float(re.search(r"differ by at most (\S+);", said[-1])[1]) < 1e-4
        wanted = steered(model, (persona, 1.5))
        wrapped = PeftModel.from_pretrained(model.model, tmp_path / "adapter")
        try:
            torch.testing.assert_close(logits(wrapped), wanted, rtol=1e-4, atol=1e-4)
        finally:
            wrapped.unload()
    torch.testing.assert_close(logits(model.model), before)


def test_plain_transformers_loads_the_adapter_and_its_scale_is_the_coefficient(tmp_path: Path) -> None:
    model = chat_model(seed=3)
    persona = vector(model)
    export_vector(model, [(persona, 1.0)], "peft", tmp_path / "adapter")
    plain, wanted = logits(model.model), {c: steered(model, (persona, c)) for c in (1.0, -2.0)}
    model.model.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model.model), wanted[1.0], rtol=1e-5, atol=1e-5)
    model.model.disable_adapters()
    torch.testing.assert_close(logits(model.model), plain)
    model.model.enable_adapters()
    for module in model.model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", -2.0)
    torch.testing.assert_close(logits(model.model), wanted[-2.0], rtol=1e-5, atol=1e-5)


def test_rows_of_a_batch_are_steered_by_the_names_of_adapters(tmp_path: Path) -> None:
    model = chat_model(seed=4)
    persona = vector(model)
    export_vector(model, [(persona, 1.5)], "peft", tmp_path / "adapter")
    plain, wanted = logits(model.model), steered(model, (persona, 1.5))
    wrapped = PeftModel.from_pretrained(model.model, tmp_path / "adapter").eval()
    rows = logits(wrapped, adapter_names=["__base__", "default"])
    torch.testing.assert_close(rows[0], plain[0])
    torch.testing.assert_close(rows[1], wanted[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", ["best", "all", 1])
def test_several_vectors_and_all_layers_are_one_adapter(layers: Any, tiny: ChatModel, tmp_path: Path) -> None:
    parts = [(vector(tiny, seed=1, layer=1), 0.5), (replace(vector(tiny, seed=2, layer=3), trait="other"), -1.0)]
    said = export_vector(tiny, parts, "peft", tmp_path / "adapter", layers=layers)
    wrapped = PeftModel.from_pretrained(tiny.model, tmp_path / "adapter")
    found = logits(wrapped)
    wrapped.unload()
    torch.testing.assert_close(found, steered(tiny, *parts, layers=layers), rtol=1e-4, atol=1e-4)
    assert any("together was not measured" in sentence for sentence in said)
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", framework="pt") as handle:
        facts = json.loads(handle.metadata()["personavec"])
    assert [part["coefficient"] for part in facts["parts"]] == [0.5, -1.0]
    assert facts["layers"] == {"best": [1, 3], "all": [1, 2, 3], 1: [1]}[layers]


def test_a_factor_of_the_architecture_is_divided_out(tmp_path: Path) -> None:
    model = family_model("granite")
    persona = vector(model)
    export_vector(model, [(persona, 1.0)], "peft", tmp_path / "adapter")
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", framework="pt") as handle:
        [bias] = [handle.get_tensor(name) for name in handle.keys() if name.endswith("bias")]  # noqa: SIM118
    torch.testing.assert_close(bias, persona.at(2) / model.model.config.residual_multiplier, rtol=1e-4, atol=1e-4)


def test_an_export_leaves_the_model_as_it_was(tiny: ChatModel, tmp_path: Path) -> None:
    before = tiny.weights_hash, [name for name, _ in tiny.model.named_modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for folder in ("first", "second"):
            export_vector(tiny, [(vector(tiny), 1.0)], "peft", tmp_path / folder)
    assert (weights_hash(tiny.model), [name for name, _ in tiny.model.named_modules()]) == before


def test_what_does_not_do_what_steering_does_is_refused() -> None:
    plain, wanted = torch.zeros(1, 3, 5), torch.ones(1, 3, 5)
    exact, rounded = (Proof(IDS, plain, wanted, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert "3 tokens, float32" in exact.compare(wanted + 1e-6, "it")
    with pytest.raises(UserError, match=r"its logits differ .* by 0\.01 "):
        exact.compare(wanted + 0.01, "it")
    rounded.compare(wanted + 0.01, "it")
    with pytest.raises(UserError, match="float32, which rounds less"):
        rounded.compare(wanted * torch.nan, "it")


# Checkpoints


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_checkpoint_is_the_steering_or_is_refused(family: tuple[str, ChatModel], tmp_path: Path) -> None:
    name, model = family
    persona, before = vector(model), logits(model.model)
    if name not in BAKED:
        with pytest.raises(UserError, match="No linear map of block 2" if name in NO_BIAS else "has no bias at"):
            export_vector(model, [(persona, 1.5)], "bake", tmp_path / "baked")
        assert not list(tmp_path.iterdir())
    else:
        export_vector(model, [(persona, 1.5)], "bake", tmp_path / "baked")
        baked = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
        torch.testing.assert_close(logits(baked), steered(model, (persona, 1.5)), rtol=1e-4, atol=1e-4)
        assert (type(baked) is tf.LlamaForCausalLM) == (name in ("llama", "qwen2", "mistral"))
    torch.testing.assert_close(logits(model.model), before)


def test_a_checkpoint_speaks_as_its_model_does(tmp_path: Path) -> None:
    config = qwen2(tie_word_embeddings=True, rope_parameters={"rope_theta": 5e4, "rope_type": "default"})
    model = ChatModel(causal_model(config, 5).to(torch.bfloat16), tokenizer(), "tiny")
    model.model.generation_config.eos_token_id = [7, 9]
    parts = [(vector(model, seed=1), 0.5), (vector(model, seed=2, layer=3), 1.0)]
    export_vector(model, parts, "bake", tmp_path / "baked", layers="all")
    baked = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    assert (baked.dtype, baked.generation_config.eos_token_id) == (torch.bfloat16, [7, 9])
    assert baked.get_output_embeddings().weight is baked.get_input_embeddings().weight
    loaded = tf.AutoTokenizer.from_pretrained(tmp_path / "baked")
    messages = [{"role": "user", "content": "how are you today?"}]
    assert ChatModel(baked, loaded, "baked").prompt_ids(messages) == model.prompt_ids(messages)
    with pytest.raises(UserError, match="other weights"):
        vector(model).check(baked)


def test_nothing_is_written_over_and_nothing_half_written(tiny: ChatModel, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis").write_text("x")
    for form in ("peft", "bake"):
        with pytest.raises(UserError, match="There is something at"):
            export_vector(tiny, [(vector(tiny), 1.0)], form, tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"Cannot write|There is something"):
        export_vector(tiny, [(vector(tiny), 1.0)], "peft", tmp_path / "file/adapter")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "thesis"]


# Control vectors


def test_a_control_vector_holds_what_llama_cpp_asks_for(tiny: ChatModel, tmp_path: Path) -> None:
    parts = [(vector(tiny, seed=1), 0.5), (vector(tiny, seed=2, layer=3), -2.0), (vector(tiny, seed=3, layer=3), 1.0)]
    export_vector(tiny, parts, "gguf", tmp_path / "new/c.gguf")
    reader = gguf.GGUFReader(tmp_path / "new/c.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert list(found) == ["direction.1", "direction.2"]  # the outputs of blocks 1 and 2, counted from 0
    assert {tensor.tensor_type for tensor in found.values()} == {gguf.GGMLQuantizationType.F32}
    at = {layer: sum(c * v.at(layer) for v, c in parts if v.layer == layer) for layer in (2, 3)}
    np.testing.assert_allclose(found["direction.1"].data, at[2], rtol=1e-6)
    np.testing.assert_allclose(found["direction.2"].data, at[3], rtol=1e-5, atol=1e-6)
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert said["general.architecture"] == "controlvector" and said["controlvector.model_hint"] == "qwen2"
    assert said["personavec.operation"] == "add" and said["controlvector.layer_count"] == 2
    assert "every token" in said["general.description"] and "output of a block" in said["personavec.hook_point"]
    assert json.loads(said["personavec.facts"])["parts"][1]["coefficient"] == -2.0
    assert "direction.2 (layer 3)" in (tmp_path / "new/c.gguf.md").read_text()


def test_a_control_vector_comes_back(tiny: ChatModel, tmp_path: Path) -> None:
    persona = vector(tiny, layer=3)
    export_vector(tiny, [(persona, -1.5)], "gguf", tmp_path / "c.gguf")
    back = read_vector(tmp_path / "c.gguf")
    assert (back.trait, back.layer, back.n_layers, back.model) == ("kind", 3, 3, persona.model)
    torch.testing.assert_close(back.at(3), persona.at(3))
    assert not back.directions[:3].any()
    back.check(tiny)
    other = read_vector(tmp_path / "c.gguf", trait="nice", model="some/model")
    assert other.trait == "nice" and other.model == {"id": "some/model", "n_layers": 3, "hidden_size": 32}


def test_the_first_layer_is_refused(tiny: ChatModel, tmp_path: Path) -> None:
    for layers in (1, "all"):
        with pytest.raises(UserError, match="nothing to the output of its first block"):
            export_vector(tiny, [(vector(tiny), 1.0)], "gguf", tmp_path / "c.gguf", layers=layers)
    assert not list(tmp_path.iterdir())


def foreign(path: Path, architecture: str = "controlvector", **tensors: Any) -> Path:
    """A control vector as other tools write it; `direction_1` is the tensor direction.1."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    for name, data in tensors.items():
        writer.add_tensor(name.replace("_", "."), np.asarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_other_tools_control_vectors_are_read(tmp_path: Path) -> None:
    rows: dict[str, Any] = {f"direction_{n}": np.full(4, n, np.float32) for n in (1, 2, 3)}
    path = foreign(tmp_path / "c.gguf", **rows)
    with pytest.raises(UserError, match="which trait"):
        read_vector(path)
    with pytest.raises(UserError, match=r"layers 2, 3, 4\. .*`layer`"):
        read_vector(path, trait="kind")
    with pytest.raises(UserError, match="not for layer 1"):
        read_vector(path, trait="kind", layer=1)
    made = read_vector(path, trait="kind", layer=3, model="some/model")
    assert (made.n_layers, made.at(3).tolist(), made.at(4).tolist()) == (4, [2.0] * 4, [3.0] * 4)
    alone = read_vector(foreign(tmp_path / "d.gguf", direction_5=np.ones(4, np.float32)), trait="kind")
    assert alone.layer == 6


ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"direction_0": ONES}, "direction.0"),
        ({"direction_1": ONES, "blk_1": ONES}, "holds blk.1"),
        ({"direction_1": ONES.astype(np.float16)}, "float16"),
        ({"direction_1": np.ones((2, 2), np.float32)}, r"\[2, 2\]"),
        ({"direction_1": ONES, "direction_2": np.ones(5, np.float32)}, "different widths"),
        ({"direction_1": ONES * np.nan}, "not finite"),
        ({"direction_9999": ONES}, "direction.9999"),
        ({"architecture": "llama", "direction_1": ONES}, "no control vector"),
    ],
)
def test_what_is_no_control_vector_is_refused(tensors: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read_control_vector(foreign(tmp_path / "c.gguf", **tensors))


def test_damaged_control_vectors_are_refused(tiny: ChatModel, tmp_path: Path) -> None:
    path = tmp_path / "c.gguf"
    export_vector(tiny, [(vector(tiny), 1.0)], "gguf", path)
    whole = path.read_bytes()
    for cut in (4, 30, len(whole) // 2, len(whole) - 8):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            read_control_vector(path)
    for at in range(0, 600, 7):  # any byte of the header: read as it is, or refused
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_vector(path, trait="kind", layer=2)
        except UserError:
            continue


# What cannot be expressed, and what is said


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_cannot_express_is_refused(form: str, tiny: ChatModel, tmp_path: Path) -> None:
    def export(parts: Any, **options: Any) -> None:
        export_vector(tiny, parts, form, tmp_path / "out", **options)

    persona = vector(tiny)
    for positions in ("response", "prompt"):
        with pytest.raises(UserError, match="where the prompt ends"):
            export([(persona, 1.0)], positions=positions)
    for operation in ("ablate", "cap", "floor"):
        with pytest.raises(UserError, match="differs from token to token"):
            export([(persona, 1.0)], operation=operation)
    with pytest.raises(UserError, match="adds nothing"):
        export([(persona, 0.0)])
    with pytest.raises(UserError, match="no vector"):
        export([])
    with pytest.raises(UserError, match="after the final norm"):
        export([(replace(persona, normed_last_row=True), 1.0)], layers=3)
    stranger = replace(persona, model={**persona.model, "weights": "0" * 16})
    with pytest.raises(UserError, match="different models"):
        export([(persona, 1.0), (stranger, 1.0)])
    with pytest.raises(UserError, match="other weights"):
        export([(stranger, 1.0)])
    assert not list(tmp_path.iterdir())
    export([(stranger, 1.0)], other_weights=True)


def test_unknown_forms_are_refused(tiny: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Choose gguf, peft, bake"):
        export_vector(tiny, [(vector(tiny), 1.0)], "onnx", tmp_path / "out")


def test_a_model_with_an_adapter_is_refused(tmp_path: Path) -> None:
    model = chat_model(seed=6)
    persona = vector(model)
    export_vector(model, [(persona, 1.0)], "peft", tmp_path / "adapter")
    wrapped = ChatModel(PeftModel.from_pretrained(model.model, tmp_path / "adapter"), model.tokenizer, "tuned")
    with pytest.raises(UserError, match="bears an adapter"):
        export_vector(wrapped, [(persona, 1.0)], "peft", tmp_path / "out")


POINT: dict[str, Any] = {"mean": 40.0, "low": 30.0, "high": 50.0, "n": 20}
DOSE: list[Any] = [{"coefficient": c, "share": 0.1 * c, "score": POINT, "coherence": POINT} for c in (-1.0, 1.0)]


def test_the_dose_is_told_with_the_positions_it_was_measured_at(tiny: ChatModel, tmp_path: Path) -> None:
    def said(layers: Any = "best", **info: Any) -> str:
        known = replace(vector(tiny), info=VectorInfo.parse({"dose_response": DOSE, **info}))
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"
        sentences = export_vector(tiny, [(known, 1.0)], "gguf", out, layers=layers)
        text = out.with_name(f"{out.name}.md").read_text()
        assert all(sentence in text for sentence in sentences)
        return text

    assert "layer 2, response positions: -1: 40.0 [30.0, 50.0] n=20; +1: " in said()
    assert "No dose was measured at layer 2, all positions" in said()
    assert "`steer` FILE=1, `positions` all." in said(arguments={"positions": "response"})
    as_steered = said(arguments={"positions": "all"})
    assert "That is how it is steered here" in as_steered and "No dose" not in as_steered
    assert "No dose was measured at layer 3" in said(layers=3, arguments={"positions": "all"})
    assert "under kind was not measured" in said(dose_response=None)
    assert "outside of -0.5 to +0.5" in said(coherent_range=[-0.5, 0.5])


def test_extractions_can_measure_it_as_exports_steer() -> None:
    assert ExtractionSettings(positions="all").positions == "all"
    with pytest.raises(UserError, match=r"`positions` 'everywhere' .* Choose all, prompt, response"):
        ExtractionSettings(positions="everywhere")  # type: ignore[arg-type]
    assert "--positions" in CliRunner().invoke(app, ["extract", "--help"]).output


# By command


def test_the_command_exports_and_imports(tmp_path: Path) -> None:
    model = chat_model(seed=7)
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    persona = vector(model, info={"recommended_coefficient": 2.5})
    persona.save(tmp_path / "v.safetensors")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["vectors", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def export(form: str, *more: object, file: object = tmp_path / "v.safetensors") -> str:
        where = ("--out", tmp_path / form, "--model", tmp_path / "model", "--dtype", "float32")
        return run("export", file, "--as", form, *where, *more)

    with pytest.raises(UserError, match=r"Give `coefficient`\. Recommended: up to 2\.5\."):
        export("gguf")
    with pytest.raises(UserError, match="where the prompt ends"):
        export("gguf", "--coefficient", 1, "--positions", "response")
    with pytest.raises(UserError, match="does not go with"):
        export("gguf", "--coefficient", 1, "--position", "read")
    with pytest.raises(UserError, match="Choose paper, gguf"):
        export("onnx", "--coefficient", 1)
    assert "the prompt is steered too" in export("gguf", "--coefficient", -1.5)
    assert "logits of the adapter" in export("peft", "--coefficient", 1.5)
    assert "logits of the checkpoint" in export("bake", file=f"{tmp_path / 'v.safetensors'}=1.5")
    for path in ("peft/adapter_config.json", "peft/README.md", "bake/config.json", "bake/README.md"):
        assert (tmp_path / path).is_file()
    assert "kind, layer 2" in run("import", tmp_path / "gguf", "--out", tmp_path / "back")
    torch.testing.assert_close(PersonaVector.load(tmp_path / "back").at(2), persona.at(2))
    with pytest.raises(UserError, match="holds one vector at all layers"):
        export("paper", "--coefficient", 1)
    run("export", tmp_path / "v.safetensors", "--as", "paper", "--out", tmp_path / "v.pt")
    with pytest.raises(UserError, match="Give `trait` and `layer`"):
        run("import", tmp_path / "v.pt", "--out", tmp_path / "back")
