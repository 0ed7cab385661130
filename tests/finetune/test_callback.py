"""The callback in trainers of transformers: the losses and weights of a run whose blocks are edited by hand."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import tiny
from personavec.errors import UserError
from personavec.finetune import PreventativeSteering, ShiftMonitor, preventing


def samples(count: int = 8) -> list[dict[str, torch.Tensor]]:
    return [{key: value[0] for key, value in by_hand.batch(seed, rows=1).items()} for seed in range(count)]


def trainer(model: Any, folder: Path, callbacks: Any = (), **options: Any) -> Trainer:
    settings = {
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "max_steps": 3,
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
        eval_dataset=samples(4),
        callbacks=list(callbacks),
    )


def outcome(trained: Trainer) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train; the losses (training, then evaluation) and the trained weights."""
    trained.train()
    losses = [entry[key] for key in ("loss", "eval_loss") for entry in trained.state.log_history if key in entry]
    return losses, {name: p.detach().clone() for name, p in trained.model.named_parameters() if p.requires_grad}


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    assert a[0] == pytest.approx(b[0], rel=max(tolerance, 1e-5))
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=tolerance, atol=tolerance)


def lora() -> Any:
    torch.manual_seed(1)
    return get_peft_model(by_hand.model(), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))


def moved(model: Any) -> Any:
    """The adapter no longer changes nothing."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return model


def edited_in_training(model: Any, edit: Callable[[torch.Tensor], torch.Tensor], layer: int = 2) -> ExitStack:
    blocks = (model.get_base_model() if hasattr(model, "peft_config") else model).model.layers
    block = blocks[layer - 1]
    stack = ExitStack()
    stack.enter_context(by_hand.replaced(block, lambda h: edit(h) if block.training else h))
    return stack


@pytest.mark.parametrize("adapter", [False, True])
def test_training_is_steered_and_evaluation_is_not(tmp_path: Path, adapter: bool) -> None:
    vector, make = by_hand.vector(), lora if adapter else by_hand.model
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    model = make()
    with edited_in_training(model, lambda h: h + 3 * vector.directions[2]):
        wanted = outcome(trainer(model, tmp_path, **options))
    run = trainer(make(), tmp_path, [PreventativeSteering(vector, 3)], **options)
    same(outcome(run), wanted)
    plain = outcome(trainer(make(), tmp_path, **options))
    assert abs(plain[0][0] - wanted[0][0]) > 1e-3
    assert "training_step" not in run.__dict__
    assert not any(module._forward_hooks for module in run.model.modules())


def test_evaluation_alone_is_plain_before_training(tmp_path: Path) -> None:
    run = trainer(by_hand.model(), tmp_path, [PreventativeSteering(by_hand.vector(), 30)])
    plain = trainer(by_hand.model(), tmp_path)
    assert run.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


@pytest.mark.parametrize("method", ["steer", "ablate", "regularise"])
@pytest.mark.parametrize("positions", ["all", "response"])
def test_accumulated_batches_are_one_batch(tmp_path: Path, method: Any, positions: Any) -> None:
    found = []
    for rows, times in ((2, 1), (1, 2)):
        torch.manual_seed(0)
        callback = PreventativeSteering(
            by_hand.vector(), None if method == "ablate" else 2, method=method, positions=positions
        )
        options = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": times, "learning_rate": 1e-3}
        found.append(outcome(trainer(moved(lora()), tmp_path, [callback], **options)))
    same(found[0], found[1], tolerance=1e-4)


def test_the_penalty_is_added_to_the_loss(tmp_path: Path) -> None:
    """One step on all samples against one in a loop by hand."""
    model, batch = moved(lora()), {k: torch.stack([one[k] for one in samples()]) for k in samples(1)[0]}
    with preventing(model, by_hand.vector(), 2, method="regularise") as prevention:
        loss = model(**batch).loss + prevention.penalty()
        loss.backward()
    weights = {n: (p - 1e-3 * p.grad).detach() for n, p in model.named_parameters() if p.requires_grad}
    options = {"per_device_train_batch_size": 8, "max_steps": 1, "learning_rate": 1e-3}
    callback = PreventativeSteering(by_hand.vector(), 2, method="regularise")
    same(outcome(trainer(moved(lora()), tmp_path, [callback], **options)), ([float(loss.detach())], weights))
    plain = outcome(trainer(moved(lora()), tmp_path, **options))
    assert plain[0][0] < float(loss.detach()) - 0.01


@pytest.mark.parametrize("options", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}])
def test_autocast_and_compile(tmp_path: Path, options: Any) -> None:
    few = {"num_hidden_layers": 1}  # every trace takes seconds
    vector, model = by_hand.vector(**few), by_hand.model(**few)
    with edited_in_training(model, lambda h: h + (3 * vector.directions[1]).to(h.dtype), layer=1):
        wanted = outcome(trainer(model, tmp_path, **({} if "torch_compile" in options else options)))
    same(outcome(trainer(by_hand.model(**few), tmp_path, [PreventativeSteering(vector, 3)], **options)), wanted)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(tmp_path: Path, reentrant: bool) -> None:
    found = []
    for options in (
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}},
    ):
        callback = PreventativeSteering(by_hand.vector(), 1, layers="all", positions="response")
        found.append(outcome(trainer(lora(), tmp_path, [callback], **options)))
    same(found[0], found[1])


class Interrupt(TrainerCallback):
    """Ends the run with an error at one event after some steps."""

    def __init__(self, event: str, after: int = 1) -> None:
        def fail(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= after:
                raise RuntimeError("mine")

        setattr(self, event, fail)


@pytest.mark.parametrize("where", ["forward", "backward", "on_substep_end", "on_step_end", "on_log"])
def test_after_an_error_it_is_off(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = by_hand.model()
    wanted = by_hand.loss_and_gradients(model, by_hand.batch())[0]
    callback = PreventativeSteering(by_hand.vector(), 30)
    extra = [Interrupt(where)] if where.startswith("on_") else []
    run = trainer(model, tmp_path, [callback, *extra], learning_rate=0.0, gradient_accumulation_steps=2, max_steps=9)
    if where == "forward":
        plain = model.model.norm.forward
        monkeypatch.setattr(model.model.norm, "forward", lambda h: _fails() if model.model.training else plain(h))
    if where == "backward":
        monkeypatch.setattr(run.accelerator, "backward", _fails)
    with pytest.raises(RuntimeError, match="mine"):
        run.train()
    monkeypatch.undo()
    model.train()
    torch.testing.assert_close(by_hand.loss_and_gradients(model, by_hand.batch())[0], wanted)


def _fails(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("mine")


@pytest.mark.parametrize("adapter", [False, True])
def test_resuming_puts_it_on_again(tmp_path: Path, adapter: bool) -> None:
    vector, make = by_hand.vector(), lora if adapter else by_hand.model
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    wanted = outcome(trainer(make(), tmp_path / "whole", [PreventativeSteering(vector, 3)], **options))
    killed = [PreventativeSteering(vector, 3), Interrupt("on_step_begin", 2)]
    with pytest.raises(RuntimeError, match="mine"):
        trainer(make(), tmp_path / "run", killed, **options).train()
    resumed = trainer(make(), tmp_path / "run", [PreventativeSteering(vector, 3)], **options)
    resumed.train(resume_from_checkpoint=True)
    for name, parameter in resumed.model.named_parameters():
        if name in wanted[1]:
            torch.testing.assert_close(parameter.detach(), wanted[1][name])
    for other in (PreventativeSteering(vector, 2), PreventativeSteering(by_hand.vector(1), 3)):
        with pytest.raises(UserError, match="was trained with prevention"):
            trainer(make(), tmp_path / "run", [other], **options).train(resume_from_checkpoint=True)


def test_resuming_with_several(tmp_path: Path) -> None:
    """Of which transformers records a growing list."""

    def both() -> list[Any]:
        return [PreventativeSteering(by_hand.vector(seed), coefficient) for seed, coefficient in ((0, 3), (1, 2))]

    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    wanted = outcome(trainer(by_hand.model(), tmp_path / "whole", both(), **options))
    for stop in (1, 2):  # the second time resumed from what a resumed run saved
        killed = trainer(by_hand.model(), tmp_path / "run", [*both(), Interrupt("on_step_begin", stop)], **options)
        with pytest.raises(RuntimeError, match="mine"):
            killed.train(resume_from_checkpoint=stop > 1)
    for others in (both()[:1], [*both(), both()[0]]):
        with pytest.raises(UserError, match="was trained with prevention"):
            trainer(by_hand.model(), tmp_path / "run", others, **options).train(resume_from_checkpoint=True)
    resumed = trainer(by_hand.model(), tmp_path / "run", both(), **options)
    resumed.train(resume_from_checkpoint=True)
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[1][name])


def test_the_saved_adapter_holds_nothing_of_it(tmp_path: Path) -> None:
    run = trainer(lora(), tmp_path, [PreventativeSteering(by_hand.vector(), 3)], save_strategy="steps", save_steps=1)
    run.train()
    run.save_model(str(tmp_path / "adapter"))
    for file in (tmp_path / "adapter", tmp_path / "checkpoint-1"):
        assert all("lora_" in name for name in load_file(file / "adapter_model.safetensors"))


def test_it_may_be_added_later_and_used_twice(tmp_path: Path) -> None:
    vector = by_hand.vector()
    wanted = outcome(trainer(by_hand.model(), tmp_path, [PreventativeSteering(vector, 3)]))
    callback = PreventativeSteering(vector, 3)
    for _ in range(2):
        run = trainer(by_hand.model(), tmp_path)
        run.add_callback(callback)
        same(outcome(run), wanted)


def test_a_model_of_another_kind_is_refused_early(tmp_path: Path) -> None:
    other = tiny.causal_model(tiny.qwen2(), seed=7)
    with pytest.raises(UserError, match="other weights"):
        trainer(other, tmp_path, [PreventativeSteering(by_hand.vector(), 3)])
    run = trainer(other, tmp_path)
    run.add_callback(PreventativeSteering(by_hand.vector(), 3))
    with pytest.raises(UserError, match="other weights"):
        run.train()
    trainer(other, tmp_path, [PreventativeSteering(by_hand.vector(), 3, other_weights=True)]).train()


def test_a_loss_that_explodes_is_stopped(tmp_path: Path) -> None:
    model = by_hand.model()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e38)
    run = trainer(model, tmp_path, [PreventativeSteering(by_hand.vector(), 3, other_weights=True)])
    with pytest.raises(UserError, match=r"The loss is inf .* Lower the coefficient"):
        run.train()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("peaked", [1.0, 30.0])  # by the learning rate, and from the start
def test_a_finite_loss_that_goes_wrong_is_stopped(tmp_path: Path, peaked: float) -> None:
    model = by_hand.model()
    with torch.no_grad():
        model.lm_head.weight.mul_(peaked)
    options = {"max_steps": 20, "learning_rate": 0.0 if peaked > 1 else 1.5}
    callbacks = [PreventativeSteering(by_hand.vector(seed), 3, other_weights=True) for seed in (0, 1)]
    run = trainer(model, tmp_path, callbacks, **options)
    with pytest.raises(UserError, match=r"a guess among all tokens has 5\.77") as error:
        run.train()
    assert "Lower the coefficient" in error.value.advice
    assert not any(module._forward_hooks for module in model.modules()) and run.state.global_step < 20


def test_a_loss_of_another_kind_has_its_own_scale(tmp_path: Path) -> None:
    class Scaled(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return 25 + super().compute_loss(*args, **kwargs)

    plain = trainer(by_hand.model(), tmp_path, [PreventativeSteering(by_hand.vector(), 3)], max_steps=6)
    run = Scaled(
        plain.model, plain.args, train_dataset=samples(), callbacks=[PreventativeSteering(by_hand.vector(), 3)]
    )
    assert run.train().training_loss > 20


def test_resuming_with_the_states_of_other_callbacks(tmp_path: Path) -> None:
    """Which transformers rebuilds from what the checkpoint says of them."""

    def run() -> Trainer:
        callbacks = [
            PreventativeSteering(by_hand.vector(), 3),
            ShiftMonitor(by_hand.vector(), ["hello there"]),
            EarlyStoppingCallback(9),
        ]
        made = trainer(by_hand.model(), tmp_path, callbacks, **options)
        made.processing_class = tiny.tokenizer()
        made.callback_handler.processing_class = made.processing_class
        return made

    options = {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": True}
    options |= {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    wanted = outcome(run())
    resumed = run()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[1][name])


def test_outside_a_trainer_it_says_what_to_use() -> None:
    with pytest.raises(UserError, match="preventing"):
        PreventativeSteering(by_hand.vector(), 3).on_train_begin(None, None, None, model=by_hand.model())
