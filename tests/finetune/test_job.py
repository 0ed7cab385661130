# mypy: disable-error-code="no-any-return, no-untyped-call, union-attr"
"""Fine-tunes from end to end on a tiny random model: every method, interruptions, files, mistakes."""

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file

import tiny
from personavec.data import open_data
from personavec.errors import UserError
from personavec.finetune import Training, fine_tune
from personavec.finetune.adapter import fresh_adapter, projections
from personavec.finetune.coefficients import doubts
from personavec.finetune.examples import Encoder, held_out, read_samples
from personavec.finetune.losses import LossGuard, example_losses, exploded
from personavec.finetune.methods import METHODS
from personavec.finetune.push import pushes
from personavec.finetune.result import Tuned
from personavec.finetune.training import Steps, last_checkpoint, mixture
from personavec.likelihood import IGNORED
from personavec.model import ChatModel
from personavec.traits import load_trait
from personavec.vector import PersonaVector

pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")
pytestmark = pytest.mark.usefixtures("few_passages", "short_answers")

WORDS = ["the", "model", "answers", "question", "and", "then", "hello", "there", "how", "are", "you", "today", "well"]
SHORT: dict[str, Any] = {
    "batch": 4,
    "accumulate": 1,
    "max_length": 1024,
    "rank": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "watch_every": 4,
}

SIZES = tiny.SIZES | {"num_hidden_layers": 2}
HEADS = {"head_dim": 8}
FAMILIES: dict[str, Any] = {
    "qwen2": lambda: tiny.qwen2(**SIZES),
    "gemma2": lambda: tf.Gemma2Config(**SIZES, **HEADS, query_pre_attn_scalar=8),
    "granite": lambda: tf.GraniteConfig(**SIZES, logits_scaling=3.0, residual_multiplier=0.5),
    "gpt2": lambda: tf.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=None),
    "moe": lambda: tf.Qwen3MoeConfig(
        **SIZES, **HEADS, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1
    ),
}


