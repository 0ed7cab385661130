"""vLLM against transformers: the same readings, answers and screenings. `.ci/vllm` makes an environment for these."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig

pytest.importorskip("vllm", reason="vLLM is not installed here; .ci/vllm makes an environment for it")

from personavec.engine.transformers import TransformersEngine
from personavec.engine.vllm import VllmEngine
from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.checkpoint import Checkpoint
from personavec.screening import ScreeningRun
from tiny import SIZES, chat_model, plain_greedy, qwen2, random_ids, vector

# vLLM's kernels want heads of at least 32.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
LAYERS = [0, 2, 3, 4]
SMALL: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": 8, "max_num_batched_tokens": 128}  # prompts in chunks


def saved(model: ChatModel, folder: Path) -> Path:
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen() -> ChatModel:
    """It ends its turn at a token that it does use."""
    made = chat_model(qwen2(**SHAPE))
    often = plain_greedy(made.model, random_ids(9, 49), 20)[-1]
    made.model.generation_config = GenerationConfig(eos_token_id=[302, often])
    return made


@pytest.fixture(scope="module")
def folder(qwen: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(qwen, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmEngine]:
    made = VllmEngine(Checkpoint(folder, "tiny"), LAYERS, **SMALL)
    yield made
    made.close()


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Of all lengths, several spans each, some empty, some overlapping; the last ones share long prefixes."""
    made = [
        Conversation(random_ids(n, n), [(0, 1), (n // 3, n // 2), (n // 3, n)]) for n in (1, 7, 130, 300, 511, 64, 33)
    ]
    start = made[4].ids[:400]
    made += [Conversation([*start, *random_ids(50, seed)], [(390, 450), (9, 9), (0, 300)]) for seed in (1, 2, 3)]
    made.append(Conversation(random_ids(9, 9), []))
    return made


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isnan(), theirs.isnan())
    a, b = ours.nan_to_num().flatten(0, 1), theirs.nan_to_num().flatten(0, 1)
    there = b.norm(dim=1) > 0
    assert there.any()
    assert (torch.cosine_similarity(a[there], b[there]) > 0.99999).all()
    assert float(((a - b).norm(dim=1) / b.norm(dim=1).clamp_min(1e-9))[there].max()) < 1e-4


def test_readings_are_those_of_transformers(
    engine: VllmEngine, qwen: ChatModel, conversations: list[Conversation]
) -> None:
    theirs = TransformersEngine(qwen).read(conversations, LAYERS)
    assert_alike(engine.read(conversations, LAYERS), theirs)
    assert_alike(engine.read(conversations, LAYERS), theirs)  # now from the prefix cache


def test_layers_come_in_the_order_asked_for(engine: VllmEngine, conversations: list[Conversation]) -> None:
    every = engine.read(conversations, LAYERS)
    assert_alike(engine.read(conversations, [4, 2]), every[:, [3, 1]])


def test_directions_leave_their_scalar_products(engine: VllmEngine, conversations: list[Conversation]) -> None:
    directions = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0))
    means = engine.read(conversations, [2, 4])
    found = engine.read(conversations, [2, 4], directions)
    expected = torch.einsum("sld,lkd->slk", means, directions)
    assert found.shape == expected.shape == (len(means), 2, 5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3, equal_nan=True)
    assert engine.read(conversations, [2]).shape[2] == 128  # directions do not stay behind


def test_nothing_to_read(engine: VllmEngine) -> None:
    assert engine.read([], [2]).shape == (0, 1, 128)
    assert engine.read([Conversation([1, 2, 3], [(2, 2)])], [2]).isnan().all()


def test_a_token_alone_is_read_like_a_long_span(engine: VllmEngine, qwen: ChatModel) -> None:
    ids = random_ids(200, 5)
    tokens = Conversation(ids, [(t, t + 1) for t in range(200)])
    assert_alike(engine.read([tokens], [2]), TransformersEngine(qwen).read([tokens], [2]))


def test_greedy_answers_are_those_of_transformers(engine: VllmEngine, qwen: ChatModel) -> None:
    prompts = [random_ids(n, n + 40) for n in (1, 2, 9, 30, 31, 150, 3, 4, 5, 6)]
    expected = TransformersEngine(qwen).answer(prompts, 40)
    assert engine.answer(prompts, 40) == expected
    assert {len(answer) for answer in expected} - {40}, "no answer ends by itself: the test shows less than it should"
    assert engine.answer([], 5) == []


def test_answers_and_readings_mix(engine: VllmEngine, qwen: ChatModel) -> None:
    """An answer's pages may serve a later reading of the same tokens."""
    prompt = random_ids(200, 77)
    (answer,) = engine.answer([prompt], 30)
    told = [Conversation([*prompt, *answer], [(199, 200), (200, 200 + len(answer))])]
    assert_alike(engine.read(told, LAYERS), TransformersEngine(qwen).read(told, LAYERS))


