# mypy: disable-error-code="no-untyped-call"
"""The shift that is logged is the shift of the two models; watching changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from test_callback import lora, samples
from transformers import Trainer, TrainerCallback, TrainingArguments

import tiny
from personavec.errors import UserError
from personavec.finetune import PreventativeSteering, ShiftMonitor, shift_limits
from personavec.model import ChatModel, Conversation
from personavec.readout import read

PROMPTS = ["hello there", "how are you today? I am well", "the question", "what"]


class Reported(TrainerCallback):
    """What a tracker would be told."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))


def trainer(model: Any, folder: Path, callbacks: Any, **options: Any) -> Trainer:
    settings = {
        "learning_rate": 0.02,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return Trainer(
        model,
        TrainingArguments(str(folder), **settings),
        train_dataset=samples(),
        eval_dataset=samples(2),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
    )


def projection(model: Any, vector: Any) -> float:
    """Mean projection of the last prompt tokens, read the way every other part of the project does."""
    chat = ChatModel(model, tiny.tokenizer(), "tiny")
    prompts = [chat.prompt_ids([{"role": "user", "content": text}]) for text in PROMPTS]
    means = read(chat, [Conversation(ids, [(len(ids) - 1, len(ids))]) for ids in prompts], layers=[vector.layer]).means
    return float((means[:, 0] @ vector.unit(vector.layer)).mean())


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("prevented", [False, True])
def test_the_shift_is_that_of_the_two_models(tmp_path: Path, adapter: bool, prevented: bool) -> None:
    vector, model = by_hand.vector(), lora() if adapter else by_hand.model()
    before = projection(model, vector)
    model.train()
    monitor, reported = ShiftMonitor(vector, PROMPTS, every=2), Reported()
    extra = [PreventativeSteering(vector, 3)] if prevented else []
    trainer(model, tmp_path, [*extra, reported, monitor]).train()
    after = projection(model, vector)
    shifts = [(step, logs["persona/kind_shift"]) for step, logs in reported.logs if "persona/kind_shift" in logs]
    assert [step for step, _ in shifts] == [2, 4]
    assert shifts[-1][1] == pytest.approx(after - before, abs=1e-4)
    assert abs(after - before) > 1e-3
    assert monitor.history == [{"step": step, "kind": value} for step, value in shifts]
    assert [step for step, logs in reported.logs if "loss" in logs] == [1, 2, 3, 4]


def test_watching_changes_nothing(tmp_path: Path) -> None:
    found = []
    for monitors in ([], [ShiftMonitor(by_hand.vector(), PROMPTS, every=1)]):
        torch.manual_seed(0)
        run = trainer(lora(), tmp_path, monitors, eval_strategy="steps", eval_steps=2)
        run.train()
        found.append([entry for entry in run.state.log_history if "persona/kind_shift" not in entry][:-1])
    keep = ("loss", "grad_norm", "eval_loss", "step")
    assert [[entry.get(key) for key in keep] for entry in found[0]] == [
        [entry.get(key) for key in keep] for entry in found[1]
    ]


def test_evaluations_are_measured_once(tmp_path: Path) -> None:
    monitor = ShiftMonitor([by_hand.vector()], PROMPTS)
    run = trainer(by_hand.model(), tmp_path, [monitor], eval_strategy="steps", eval_steps=2, eval_on_start=True)
    run.train()
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4]
    assert monitor.history[0]["kind"] == pytest.approx(0, abs=1e-6)
    run.evaluate()
    assert len(monitor.history) == 3


def test_training_ends_above_the_limit(tmp_path: Path) -> None:
    free = ShiftMonitor(by_hand.vector(), PROMPTS, every=1)
    trainer(by_hand.model(), tmp_path, [free]).train()
    values = [abs(entry["kind"]) for entry in free.history]
    vector = by_hand.vector() if free.history[1]["kind"] > 0 else by_hand.vector(scale=-1.0)
    assert values[0] < values[1]
    limit = (values[0] + values[1]) / 2
    monitor = ShiftMonitor(vector, PROMPTS, every=1, stop_above={"kind": limit})
    run = trainer(by_hand.model(), tmp_path, [monitor])
    run.train()
    assert run.state.global_step == 2
    assert monitor.stopped is not None and "kind" in monitor.stopped
    assert monitor.history[-1]["kind"] > limit


