"""The callback in TRL's trainers."""

from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

import tiny
from personavec.finetune import PreventativeSteering, ShiftMonitor

trl = pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALKS = [
    ("hello", "hello there, the model"),
    ("how are you", "I am well"),
    ("why", "the question answers"),
    ("who", "u"),
]
COMMON: dict[str, Any] = {
    "learning_rate": 1e-2,
    "optim": "sgd",
    "max_grad_norm": 1e9,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def adapter() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=True)


def logged(trainer: Any, *keys: str) -> list[float]:
    torch.manual_seed(0)
    trainer.train()
    return [entry[key] for entry in trainer.state.log_history for key in keys if key in entry]


def edited_where_it_learns(model: Any, edit: Any) -> Any:
    block = model.model.layers[1]
    return by_hand.replaced(block, lambda h: edit(h) if block.training and torch.is_grad_enabled() else h)


def sft(folder: Path, callbacks: Any, model: Any = None, **options: Any) -> Any:
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in TALKS]
    return trl.SFTTrainer(
        model or by_hand.model(),
        trl.SFTConfig(str(folder), **{**COMMON, "assistant_only_loss": True, "max_length": 512, **options}),
        train_dataset=Dataset.from_dict({"messages": talks}),
        eval_dataset=Dataset.from_dict({"messages": talks[:2]}),
        processing_class=tiny.tokenizer(MARKED),
        peft_config=adapter(),
        callbacks=callbacks,
    )


def test_sft(tmp_path: Path) -> None:
    vector, keys = by_hand.vector(), ("loss", "grad_norm", "eval_loss")
    options = {"eval_strategy": "steps", "eval_steps": 1}
    model = by_hand.model()
    with edited_where_it_learns(model, lambda h: h + 3 * vector.directions[2]):
        wanted = logged(sft(tmp_path, [], model, **options), *keys)
    assert logged(sft(tmp_path, [PreventativeSteering(vector, 3)], **options), *keys) == pytest.approx(wanted, rel=1e-4)
    plain = logged(sft(tmp_path, [], **options), *keys)
    assert plain[0] != pytest.approx(wanted[0], rel=1e-3)


@pytest.mark.parametrize("method", ["steer", "regularise"])
@pytest.mark.parametrize("packing", [{"packing": True}, {"padding_free": True, "max_length": None}])
def test_packed_samples_learn_as_separate_ones(tmp_path: Path, packing: Any, method: Any) -> None:
    found = []
    options: dict[str, Any]
    for options in ({}, packing):
        callback = PreventativeSteering(by_hand.vector(), 1, method=method, positions="response")
        found.append(logged(sft(tmp_path, [callback], **options), "loss", "grad_norm"))
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_the_monitor_takes_nothing_from_the_trainers_metrics(tmp_path: Path) -> None:
    found = []
    for monitors in ([], [ShiftMonitor(by_hand.vector(), ["hello", "how are you"], every=1)]):
        found.append(logged(sft(tmp_path, monitors), "loss", "mean_token_accuracy", "entropy"))
    assert found[0] == found[1]
    assert len(monitors[0].history) == 2


# TRL's default, under which the first block's input wants gradients in every forward.
CHECKPOINTING = {"gradient_checkpointing": True}


def test_dpo_leaves_the_reference_alone(tmp_path: Path) -> None:
    rows = {
        "prompt": [[{"role": "user", "content": q}] for q, _ in TALKS],
        "chosen": [[{"role": "assistant", "content": a}] for _, a in TALKS],
        "rejected": [[{"role": "assistant", "content": a[::-1]}] for _, a in TALKS],
    }

    def run(callbacks: Any, model: Any = None, **options: Any) -> list[float]:
        trainer = trl.DPOTrainer(
            model or by_hand.model(),
            args=trl.DPOConfig(str(tmp_path), **{**COMMON, **options}),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tiny.tokenizer(),
            peft_config=adapter(),
            callbacks=callbacks,
        )
        return logged(trainer, "loss", "grad_norm")

    vector = by_hand.vector()
    model = by_hand.model()
    with edited_where_it_learns(model, lambda h: h + 3 * vector.directions[2]):
        wanted = run([], model)
    assert run([PreventativeSteering(vector, 3)]) == pytest.approx(wanted, rel=1e-3)
    ahead = run([PreventativeSteering(vector, 3)], precompute_ref_log_probs=True)
    assert ahead == pytest.approx(wanted, rel=1e-3)
    everywhere = [
        run([PreventativeSteering(vector, 3, layers="all")], **options)
        for options in ({}, CHECKPOINTING, {**CHECKPOINTING, "precompute_ref_log_probs": True})
    ]
    for one in everywhere[1:]:
        assert one == pytest.approx(everywhere[0], rel=1e-3)
    assert run([]) != pytest.approx(wanted, rel=1e-2)


def test_grpo_generates_without_and_learns_with_it(tmp_path: Path) -> None:
    def run(callbacks: Any, **options: Any) -> tuple[list[str], list[float]]:
        texts: list[str] = []

        def reward(completions: Any, **kwargs: Any) -> list[float]:
            said = [one[0]["content"] for one in completions]
            texts.extend(said)
            return [float(len(set(text))) for text in said]

        trainer = trl.GRPOTrainer(
            by_hand.model(),
            reward_funcs=reward,
            args=trl.GRPOConfig(
                str(tmp_path),
                **{**COMMON, "max_steps": 1, "num_generations": 4, "max_completion_length": 8, "beta": 0.1, **options},
            ),
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": q}] for q, _ in TALKS]}),
            processing_class=tiny.tokenizer(padding_side="left"),
            peft_config=adapter(),
            callbacks=callbacks,
        )
        return texts, logged(trainer, "grad_norm")

    steered, plain = run([PreventativeSteering(by_hand.vector(), 30)]), run([])
    assert steered[0] == plain[0] and len(set(plain[0])) > 1
    assert steered[1] != pytest.approx(plain[1], rel=1e-2)
    everywhere = PreventativeSteering(by_hand.vector(), 30, layers="all", positions="response")
    assert run([everywhere], **CHECKPOINTING)[0] == plain[0]