def test_another_layer_is_refused(engine: VllmEngine, folder: Path) -> None:
    with pytest.raises(UserError, match=r"Layer 1 .* started for 0, 2, 3, 4"):
        engine.read([Conversation([1, 2], [(0, 2)])], [2, 1])
    with pytest.raises(UserError, match="from 0 to 4"):
        VllmEngine(Checkpoint(folder, "tiny"), [5])


def test_only_the_engine_tells_the_identities_apart(engine: VllmEngine, qwen: ChatModel) -> None:
    other = TransformersEngine(qwen)
    assert {key for key in engine.identity if engine.identity[key] != other.identity.get(key)} == {"engine"}
    assert engine.context_length == 511
    vector(qwen).check(engine.model)


def test_a_model_that_vllm_cannot_run_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="vLLM cannot run the model 'tiny'"):
        VllmEngine(Checkpoint(folder, "tiny"), [2], tensor_parallel=3)


def test_in_this_process(folder: Path, qwen: ChatModel, conversations: list[Conversation]) -> None:
    """Such an engine takes no step by itself, so that the last readings must be asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        made = VllmEngine(Checkpoint(folder, "tiny"), [2], **SMALL)
    theirs = TransformersEngine(qwen).read(conversations, [2])
    assert_alike(made.read(conversations, [2]), theirs)
    assert_alike(made.read(conversations[:1], [2]), theirs[:3])
    made.close()


def test_two_shards_compiled(tmp_path: Path, conversations: list[Conversation]) -> None:
    """Tensor parallel, with torch.compile, on a Llama; bfloat16 against float32."""
    model = chat_model(LlamaConfig(**{**SIZES, **SHAPE}))
    checkpoint = Checkpoint(saved(model, tmp_path / "llama"), "tiny", dtype=torch.bfloat16)
    made = VllmEngine(checkpoint, [1, 4], tensor_parallel=2, max_num_seqs=8)
    ours, theirs = made.read(conversations, [1, 4]), TransformersEngine(model).read(conversations, [1, 4])
    made.close()
    there = ~theirs[:, 0, 0].isnan()
    assert (torch.cosine_similarity(ours[there], theirs[there], dim=-1) > 0.999).all()


WORDS = ["the", "model", "answers", "question", "and", "then", "hello", "there", "how", "are", "you", "today", "well"]


def chats(path: Path, count: int, seed: int) -> Path:
    random = Random(seed)

    def say(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(random.choice(WORDS) for _ in range(random.randint(2, 9)))}

    lines = [
        json.dumps({"messages": [say(role) for _ in range(1 + i % 2) for role in ("user", "assistant")]})
        for i in range(count)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from personavec.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["personavec", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, error = capsys.readouterr()
        return int(exit.value.code or 0), out, error

    return run


def test_a_screening_with_either_engine(
    command: Callable[..., tuple[int, str, str]],
    folder: Path,
    qwen: ChatModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    one, two = vector(qwen, seed=1, layer=2), replace(vector(qwen, seed=2, layer=4), trait="other")
    for v in (one, two):
        v.save(tmp_path / f"{v.trait}.safetensors")
    data, clean = chats(tmp_path / "data.jsonl", 90, 1), chats(tmp_path / "clean.jsonl", 60, 2)

    def screen(name: str, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        code, out, error = command(
            "screen", data, "--model", folder, "-v", tmp_path / "kind.safetensors",
            "-v", tmp_path / "other.safetensors", "--reference", clean, "--out", tmp_path / name,
            "--baseline", "exact", "--specific", "span", "--max-new-tokens", "8", "--false-alarm-rate", "0.2",
            "--dtype", "float32", "--json", *more,
        )  # fmt: skip
        assert code == 0, error
        table = pq.read_table(tmp_path / name / "scores.parquet")
        return json.loads(out), {c: table[c].to_numpy(zero_copy_only=False) for c in table.column_names}

    plain, expected = screen("plain")
    ours, found = screen("vllm", "--engine", "vllm")
    assert ours["generated"] > 0, "own answers of the other engine were taken"
    assert {k: ours[k] for k in ("read", "kept", "flagged")} == {k: plain[k] for k in ("read", "kept", "flagged")}
    assert 0 < ours["flagged"] < 90
    for column, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[column], values, rtol=1e-3, atol=1e-3)
        else:
            assert (found[column] == values).all()
    assert ScreeningRun.read(tmp_path / "vllm").engine.startswith("vllm ")
    code, _, error = command(
        "screen", data, "--model", folder, "-v", tmp_path / "kind.safetensors", "--out", tmp_path / "x",
        "--engine", "vllm", "--judge", "contrast",
    )  # fmt: skip
    assert code == 2
    assert "contrast judge needs the model in this process" in error