@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_run_measures_against_the_same_base(tmp_path: Path, adapter: bool) -> None:
    make = lora if adapter else by_hand.model
    options = {"save_strategy": "steps", "save_steps": 2}
    whole = ShiftMonitor(by_hand.vector(), PROMPTS, every=1)
    trainer(make(), tmp_path, [whole], **options).train()
    monitor = ShiftMonitor(by_hand.vector(), PROMPTS, every=1)
    trainer(make(), tmp_path, [monitor], **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [entry["step"] for entry in monitor.history] == [3, 4]
    assert monitor.history[-1]["kind"] == pytest.approx(whole.history[-1]["kind"], abs=1e-5)


def test_a_checkpoint_without_a_base_is_refused(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    trainer(by_hand.model(), tmp_path, [], **options).train()
    run = trainer(by_hand.model(), tmp_path, [ShiftMonitor(by_hand.vector(), PROMPTS)], **options)
    with pytest.raises(UserError, match="holds no projections"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_base_along_other_vectors_or_prompts_is_not_taken_over(tmp_path: Path) -> None:
    first, second = by_hand.vector(), replace(by_hand.vector(1), trait="other")
    options = {"save_strategy": "steps", "save_steps": 2}

    def monitors() -> list[ShiftMonitor]:
        return [ShiftMonitor([first, second], PROMPTS, every=1), ShiftMonitor(second, PROMPTS[:2], every=1)]

    whole, again = monitors(), monitors()
    trainer(by_hand.model(), tmp_path, whole, **options).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    trainer(by_hand.model(), tmp_path, again, **options).train(resume_from_checkpoint=checkpoint)
    for a, b in zip(whole, again, strict=True):
        assert b.history[-1] == pytest.approx(a.history[-1], abs=1e-5)
    for other in (ShiftMonitor([second, first], PROMPTS), ShiftMonitor([first, second], PROMPTS[1:])):
        run = trainer(by_hand.model(), tmp_path, [other], **options)
        with pytest.raises(UserError, match="holds no projections"):
            run.train(resume_from_checkpoint=checkpoint)


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    vector = by_hand.vector()
    for wrong, words in [
        (lambda: ShiftMonitor([]), "one vector"),
        (lambda: ShiftMonitor([vector, vector], PROMPTS), "Two vectors are of the trait"),
        (lambda: ShiftMonitor(vector), "not in the library"),
        (lambda: ShiftMonitor(vector, []), "no prompts"),
        (lambda: ShiftMonitor(vector, PROMPTS, every=0), "every=0"),
        (lambda: ShiftMonitor(vector, PROMPTS, stop_above={"evil": 1.0}), "evil"),
    ]:
        with pytest.raises(UserError, match=words):
            wrong()
    run = trainer(by_hand.model(), tmp_path, [ShiftMonitor(vector, PROMPTS)])
    run.callback_handler.processing_class = None
    with pytest.raises(UserError, match="tokenizer"):
        run.train()
    with pytest.raises(UserError, match="other weights"):
        trainer(tiny.causal_model(tiny.qwen2(), seed=7), tmp_path, [ShiftMonitor(vector, PROMPTS)])


def test_the_librarys_questions_are_the_default() -> None:
    monitor = ShiftMonitor(tiny.vector(tiny.chat_model()).__class__("evil", by_hand.vector().directions, 2, {}))
    assert len(monitor.prompts[0]) == 20


def histories(rng: np.random.Generator, count: int) -> list[list[dict[str, float]]]:
    """Of trainings that were measured six times, along traits that go up together, in units of their own."""
    steps = rng.standard_normal((count, 6, 2)) + rng.standard_normal((count, 1, 1))
    walks = steps.cumsum(1) * [1, 50] + [3, -20]
    return [[{"step": n, "evil": float(a), "kind": float(b)} for n, (a, b) in enumerate(walk)] for walk in walks]


def test_limits_of_benign_trainings_keep_their_rate_over_all_traits_and_steps() -> None:
    rng, rate, passed = np.random.default_rng(0), 0.2, []
    for _ in range(400):
        limits = shift_limits(histories(rng, 8), rate)
        others = histories(rng, 20)
        passed.append(np.mean([any(one[n] > limits[n] for one in other for n in limits) for other in others]))
    error = np.std(passed) / len(passed) ** 0.5
    assert abs(np.mean(passed) - 1 / 7) < 3.5 * error, "of six and a new one, each is the highest as often"
    assert rate >= 1 / 7


def test_limits_of_too_few_or_other_trainings() -> None:
    known = histories(np.random.default_rng(0), 24)
    with pytest.raises(UserError, match="24 benign trainings are too few") as refused:
        shift_limits(known)
    assert "at least 25" in refused.value.advice
    with pytest.raises(UserError, match="same traits"):
        shift_limits([*known, [{"step": 1, "evil": 1.0}]])
    with pytest.raises(UserError, match="never measured"):
        shift_limits([*known, []])
    with pytest.raises(UserError, match="all alike"):
        shift_limits([known[0]] * 25)
