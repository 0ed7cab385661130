"""The vector file: whole or refused, and only for the model it was made for."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from personavec.errors import UserError
from personavec.info import VectorInfo
from personavec.model import ChatModel
from personavec.vector import PersonaVector, check_one_per_trait, cosine
from tiny import JUDGE, causal_model, chat_model, qwen2, vector

ROWS = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
HEADER: dict[str, Any] = {
    "trait": "kind",
    "layer": 2,
    "model": {"id": "tiny", "weights": "x"},
    "info": {"n": 3},
    "normed_last_row": False,
}


@pytest.fixture
def full(tiny: ChatModel) -> PersonaVector:
    """With everything a file can hold."""
    numbers = torch.arange(4.0)
    return vector(
        tiny,
        alternatives={"prompt_mean": ROWS + 1, "prompt_last": ROWS + 2},
        neutral_mean=numbers,
        neutral_deviation=numbers + 1,
        neutral_prompt_mean=numbers + 2,
        neutral_prompt_deviation=numbers + 3,
        residual_norm=numbers + 4,
        neutral_token_mean=numbers + 5,
        neutral_token_deviation=numbers + 6,
        info={"written": "größer ✓", "recommended_coefficient": None, "coherent_range": [-1.5, 2.0], "judge": JUDGE},
        normed_last_row=True,
    )


def write(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: Any) -> Path:
    """A file that would be right if nothing were changed."""
    given: dict[str, Any] = {"format": "personavec", "version": "1", "header": HEADER, **metadata}
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items() if v is not None}
    path.write_bytes(save({k: v.clone() for k, v in (tensors or {"response_mean": ROWS}).items()}, text))
    return path


def test_round_trip(full: PersonaVector, tmp_path: Path) -> None:
    full.save(tmp_path / "deep" / "v.safetensors")
    again = PersonaVector.load(str(tmp_path / "deep" / "v.safetensors"))
    for name in ("trait", "layer", "model", "info", "normed_last_row"):
        assert getattr(again, name) == getattr(full, name)
    for name in (
        "neutral_mean",
        "neutral_deviation",
        "neutral_prompt_mean",
        "neutral_prompt_deviation",
        "neutral_token_mean",
        "neutral_token_deviation",
        "residual_norm",
    ):
        assert torch.equal(getattr(again, name), getattr(full, name))
    assert torch.equal(again.directions, full.directions)
    assert again.alternatives.keys() == full.alternatives.keys()
    assert all(torch.equal(again.alternatives[name], full.alternatives[name]) for name in full.alternatives)


def test_round_trip_of_the_least(tmp_path: Path) -> None:
    made = PersonaVector("kind", ROWS, 2, {})
    made.save(tmp_path / "v")
    again = PersonaVector.load(tmp_path / "v")
    assert torch.equal(again.directions, ROWS) and again.neutral_mean is None and again.alternatives == {}
    assert PersonaVector.load(write(tmp_path / "w")).info == VectorInfo()


def test_a_file_keeps_what_is_known_and_nothing_that_is_not(full: PersonaVector, tmp_path: Path) -> None:
    full.save(tmp_path / "v")
    again = PersonaVector.load(tmp_path / "v").info
    assert again.judge is not None and again.judge.auc.low == 0.8 and again.coherent_range == (-1.5, 2.0)
    assert again.as_stored().keys() == {"written", "recommended_coefficient", "coherent_range", "judge"}
    odd: dict[str, Any] = {"written": "x", "judge": {"name": "contrast"}, "coherent_range": [1, 2, 3], "later": 1}
    assert PersonaVector.load(write(tmp_path / "w", header=HEADER | {"info": odd})).info == VectorInfo(written="x")
    for infinite in ("nan", "inf", "-Infinity"):  # words that pydantic takes for numbers
        odd = {"recommended_coefficient": infinite, "coherent_range": [0, infinite]}
        assert VectorInfo.parse(odd) == VectorInfo()


def test_the_identity_tells_vectors_apart(full: PersonaVector) -> None:
    digest = hashlib.sha256(struct.pack("<4f", 1, 2, 3, 4)).hexdigest()
    assert PersonaVector("kind", torch.tensor([[1.0, 2], [3, 4]]), 1, {}).identity == ["kind", 1, digest[:16]]
    assert replace(full, info=VectorInfo(), neutral_mean=None, alternatives={}).identity == full.identity
    moved = full.directions.clone()
    moved[-1, -1] += 1e-6
    others = [replace(full, trait="evil"), full.using(1), replace(full, directions=moved)]
    assert len({str(one.identity) for one in [full, *others]}) == 4


def test_two_vectors_of_one_trait_are_refused(full: PersonaVector) -> None:
    other = replace(full, trait="evil")
    check_one_per_trait([])
    check_one_per_trait([full, other])
    with pytest.raises(UserError, match="Two vectors are of the trait 'evil'"):
        check_one_per_trait([other, full, other.using(1)])


def test_tensors_that_share_memory_and_other_dtypes_are_saved(tmp_path: Path) -> None:
    stack = torch.stack([ROWS, ROWS + 1], dim=1)  # as the readings of several spans lie in memory
    made = PersonaVector("kind", stack[:, 0], 2, {}, {"prompt_mean": stack[:, 1], "prompt_last": stack[:, 0]})
    made.save(tmp_path / "v")
    again = PersonaVector.load(tmp_path / "v")
    assert torch.equal(again.directions, ROWS) and torch.equal(again.alternatives["prompt_mean"], ROWS + 1)
    PersonaVector("kind", ROWS.bfloat16(), 2, {}).save(tmp_path / "v")
    assert PersonaVector.load(tmp_path / "v").directions.dtype == torch.float32


def test_directions(full: PersonaVector) -> None:
    assert full.n_layers == 3 and full.steerable_layers == [1, 2]
    whole = replace(full, normed_last_row=False)
    assert whole.steerable_layers == [1, 2, 3]
    torch.testing.assert_close(whole.unit(2), whole.directions[2] / whole.directions[2].norm())
    assert whole.using(3).layer == 3 and whole.neutral(2) == (2.0, 3.0) and whole.neutral(2, "prompt") == (4.0, 5.0)
    assert whole.neutral(2, "token") == (7.0, 8.0)
    assert cosine(whole, whole, 2) == pytest.approx(1.0)
    assert cosine(whole, replace(whole, directions=-whole.directions), 2) == pytest.approx(-1.0)
    other = PersonaVector("other", torch.randn(4, 16), 2, {})
    with pytest.raises(UserError, match="different shape"):
        cosine(whole, other, 2)
    for layer in (0, 4, -1):
        with pytest.raises(UserError, match=f"Layer {layer} is out of range"):
            whole.at(layer)
        with pytest.raises(UserError, match=f"Layer {layer} is out of range"):
            whole.using(layer)


def test_truncated_anywhere(full: PersonaVector, tmp_path: Path) -> None:
    full.save(tmp_path / "v")
    blob = (tmp_path / "v").read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(blob) // 2, len(blob) - 1):
        (tmp_path / "v").write_bytes(blob[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            PersonaVector.load(tmp_path / "v")
    (tmp_path / "v").write_bytes(blob + b"x")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        PersonaVector.load(tmp_path / "v")


@pytest.mark.parametrize(
    "change",
    [
        {"info": []},
        {"info": None},
        {"model": [["id", "x"]]},
        {"model": {"weights": ["x"]}},
        {"model": {"id": {}}},
        {"model": {"template": 3}},
        {"trait": "half \ud800"},
        {"info": {"n": float("nan")}},
        {"info": {"n": [float("-inf")]}},
        {"layer": []},
    ],
    ids=str,
)
def test_header_of_another_shape(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is damaged"):
        PersonaVector.load(write(tmp_path / "v", header={**HEADER, **change}))


def test_header_that_is_no_object_or_holds_a_number_beyond_all(tmp_path: Path) -> None:
    for header in ("[]", "3", "null", json.dumps(HEADER).replace('"n": 3', '"n": 1e999')):
        with pytest.raises(UserError, match="is damaged"):
            PersonaVector.load(write(tmp_path / "v", header=header))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_crash(full: PersonaVector, tmp_path: Path, data: st.DataObject) -> None:
    """A damaged file is refused, or differs only in its numbers and words; nothing but UserError comes out."""
    path = tmp_path / "v"
    full.save(path)
    blob = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", blob[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(blob)
    try:
        made = PersonaVector.load(path)
    except UserError:
        return
    assert made.directions.shape == (4, 32) and made.layer in made.steerable_layers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=st.binary(max_size=300))
def test_garbage(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "v").write_bytes(blob)
    with pytest.raises(UserError):
        PersonaVector.load(tmp_path / "v")


def raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


ENTRY = b'{"response_mean":{"dtype":"%s","shape":%s,"data_offsets":[0,%d]}}'


@pytest.mark.parametrize(
    "blob",
    [
        raw(b"{}", length=2**63),
        raw(b"{}", length=10**8),
        raw(b"{}"),
        raw(b"[" * 5000),
        raw(b'{"a":' * 5000),
        raw(ENTRY % (b"F32", b"[1000000000000]", 4), b"0000"),
        raw(ENTRY % (b"F32", b"[18446744073709551615,2]", 8), b"0" * 8),
        raw(ENTRY % (b"F32", b"[-1]", 4), b"0000"),
        raw(ENTRY % (b"F32", b"[1]", 400), b"0000"),
        raw(ENTRY % (b"COMPLEX", b"[1]", 8), b"0" * 8),
        b"PK\x03\x04 a pickle in a zip archive",
    ],
)
def test_hostile_headers(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "v").write_bytes(blob)
    with pytest.raises(UserError):
        PersonaVector.load(tmp_path / "v")


def test_other_safetensors(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(save({"model.weight": ROWS}))
    with pytest.raises(UserError, match="is not a persona vector"):
        PersonaVector.load(tmp_path / "v")
    (tmp_path / "v").write_bytes(save({"model.weight": ROWS}, {"format": "pt"}))
    with pytest.raises(UserError, match="is not a persona vector"):
        PersonaVector.load(tmp_path / "v")


@pytest.mark.parametrize("version", ["3", "0", "", None])
def test_other_versions(tmp_path: Path, version: str | None) -> None:
    with pytest.raises(UserError, match=r"format version .*; this personavec reads 1 and 2"):
        PersonaVector.load(write(tmp_path / "v", version=version))


NAN = ROWS.clone()
NAN[0, 0] = torch.nan


@pytest.mark.parametrize(
    "tensors",
    [
        {"response_mean": NAN},
        {"response_mean": NAN.nan_to_num(nan=torch.inf)},
        {"response_mean": ROWS, "prompt_mean": NAN},
        {"response_mean": ROWS, "neutral_mean": NAN[0, :4]},
        {"response_mean": ROWS, "stray": ROWS},
        {"prompt_mean": ROWS},
        {"response_mean": ROWS.double()},
        {"response_mean": ROWS.half()},
        {"response_mean": ROWS.to(torch.int32)},
        {"response_mean": ROWS.to(torch.float8_e4m3fn)},
        {"response_mean": ROWS, "neutral_mean": torch.zeros(4).double()},
        {"response_mean": ROWS, "neutral_mean": torch.zeros(3)},
        {"response_mean": ROWS, "neutral_mean": ROWS},
        {"response_mean": ROWS, "prompt_last": ROWS[:3]},
        {"response_mean": ROWS[0]},
        {"response_mean": ROWS[:1]},
        {"response_mean": ROWS[:0]},
        {"response_mean": torch.tensor(1.0)},
        {"response_mean": ROWS[None]},
    ],
    ids=range(19),
)
def test_wrong_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError):
        PersonaVector.load(write(tmp_path / "v", tensors))


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[]",
        "7",
        "[" * 100_000,
        json.dumps(HEADER).replace("2", "1e999", 1),
        json.dumps(HEADER).replace("2", "Infinity", 1),
        *(json.dumps({k: v for k, v in HEADER.items() if k != left_out}) for left_out in HEADER),
        *({**HEADER, "layer": layer} for layer in (0, 4, -1, "two", None, [2], 10**30)),
        {**HEADER, "model": 3},
        {**HEADER, "info": "much"},
    ],
)
def test_wrong_headers(tmp_path: Path, header: Any) -> None:
    with pytest.raises(UserError):
        PersonaVector.load(write(tmp_path / "v", header=header))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="There is no vector file"):
            PersonaVector.load(path)


def test_check_accepts_the_right_model(tiny: ChatModel) -> None:
    made = vector(tiny)
    for model in (tiny, tiny.model, causal_model(qwen2())):
        made.check(model)
    made.check(causal_model(qwen2()).bfloat16())


def test_check_accepts_an_adapter(tiny: ChatModel) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    vector(tiny).check(peft.get_peft_model(causal_model(qwen2()), config))


def test_check_refuses_other_models(tiny: ChatModel) -> None:
    made = vector(tiny)
    for options in ({"hidden_size": 64}, {"num_hidden_layers": 2}):
        with pytest.raises(UserError, match=r"belongs to tiny \(3 layers of width 32\)"):
            made.check(chat_model(qwen2(**options)), other_weights=True)
    other = causal_model(qwen2())
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.mul_(1.02)  # as after a little training
    with pytest.raises(UserError, match="other weights"):
        made.check(other)
    made.check(other, other_weights=True)
    replace(made, model={}).check(other)  # an import that knows no weights


def test_not_finite_is_refused_when_made() -> None:
    with pytest.raises(UserError, match="not finite"):
        PersonaVector("kind", NAN, 2, {})
    with pytest.raises(UserError, match="not finite"):
        PersonaVector("kind", ROWS, 2, {}, residual_norm=NAN[0, :4])
    with pytest.raises(UserError, match="shape"):
        PersonaVector("kind", ROWS[0], 2, {})
