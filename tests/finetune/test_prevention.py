# mypy: disable-error-code="attr-defined, func-returns-value, no-any-return, no-untyped-call, union-attr, unreachable"
"""Every method against its formula by hand: the same loss and the same gradients, in whatever the model is wrapped."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import by_hand
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

import tiny
from personavec.errors import UserError
from personavec.finetune import Prevention, preventing


def lora(model: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True, **options}
    made = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return made.train()


def by_formula(model: Any, batch: Any, edits: dict[int, Any]) -> Any:
    blocks = model.get_base_model().model.layers if hasattr(model, "peft_config") else model.model.layers
    with ExitStack() as stack:
        for layer, edit in edits.items():
            stack.enter_context(by_hand.replaced(blocks[layer - 1], edit))
        return by_hand.loss_and_gradients(model, batch)


def test_steering_adds_the_vector() -> None:
    model, vector, batch = by_hand.model(), by_hand.vector(), by_hand.batch()
    wanted = by_formula(model, batch, {2: lambda h: h + 3 * vector.directions[2]})
    with preventing(model, vector, 3):
        found = by_hand.loss_and_gradients(model, batch)
    by_hand.same(found, wanted)
    by_hand.different(found, by_hand.loss_and_gradients(model, batch))


def test_a_coefficient_of_zero_changes_nothing() -> None:
    model, batch = by_hand.model(), by_hand.batch()
    plain = by_hand.loss_and_gradients(model, batch)
    with preventing(model, by_hand.vector(), 0):
        by_hand.same(by_hand.loss_and_gradients(model, batch), plain, 0)


def test_all_layers_add_increments_of_several_vectors() -> None:
    model, batch = by_hand.model(), by_hand.batch()
    one, other = by_hand.vector(0), by_hand.vector(1)
    total = 0.5 * one.directions - 0.25 * other.directions
    steps = [None, total[1], total[2] - total[1], total[3] - total[2]]
    wanted = by_formula(model, batch, {i: lambda h, i=i: h + steps[i] for i in (1, 2, 3)})
    with preventing(model, [one, other], [0.5, -0.25], layers="all"):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted)


def test_response_is_the_tokens_with_loss_and_the_one_before() -> None:
    model, vector, batch = by_hand.model(), by_hand.vector(), by_hand.batch(tokens=8, prompt=3)
    batch["labels"][0, 5] = -100  # a hole, as between two answers
    where = torch.zeros(2, 8, 1)
    where[0, [2, 3, 4, 5, 6, 7]] = 1
    where[1, [2, 3, 4, 5]] = 1
    wanted = by_formula(model, batch, {2: lambda h: h + where * 3 * vector.directions[2]})
    with preventing(model, vector, 3, positions="response"):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted)
    batch["labels"][0, 4] = -100
    where[0, 4] = 0
    where[0, 3] = 1
    wanted = by_formula(model, batch, {2: lambda h: h + where * 3 * vector.directions[2]})
    with preventing(model, vector, 3, positions="response"):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted)


def test_response_needs_labels() -> None:
    model, batch = by_hand.model(), by_hand.batch()
    labels = batch.pop("labels")
    with preventing(model, by_hand.vector(), 3, positions="response"):
        with pytest.raises(UserError, match="Pass labels"):
            model(**batch)
        model(**batch, labels=labels)
        with pytest.raises(UserError, match="Pass labels"):
            model(**batch)  # the labels of another forward do not count
    model(**batch)


@pytest.mark.parametrize("layers", ["best", "all"])
def test_ablation_projects_out_the_span(layers: Any) -> None:
    model, batch = by_hand.model(), by_hand.batch()
    one, other = by_hand.vector(0), by_hand.vector(1)

    def without(h: torch.Tensor, layer: int) -> torch.Tensor:
        rows = torch.stack([one.directions[layer], other.directions[layer]])
        return h - h @ torch.linalg.pinv(rows) @ rows

    acting = [2] if layers == "best" else [1, 2, 3]
    wanted = by_formula(model, batch, {i: partial(without, layer=i) for i in acting})
    with preventing(model, [one, other], method="ablate", layers=layers):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted, 1e-4)


def test_a_floor_holds_the_projection_up() -> None:
    model, batch, stats = by_hand.model(), by_hand.batch(), torch.ones(4)
    vector = replace(by_hand.vector(), neutral_token_mean=0.5 * stats, neutral_token_deviation=2 * stats)
    unit, least = vector.unit(2), 0.5 + 0.25 * 2
    wanted = by_formula(model, batch, {2: lambda h: h + (least - h @ unit).clamp_min(0)[..., None] * unit})
    with preventing(model, vector, 0.25, method="floor"):
        found = by_hand.loss_and_gradients(model, batch)
    by_hand.same(found, wanted)
    by_hand.different(found, by_hand.loss_and_gradients(model, batch))


@pytest.mark.parametrize("layers", ["best", "all"])
def test_the_penalty_is_the_squared_change_of_the_projection(layers: Any) -> None:
    batch = by_hand.batch()
    model = lora(by_hand.model())
    one, other = by_hand.vector(0), by_hand.vector(1)
    acting = [2] if layers == "best" else [1, 2, 3]

    def states() -> Any:
        out = model(**batch, output_hidden_states=True)
        rows = [out.hidden_states[i] for i in acting]
        if 3 in acting:  # transformers takes its last row after the final norm
            rows[-1] = last[0]
        return out.loss, rows

    last: list[Any] = []
    handle = tiny.editing(model.get_base_model().model.layers[2], lambda h: (last.clear(), last.append(h), h)[2])
    with torch.no_grad(), model.disable_adapter():
        _, base = states()
    model.zero_grad()
    loss, tuned = states()
    bears = batch["labels"] != -100
    penalty = 0
    for vector, weight in ((one, 2.0), (other, 0.5)):
        for layer, before, after in zip(acting, base, tuned, strict=True):
            v = vector.directions[layer]
            change = ((after - before) @ (v / v.norm()) / v.norm())[bears]
            penalty = penalty + weight * change.square().mean() / len(acting)
    (loss + penalty).backward()
    wanted = (loss + penalty).detach(), by_hand.gradients(model)
    handle.remove()

    model.zero_grad()
    with preventing(model, [one, other], [2.0, 0.5], method="regularise", layers=layers) as prevention:
        mine: torch.Tensor = model(**batch).loss
        torch.testing.assert_close(mine, loss)
        mine = mine + prevention.penalty()
        mine.backward()
        assert prevention.penalty() == 0.0
    by_hand.same((mine.detach(), by_hand.gradients(model)), wanted)
    assert float(penalty.detach()) > 1e-3
    assert all(module.training for module in model.modules())


def test_the_penalty_starts_at_zero_with_a_new_adapter() -> None:
    model = get_peft_model(by_hand.model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    with preventing(model, by_hand.vector(), 1, method="regularise") as prevention:
        model(**by_hand.batch())
        assert float(prevention.penalty().detach()) == 0


def test_the_penalty_needs_an_adapter() -> None:
    with (
        pytest.raises(UserError, match="no PEFT adapter"),
        preventing(by_hand.model(), by_hand.vector(), 1, method="regularise"),
    ):
        pass


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_evaluation_and_generation_are_plain(checkpointing: Any) -> None:
    model, vector, batch = by_hand.model(), by_hand.vector(), by_hand.batch()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
        model.enable_input_require_grads()  # from then on the first block's input wants gradients in every forward
    plain = model(**batch).logits.detach()
    tokens = model.generate(batch["input_ids"], max_new_tokens=4, do_sample=False)
    with preventing(model, vector, 50, layers="all") as prevention:
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, plain)  # a reference pass, in training mode
        assert torch.equal(model.generate(batch["input_ids"], max_new_tokens=4, do_sample=False), tokens)
        model.eval()
        torch.testing.assert_close(model(**batch).logits, plain)
        assert not prevention.fired
        model.train()
        assert not torch.allclose(model(**batch).logits, plain, atol=0.1)
        assert prevention.fired
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, plain)  # also after a forward that learns


def test_it_comes_off_also_after_an_error() -> None:
    model, batch = by_hand.model(), by_hand.batch()
    plain = by_hand.loss_and_gradients(model, batch)
    before = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    keys = set(model.state_dict())
    with pytest.raises(RuntimeError, match="mine"), preventing(model, by_hand.vector(), 3):
        model(**batch)
        assert set(model.state_dict()) == keys
        raise RuntimeError("mine")
    assert {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()} == before
    by_hand.same(by_hand.loss_and_gradients(model, batch), plain, 0)


def test_nothing_learned_is_said() -> None:
    model = by_hand.model().eval()
    with pytest.warns(UserWarning, match="training mode"), preventing(model, by_hand.vector(), 3):
        model(**by_hand.batch())


def test_the_vector_gets_no_gradient() -> None:
    vector = by_hand.vector()
    vector.directions.requires_grad_()
    model = by_hand.model()
    with preventing(model, vector, 3):
        by_hand.loss_and_gradients(model, by_hand.batch())
    assert vector.directions.grad is None


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["steer", "ablate", "regularise"])
def test_checkpointing(method: Any, reentrant: bool) -> None:
    batch, options = by_hand.batch(), {"method": method, "positions": "response", "layers": "all"}
    coefficient = None if method == "ablate" else 1.0
    found = []
    for on in (False, True):
        model = lora(by_hand.model())
        if on:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with preventing(model, by_hand.vector(), coefficient, **options) as prevention:
            loss = model(**batch).loss + prevention.penalty()
            loss.backward()
        found.append((loss.detach(), by_hand.gradients(model)))
    by_hand.same(found[0], found[1])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_around_the_hooks(reentrant: bool) -> None:
    """As FSDP's wrappers do: the block with its hooks runs again in the backward."""
    vector, batch = by_hand.vector(), by_hand.batch()
    model = by_hand.model()
    with preventing(model, vector, 3, positions="response"):
        wanted = by_hand.loss_and_gradients(model, batch)

    class Checkpointed(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block

        def forward(self, hidden: Any, **kwargs: Any) -> Any:
            return checkpoint(partial(self.block, **kwargs), hidden, use_reentrant=reentrant)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.block, name)

    with preventing(model, vector, 3, positions="response"):
        for i, block in enumerate(model.model.layers):
            model.model.layers[i] = Checkpointed(block).train()
        loss = model(**batch, use_cache=False).loss
        model.zero_grad()
        loss.backward()
        found = loss.detach(), {name.replace(".block", ""): g for name, g in by_hand.gradients(model).items()}
    by_hand.same(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_formula(dtype: torch.dtype) -> None:
    model, vector, batch = by_hand.model(), by_hand.vector(), by_hand.batch()
    with torch.autocast("cpu", dtype):
        wanted = by_formula(model, batch, {2: lambda h: h + (3 * vector.directions[2]).to(h.dtype)})
        with preventing(model, vector, 3):
            by_hand.same(by_hand.loss_and_gradients(model, batch), wanted, 1e-6)
        with preventing(model, vector, method="ablate"):
            seen = []
            handle = tiny.editing(model.model.layers[1], lambda h: (seen.append(h.detach()), h)[1])
            model(**batch)
            handle.remove()
    assert (seen[0].float() @ vector.unit(2)).abs().max() < 1e-3 * seen[0].norm(dim=-1).mean()


def test_bfloat16_weights() -> None:
    model, vector, batch = by_hand.model().bfloat16(), by_hand.vector(), by_hand.batch()
    wanted = by_formula(model, batch, {2: lambda h: h + (3 * vector.directions[2]).bfloat16()})
    with preventing(model, vector, 3):
        by_hand.same(by_hand.loss_and_gradients(model, batch), wanted, 1e-6)


@pytest.mark.parametrize("method", ["steer", "regularise"])
def test_compiled(method: Any) -> None:
    """Put on before the first trace, taken off, and put on after it. A Qwen2 is compiled in test_callback.py."""
    coefficient = {"steer": 2, "regularise": 100}[method]
    batch, vector, model = by_hand.batch(), by_hand.vector(num_hidden_layers=1), by_hand.Least().train()
    model = lora(model, target_modules=["down_proj"]) if method == "regularise" else model
    compiled: Any = torch.compile(model, backend="eager")

    @contextmanager
    def prevented(run: Any) -> Iterator[Any]:
        """What is learned; the model inside is still prevented."""
        with preventing(
            run, vector, coefficient, method=method, positions="response", other_weights=True
        ) as prevention:
            model.zero_grad()
            loss = run(**batch).loss + prevention.penalty()
            loss.backward()
            yield loss.detach(), by_hand.gradients(model)

    plain = by_hand.loss_and_gradients(model, batch)
    with prevented(model) as wanted:
        by_hand.different(wanted, plain)
    with prevented(compiled) as learned:
        by_hand.same(learned, wanted)
        with torch.no_grad():
            torch.testing.assert_close(compiled(**batch).loss, plain[0])
    model.zero_grad()
    loss = compiled(**batch).loss
    loss.backward()
    by_hand.same((loss.detach(), by_hand.gradients(model)), plain)
    with prevented(compiled) as learned:
        by_hand.same(learned, wanted)


def test_padding_free_rows_do_not_see_each_other() -> None:
    """Two samples in one row, told apart by their positions, learn as in two rows."""
    model, vector = by_hand.model(), by_hand.vector()
    ids = [torch.tensor([tiny.random_ids(n, n)]) for n in (5, 7)]
    labels = [one.clone() for one in ids]
    for one in labels:
        one[:, :2] = -100
    packed: dict[str, Any] = {
        "input_ids": torch.cat(ids, 1),
        "labels": torch.cat(labels, 1),
        "position_ids": torch.cat([torch.arange(5), torch.arange(7)])[None],
        "use_cache": False,
    }
    pad = torch.nn.functional.pad
    rows: dict[str, Any] = {
        "input_ids": torch.cat([pad(ids[0], (0, 2)), ids[1]]),
        "labels": torch.cat([pad(labels[0], (0, 2), value=-100), labels[1]]),
        "attention_mask": torch.tensor([[1] * 5 + [0] * 2, [1] * 7]),
    }
    for positions in ("all", "response"):
        with preventing(model, vector, 3, positions=positions):
            by_hand.same(
                by_hand.loss_and_gradients(model, packed), by_hand.loss_and_gradients(model, rows), tolerance=1e-4
            )


def test_device_map() -> None:
    """Weights that accelerate fetches for each block, which are on no device in between."""
    from accelerate import cpu_offload

    vector, batch = by_hand.vector(), by_hand.batch()
    model = lora(by_hand.model())
    with preventing(model, vector, 3):
        wanted = model(**batch).loss.detach()
    cpu_offload(model, execution_device="cpu")
    with preventing(model, vector, 3):
        found = model(**batch).loss.detach()
    torch.testing.assert_close(found, wanted)


def test_what_cannot_be_done_is_refused() -> None:
    vector = by_hand.vector()
    for wrong, words in [
        (lambda: Prevention(vector), "needs a coefficient"),
        (lambda: Prevention([], 1), "no vector"),
        (lambda: Prevention([vector, vector], 1), "2 vectors and 1"),
        (lambda: Prevention(vector, float("nan")), "finite"),
        (lambda: Prevention(vector, 1, method="ablate"), "no coefficient"),
        (lambda: Prevention(vector, -1, method="regularise"), "rewards"),
        (lambda: Prevention(vector, 1, positions="prompt"), "positions"),  # type: ignore[arg-type]
        (lambda: Prevention(vector, 1, method="prompt"), "method"),
        (lambda: Prevention(vector, 1, layers=4), "out of range"),
    ]:
        with pytest.raises(UserError, match=words):
            wrong()
    with pytest.raises(UserError, match="width"), preventing(by_hand.model(hidden_size=64), vector, 1):
        pass
    other = tiny.causal_model(tiny.qwen2(), seed=5).train()
    with pytest.raises(UserError, match="other weights"), preventing(other, vector, 1):
        pass
    with preventing(other, vector, 1, other_weights=True):
        other(**by_hand.batch())