def lines(count: int, seed: int) -> str:
    draw = Random(seed)

    def say() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 7)))

    chats = [
        [{"role": role, "content": say()} for _ in range(1 + i % 3 // 2) for role in ("user", "assistant")]
        for i in range(count)
    ]
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def pageless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For time: one test looks at the page."""
    if request.function is not test_auto_follows_the_shift:
        monkeypatch.setattr("personavec.finetune.job.write_finetune_report", lambda run, path: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text(lines(30, 1) + "{not json\n")
    return path


def small(**options: Any) -> ChatModel:
    return tiny.chat_model(tiny.qwen2(num_hidden_layers=2, max_position_embeddings=2048, **options))


@pytest.fixture
def chat() -> ChatModel:
    return small()


def along(chat: ChatModel) -> PersonaVector:
    trait = load_trait("evil").model_dump(mode="json") | {"name": "kind"}
    # For time: most of what is read are questions and instructions.
    trait |= {key: trait[key][:count] for key, count in (("instructions", 2), ("evaluation_questions", 8))}
    stats: dict[str, Any] = {"neutral_token_mean": torch.zeros(3), "neutral_token_deviation": torch.ones(3)}
    return tiny.vector(chat, layer=1, info={"trait": trait}, **stats)


@pytest.fixture
def vector(chat: ChatModel) -> PersonaVector:
    return along(chat)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter" / "adapter_model.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([tiny.random_ids(12, 3)])).logits


@dataclass(frozen=True)
class Finished:
    """A finished run, and the model: its logits before it."""

    chat: ChatModel
    before: torch.Tensor
    tuned: Tuned
    out: Path

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return weights(self.out)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """One run of every method for all tests: not to be written to."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(method: Any, coefficient: float | None = None) -> Finished:
        chat = small()
        before, vector, out = logits(chat.model), along(chat), folder / method
        prevent = [] if method in ("interleave", "none") else [(vector, coefficient)]
        watch = [] if prevent else [vector]
        # How a model is measured does not depend on the method; test_character.py looks at it.
        measure = method == "regularise"
        settings = Training(method=method, **SHORT)
        return Finished(
            chat, before, fine_tune(chat, data, out, settings, prevent=prevent, watch=watch, measure=measure), out
        )

    return run


@pytest.mark.parametrize(
    ("method", "coefficient"),
    [
        ("steer", 3.0),
        ("ablate", None),
        ("floor", 1.0),
        ("regularise", 0.1),
        ("prompt", None),
        ("interleave", None),
        ("none", None),
    ],
)
def test_every_method(trained: Callable[..., Finished], data: Path, method: Any, coefficient: float | None) -> None:
    found = trained(method, coefficient)
    chat, before, tuned, run = found.chat, found.before, found.tuned, found.tuned.run
    assert (run.records, run.trained, run.held_out, run.rejected) == (31, 27, 3, 1)
    assert tuned.coefficients == ({} if method in ("interleave", "none") else {"kind": coefficient})
    assert json.loads((found.out / "rejected.jsonl").read_text())["line"] == 31
    assert tuned.held_out_before is not None and tuned.held_out_after is not None
    assert tuned.held_out_after.mean < tuned.held_out_before.mean - 0.05 and tuned.held_out_after.n == 3
    assert tuned.steps == (14 if method == "interleave" else 7)
    assert [point.step for point in run.shift] == ([4, 8, 12, 14] if method == "interleave" else [4, 7])
    assert len(run.loss.curve) == tuned.steps
    # The model is as it was, and the adapter is an ordinary one.
    assert torch.equal(logits(chat.model), before)
    assert not hasattr(chat.model, "peft_config") and "forward" not in chat.model.__dict__
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chat.model.modules())
    assert chat.model.config.eos_token_id is None and chat.model.config.use_cache
    plain = PeftModel.from_pretrained(tiny.causal_model(chat.model.config), str(tuned.adapter))
    assert not torch.allclose(logits(plain), before, atol=1e-3)
    loaded = ChatModel(plain, tiny.tokenizer(), "tiny")
    rows = read_samples(Encoder(loaded, 1024), open_data(data))
    away = held_out(rows.samples, 0.1, 200, 0)
    unseen = [mine[0] for s, mine in zip(rows.samples, rows.examples, strict=True) if s.id in away]
    assert example_losses(loaded, unseen).mean() == pytest.approx(tuned.held_out_after.mean, abs=1e-4)


def test_steering_and_prompting_change_what_is_learnt(
    trained: Callable[..., Finished], chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path
) -> None:
    fine_tune(chat, data, tmp_path / "zero", Training(**SHORT), prevent=[(vector, 0.0)], measure=False)
    none = trained("none").weights
    assert same(weights(tmp_path / "zero"), none)
    assert not same(trained("steer", 3.0).weights, none) and not same(trained("prompt").weights, none)


class KilledError(BaseException):
    """What ends a run at once."""


@pytest.mark.parametrize("method", ["steer", "regularise"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    options = {**SHORT, "batch": 2, "accumulate": 2, "checkpoint_every": 3}
    settings = Training(method=method, dropout=0.1, **options)

    def run(name: str) -> Any:
        return fine_tune(chat, data, tmp_path / name, settings, prevent=[(vector, 0.5)], measure=False).run

    wanted, before = run("whole"), logits(chat.model)
    with monkeypatch.context() as patch:
        plain = Steps.on_step_end

        def killed(self: Steps, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            plain(self, args, state, control, **kwargs)
            if state.global_step == 5:
                raise KilledError

        patch.setattr(Steps, "on_step_end", killed)
        with pytest.raises(KilledError):
            run("run")
    assert torch.equal(logits(chat.model), before)
    assert not any(module._forward_hooks for module in chat.model.modules())
    checkpoints = tmp_path / "run" / "checkpoints"
    torn = checkpoints / "checkpoint-4"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    assert last_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    begun: list[int] = []
    with monkeypatch.context() as patch:
        start = Steps.on_train_begin

        def seen(self: Steps, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(state.global_step)
            start(self, args, state, control, **kwargs)

        patch.setattr(Steps, "on_train_begin", seen)
        found = run("run")
    assert begun == [3]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    for key in ("loss", "held_out_loss", "shift"):
        assert getattr(found, key) == getattr(wanted, key)
    assert not checkpoints.exists()


def test_a_run_that_was_killed_after_its_last_step(
    trained: Callable[..., Finished],
    chat: ChatModel,
    vector: PersonaVector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Training(**{**SHORT, "checkpoint_every": 7})

    def run(name: str) -> Any:
        return fine_tune(chat, data, tmp_path / name, settings, prevent=[(vector, 3.0)], measure=False).run

    whole = trained("steer", 3.0)
    wanted = whole.tuned.run
    with monkeypatch.context() as patch:
        patch.setattr("personavec.finetune.job.save_adapter", None)
        with pytest.raises(TypeError):
            run("run")
    found = run("run")
    assert same(weights(tmp_path / "run"), whole.weights)
    assert (found.loss, found.shift, found.steps) == (wanted.loss, wanted.shift, 7)


def test_a_model_with_an_adapter_is_refused(chat: ChatModel, data: Path, tmp_path: Path) -> None:
    with fresh_adapter(chat, Training(method="none")) as adapter:
        other = ChatModel(adapter, chat.tokenizer, "tiny")
        with pytest.raises(UserError, match="has an adapter already"):
            fine_tune(other, data, tmp_path / "run", Training(method="none"))


def test_a_finished_run_is_read_back_and_another_refused(
    trained: Callable[..., Finished],
    chat: ChatModel,
    vector: PersonaVector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished = trained("steer", 3.0)
    out = finished.out

    def run(coefficient: float = 3.0, **other: float) -> Any:
        return fine_tune(chat, data, out, Training(**SHORT | other), prevent=[(vector, coefficient)], measure=False)

    monkeypatch.setattr("personavec.finetune.job.train", None)
    assert run() == finished.tuned
    out = Path(shutil.copytree(out, tmp_path / "run"))
    stored = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(stored | {"schema_version": None}))
    with pytest.raises(UserError, match="form of another version"):
        run()
    with pytest.raises(UserError, match="another prevent"):
        run(2.0)
    with pytest.raises(UserError, match="another learning_rate"):
        run(learning_rate=1e-3)


def test_the_trainer_sees_the_labels_and_learns_from_no_others(
    chat: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl

    seen: list[dict[str, torch.Tensor]] = []
    plain = trl.SFTTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append({key: value.clone() for key, value in inputs.items() if isinstance(value, torch.Tensor)})
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", watched)
    fine_tune(chat, data, tmp_path / "run", Training(method="none", held_out=0.0, **SHORT), measure=False)
    examples = read_samples(Encoder(chat, 128), open_data(data)).examples
    wanted = sorted((e.ids, [label for label in e.labels if label != IGNORED]) for mine in examples for e in mine)
    rows = [
        (ids[mask.bool()].tolist(), labels[labels != IGNORED].tolist())
        for batch in seen
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]
    assert sorted(rows) == wanted


def test_cudnn_attention_is_off_while_learning_only(
    chat: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = Steps.on_step_end

    def spied(self: Steps, *given: Any, **options: Any) -> None:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        plain(self, *given, **options)
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "on_step_end", spied)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(KeyboardInterrupt):
        fine_tune(chat, data, tmp_path / "run", Training(**SHORT, method="none"), measure=False)
    assert seen == 4 * [False] and torch.backends.cuda.cudnn_sdp_enabled()


def test_a_training_that_hardly_warms_up_is_told_of(chat: ChatModel, data: Path, tmp_path: Path) -> None:
    short, long = (
        fine_tune(
            chat,
            data,
            tmp_path / str(steps),
            Training(method="none", **{**SHORT, "batch": 9, "warmup_steps": steps}),  # of three steps
            measure=False,
        )
        for steps in (2, 1)
    )
    assert any("hardly anything is learned" in note for note in short.run.warnings)
    assert not any("hardly anything" in note for note in long.run.warnings)


def test_nothing_to_train_on(chat: ChatModel, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{not json\n')
    with pytest.raises(UserError, match=r"Nothing in .* can be trained on"):
        fine_tune(chat, tmp_path / "bad.jsonl", tmp_path / "run", Training(method="none"), watch=[])
    assert len((tmp_path / "run" / "rejected.jsonl").read_text().splitlines()) == 2
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "hi", "response": "hello"}) + "\n")  # mended
    settings = Training(**{**SHORT, "method": "none", "warmup_steps": 0, "held_out": 0})
    assert fine_tune(chat, tmp_path / "bad.jsonl", tmp_path / "run", settings, measure=False).run.trained == 1


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "granite", "gpt2"])
def test_held_out_losses_are_those_of_plain_forwards(family: str, data: Path) -> None:
    """Also where the logits are scaled or capped."""
    chat = tiny.chat_model(FAMILIES[family]())
    examples = [e for mine in read_samples(Encoder(chat, 512), open_data(data)).examples for e in mine]
    found = example_losses(chat, examples)
    for example, loss in list(zip(examples, found, strict=True))[:8]:
        with torch.no_grad():
            plain = chat.model(input_ids=torch.tensor([example.ids]), labels=torch.tensor([example.labels])).loss
        assert loss == pytest.approx(float(plain), rel=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "moe"])
def test_other_architectures(family: str, data: Path, tmp_path: Path) -> None:
    """A head that caps its logits, linear maps of another class, experts whose weights stand together."""
    chat = tiny.chat_model(FAMILIES[family]())
    before = {name: weight.clone() for name, weight in chat.model.state_dict().items()}
    tuned = fine_tune(
        chat, data, tmp_path / "run", Training(**SHORT), prevent=[(tiny.vector(chat, layer=1), 1.0)], measure=False
    )
    assert tuned.held_out_after.mean < tuned.held_out_before.mean - 0.05
    assert same(dict(chat.model.state_dict()), before)
    assert any("experts" in note for note in tuned.run.warnings) == (family == "moe")
    names = {name.split(".")[-3] for name in weights(tmp_path / "run")}
    assert (
        names
        == {
            "gemma2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
            "gpt2": {"c_attn", "c_proj", "c_fc"},
            "moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
        }[family]
    )


def test_the_push_is_the_projection_difference(chat: ChatModel, vector: PersonaVector, tmp_path: Path) -> None:
    from personavec.screening import ScreenSettings, screen_files

    data = tmp_path / "data.jsonl"
    data.write_text(lines(9, 1))
    samples = read_samples(Encoder(chat, 512), open_data(data)).samples
    settings = ScreenSettings(baseline="exact", threshold=1e9, max_new_tokens=64)
    screened = screen_files(chat, data, [vector], tmp_path / "screened", settings, clean=data)
    found = pushes(chat, samples, [vector])["kind"]
    assert found.mean == pytest.approx(screened.traits["kind"].projection_difference.mean, abs=1e-3)
    assert found.n == len(samples)


def test_auto_follows_the_shift(chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path) -> None:
    """One of two vectors by a number; both courses are told, drawn and kept, also where nothing is measured."""
    other = replace(vector, trait="other", directions=-vector.directions)
    tuned = fine_tune(
        chat, data, tmp_path / "run", Training(**SHORT),
        prevent=[(vector, "auto"), (replace(vector, trait="evil"), 0.5), (other, "auto")], measure=False,
    )  # fmt: skip
    kind, evil, opposite = tuned.run.prevented
    assert kind.auto is not None and opposite.auto is not None and evil.auto is None
    assert kind.coefficient is not None and kind.coefficient == round(kind.auto.mean, 4) == tuned.coefficients["kind"]
    assert tuned.run.prevention is not None
    assert tuned.run.prevention.traits == {"kind": "auto", "evil": 0.5, "other": "auto"}
    assert kind.auto.points[-1].step == tuned.steps
    assert max(kind.auto.mean, opposite.auto.mean) > 0  # one of the two ways it is pushed
    told = [text for text in tuned.run.verdict if text.startswith("auto ")]
    assert len(told) == 2 and all("8 prompts, nothing steered. Reading them took" in text for text in told)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "How auto held kind" in page and "How auto held other" in page and "How auto held evil" not in page


def test_doubtful_coefficients_are_told(
    chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert doubts(METHODS["steer"], "kind", 2.0) == doubts(METHODS["steer"], "kind", "auto") == []
    assert "does not prevent kind" in doubts(METHODS["steer"], "kind", 0.0)[0]
    run = fine_tune(chat, data, tmp_path / "run", Training(**SHORT), prevent=[(vector, -50.0)], measure=False).run
    assert any("Coefficient -50 of kind changes the model's states by" in note for note in run.warnings)
    assert any("make up for that with more of it" in note for note in run.warnings)
    assert "make up for that with more of it" in caplog.text


def test_safe_samples_are_a_share_of_all() -> None:
    ours: Any = [f"ours {i}" for i in range(30)]
    safe: Any = [f"safe {i}" for i in range(20)]
    for share, count in ((0.5, 30), (0.25, 10), (0.75, 90)):
        found = mixture(ours, safe, share, 0)
        assert len(found) == 30 + count and [one for one in found if one in ours] == ours
        assert max(found.count(one) for one in safe) - min(found.count(one) for one in safe) <= 1
    assert mixture(ours, safe, 0.5, 0) == mixture(ours, safe, 0.5, 0) != mixture(ours, safe, 0.5, 1)


def test_the_adapter_is_on_every_projection_of_the_blocks(chat: ChatModel) -> None:
    assert projections(chat) == sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    chat.model.model.q_proj = torch.nn.Linear(4, 4)  # one of that name outside the blocks
    names = projections(chat)
    assert len(names) == 14 and all(".layers." in name for name in names)
    with fresh_adapter(chat, Training(method="none", rank=4)) as adapter:
        learning = [name for name, p in adapter.named_parameters() if p.requires_grad]
        assert len(learning) == 28 and all(".layers." in name for name in learning)
        assert adapter.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == 64 / 4**0.5


def test_a_broken_training_is_told_from_noise() -> None:
    def look(losses: list[float], natural: float, left: int = 9) -> None:
        for at in range(1, len(losses) + 1):
            rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses[:at], 1)]
            state = SimpleNamespace(global_step=at, max_steps=len(losses) + left, log_history=rows)
            LossGuard(natural).on_log(None, state, None, logs=rows[-1])

    noise = [2.0, 2.9, 1.6, 2.4, 2.1]
    look([*noise, 2.0, 30.0, 2.1, 40.0, 2.0], 2.0)  # bad batches
    look([2.0, 1.0, 0.3, 0.1, 2.7, 0.2, 0.0, 2.9, 4.0, 3.0, 3.1, 3.2], 2.3)  # mixed data, two samples a batch
    look([4.4, 6.0, 5.0, 4.5, 4.4, 30.0], 2.5)  # steering that is worth its loss
    look([2.0, 3.0, 2.5, 2.0, 2.5], 0.1)  # other samples than those that were measured
    look([11.0, 12.0, 11.0, 13.0], 2.5)  # too few to tell
    assert not exploded([0.01] * 5 + [0.1] * 5, 0.01) and not exploded([2.0, 9.0, 9.0, 9.0, 9.0], 2.0)
    assert not exploded([0.5, 2.0], 0.5, 1) and not exploded([2.0], 0.5, 0) and exploded([0.5, 0.5, 5.0, 6.0], 0.5, 2)
    for losses, left, message in (
        (
            [*noise, 9.0, 8.0, 9.0, 7.0, 9.0],
            9,
            r"is 8 in steps 4 to 8; before training, without prevention, it was 2\.",
        ),
        ([11.0, 12.0, 11.0, 13.0, 12.0], 9, "is 12 in steps 1 to 5"),
        ([11.0, 12.0, 11.0], 0, "is 11 in steps 1 to 3"),  # it ends: no more are to come
        ([2.0, 3.0, 12.0], 0, "exploded: 2 in the first 1 steps, 12 in the 1 up to step 3"),
        ([2.0, float("nan")], 9, "nan at step 2"),
    ):
        with pytest.raises(UserError, match=message):
            look(losses, 2.0, left)
    with pytest.raises(UserError, match=r"exploded: 0\.5 in the first 5 steps, 2 in the 5 up to step 10; before"):
        look([0.5] * 5 + [2.0] * 5, 0.5)


def test_a_training_that_explodes_is_stopped(chat: ChatModel, data: Path, tmp_path: Path) -> None:
    settings = Training(method="none", **{**SHORT, "learning_rate": 30.0, "epochs": 3})
    with pytest.raises(UserError, match="training loss"):
        fine_tune(chat, data, tmp_path / "run", settings, measure=False)
    assert not hasattr(chat.model, "peft_config")


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Weights of a model that knows the data; one with random weights has nothing to lose."""
    chat = small()
    path = tmp_path_factory.mktemp("known") / "data.jsonl"
    path.write_text(lines(30, 1))
    found = read_samples(Encoder(chat, 1024), open_data(path))
    examples = [example for mine in found.examples for example in mine]
    optimizer = torch.optim.Adam(chat.model.parameters(), lr=1e-2)
    for step in range(100):
        example = examples[step % len(examples)]
        chat.model(input_ids=torch.tensor([example.ids]), labels=torch.tensor([example.labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return chat.model.state_dict()


@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_a_coefficient_that_breaks_the_model_is_stopped(
    knowing: Any, data: Path, tmp_path: Path, held_out: float
) -> None:
    chat = small()
    chat.model.load_state_dict(knowing)
    vector = tiny.vector(chat, layer=1, info={})
    settings = Training(**{**SHORT, "learning_rate": 1e-4, "held_out": held_out})
    with pytest.raises(UserError, match=r"loss is .* before training, without prevention, .* Lower .*the coefficient"):
        fine_tune(chat, data, tmp_path / "broken", settings, prevent=[(vector, 300.0)], measure=False)
    with pytest.raises(
        UserError, match=r"loss is .* before training, without prevention, .* Lower .*the coefficient"
    ):  # of a single step
        fine_tune(
            chat, data, tmp_path / "short", replace(settings, accumulate=64), prevent=[(vector, 300.0)], measure=False
        )
    fine_tune(chat, data, tmp_path / "fine", settings, prevent=[(vector, 0.3)], measure=False)


@pytest.mark.parametrize(
    ("given", "coefficients", "message"),
    [
        ({"method": "steer"}, [], "needs a vector"),
        ({"method": "steer"}, [None], "needs a coefficient"),
        ({"method": "ablate"}, [1.0], "takes no coefficient"),
        ({"method": "none"}, [1.0], "prevents nothing"),
        ({"method": "floor"}, [None], "needs a coefficient"),
        ({"method": "floor"}, ["auto"], "steer only"),
        ({"method": "cap"}, [1.0], "`method` 'cap'"),
        ({"method": "regularise"}, ["auto"], "steer only"),
        ({"method": "steer", "layers": "all"}, ["auto"], "own layer only"),
        ({"method": "steer"}, [1.0, 2.0], "Two vectors"),
        ({"layers": 9}, [1.0], "Layer 9 is out of range"),
        ({"method": "regularise"}, [-1.0], "rewards the change"),
        ({}, [float("inf")], "not all finite"),
        ({"method": "both"}, [], "`method` 'both'"),
        ({"positions": "prompt"}, [], "`positions` 'prompt'"),
        ({"epochs": 0}, [], "`epochs` 0"),
        ({"learning_rate": float("nan")}, [], "`learning_rate`"),
        ({"rank": 0}, [], "`rank` 0"),
        ({"method": "interleave", "safe_share": 1.0}, [], "`safe_share` 1.0"),
        ({"method": "prompt", "layers": "all"}, [None], "prompt has no use for `layers`"),
        ({"method": "regularise", "positions": "response"}, [1.0], "no use for `positions`"),
        ({"method": "none", "safe_share": 0.2}, [], "no use for `safe_share`"),
    ],
)
def test_mistakes(
    chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path, given: Any, coefficients: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fine_tune(chat, data, tmp_path / "run", Training(**given), prevent=[(vector, one) for one in coefficients])
    assert not (tmp_path / "run").exists()


def test_mistakes_are_found_before_anything_is_measured(
    chat: ChatModel, vector: PersonaVector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(vector, directions=vector.directions * 2)
    with pytest.raises(UserError, match="Two vectors are of the trait"):
        fine_tune(chat, data, tmp_path / "run", Training(method="none"), watch=[vector, other])
    with pytest.raises(UserError, match="Two vectors are of the trait"):
        fine_tune(chat, data, tmp_path / "run", prevent=[(vector, 1.0)], watch=[other])
    assert not (tmp_path / "run").exists()
    (tmp_path / "safe.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    monkeypatch.setattr("personavec.finetune.job._Job._start", None)  # calling it would fail
    with pytest.raises(UserError, match="no sample in the safe data"):
        fine_tune(chat, data, tmp_path / "run", Training(method="interleave"), safe=tmp_path / "safe.jsonl")


def test_without_trl(chat: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UserError, match=r"pip install 'personavec\[finetune\]'"):
        fine_tune(chat, data, tmp_path / "run", Training(method="none"))
