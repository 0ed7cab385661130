# mypy: disable-error-code="no-any-return"
"""Readings: equal to one plain forward per sample whatever the batch, and no more work than needed."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, Qwen2Config

from personavec.errors import UserError
from personavec.interventions import steer
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from tiny import SIZES, causal_model, chat_model, plain_states, random_ids, tokenizer, vector

WINDOWED = chat_model(MistralConfig(**SIZES, sliding_window=6))
HALF = ChatModel(causal_model(Qwen2Config(**SIZES)).bfloat16(), tokenizer(), "half")


def conversation(prompt: int, prompt_seed: int, answer: int, seed: int, spans: int = 3) -> Conversation:
    ids = random_ids(prompt, prompt_seed) + random_ids(answer, 1000 + seed)
    return Conversation(ids, [(0, prompt), (max(prompt - 1, 0), prompt), (prompt, len(ids))][-spans:])


def plain(model: ChatModel, one: Conversation) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (spans, layers, d) and log-likelihoods (spans,) from one full forward without our code."""
    states, logits = plain_states(model.model, model.blocks.layers, one.ids)
    logprobs = logits.log_softmax(-1)
    means, likelihoods = [], []
    for low, high in one.spans:
        means.append(states[:, low:high].mean(1))
        picked = [logprobs[t - 1, one.ids[t]] for t in range(max(low, 1), high)]
        likelihoods.append(torch.stack(picked).mean() if picked else torch.tensor(torch.nan))
    return torch.stack(means), torch.stack(likelihoods)


def check_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Relative 1e-4 of each reading's norm; NaN in the same places."""
    assert torch.equal(found.isnan(), expected.isnan())
    difference = (found - expected).nan_to_num().norm(dim=-1)
    assert bool((difference <= 1e-4 * expected.nan_to_num().norm(dim=-1)).all())


# Few distinct prompts, so that many conversations share one.
CONVERSATIONS = st.lists(
    st.builds(
        conversation,
        st.sampled_from([0, 1, 2, 7, 30]),
        st.integers(0, 1),
        st.integers(0, 20),
        st.integers(0, 99),
        st.integers(1, 3),
    ).filter(lambda c: bool(c.ids)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("kind", ["packed", "windowed"])
@settings(max_examples=40, deadline=None)
@given(conversations=CONVERSATIONS, budget=st.sampled_from([16, 64, 256, 1024, 4096]))
def test_a_reading_does_not_depend_on_its_batch(
    tiny: ChatModel, kind: str, conversations: list[Conversation], budget: int
) -> None:
    model = tiny if kind == "packed" else WINDOWED
    assert model.packs == (kind == "packed")
    together = read(model, conversations, batch_tokens=budget, log_likelihood=True)
    assert together.log_likelihood is not None
    expected = [plain(model, one) for one in conversations]
    check_close(together.means, torch.cat([means for means, _ in expected]))
    likelihoods = torch.cat([likelihood for _, likelihood in expected])
    torch.testing.assert_close(together.log_likelihood, likelihoods, rtol=1e-4, atol=1e-4, equal_nan=True)
    alone = read(model, conversations[:1], batch_tokens=budget)
    check_close(together.means[: len(alone.means)], alone.means)


@settings(max_examples=15, deadline=None)
@given(conversations=CONVERSATIONS, budget=st.sampled_from([16, 256, 4096]))
def test_bfloat16_readings_do_not_depend_on_their_batch(
    tiny: ChatModel, conversations: list[Conversation], budget: int
) -> None:
    together = read(HALF, conversations, batch_tokens=budget).means
    assert together.dtype == torch.float32
    row = 0
    for one in conversations:
        alone = read(HALF, [one]).means
        full = read(tiny, [one]).means
        for other in (alone, full):
            near = torch.cosine_similarity(together[row : row + len(alone)], other, dim=-1)
            assert torch.equal(near.isnan(), other[..., 0].isnan())
            assert float(near.nan_to_num(1.0).min()) >= 0.999
        row += len(alone)


def forwards(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward from now on, padding included."""
    counted: list[int] = []
    forward = type(model.blocks.trunk).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.blocks.trunk), "forward", counting)
    return counted


def test_answers_to_one_prompt_share_it(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.packs
    counted = forwards(tiny, monkeypatch)
    read(tiny, [conversation(30, 0, 5, seed) for seed in range(4)], batch_tokens=128)
    assert counted == [30 + 4 * 5]


def test_all_that_begins_alike_is_shared(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One system prompt, two questions under it, three answers to each, and a conversation that goes on after one."""
    system, questions = random_ids(20, 0), [random_ids(6, 1), random_ids(6, 2)]
    made = [
        Conversation([*system, *question, *random_ids(4, 10 * n + k)], [(26, 30)])
        for n, question in enumerate(questions, 1)
        for k in range(3)
    ]
    made.append(Conversation([*made[0].ids, *random_ids(5, 99)], [(26, 30), (30, 35)]))
    alone = torch.cat([read(tiny, [one]).means for one in made])
    counted = forwards(tiny, monkeypatch)
    together = read(tiny, made, batch_tokens=256).means
    assert counted == [20 + 2 * 6 + 6 * 4 + 5]
    check_close(together, alone)


def test_batches_keep_to_their_budget(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.packs
    counted = forwards(tiny, monkeypatch)
    conversations = [conversation(5 + i, i, 10, i) for i in range(12)]
    advanced: list[int] = []
    read(tiny, conversations, batch_tokens=64, advance=advanced.append)
    assert max(counted) <= 64
    assert sum(advanced) == 12
    assert len(counted) == len(advanced) < 12


def calls(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each block ran, and (last) the LM head."""
    counted = [0] * (model.n_layers + 1)
    for i, module in enumerate([*model.blocks.layers, model.model.lm_head]):
        forward = module.forward

        def counting(*args: Any, i: int = i, forward: Any = forward, **kwargs: Any) -> Any:
            counted[i] += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counting)
    return counted


@pytest.mark.parametrize(
    ("layers", "expected"),
    [([2, 0], [1, 1, 0, 0]), ([0], [1, 0, 0, 0]), ([1, 0], [1, 0, 0, 0]), (None, [1, 1, 1, 0])],
)
def test_stops_at_the_deepest_layer(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch, layers: Sequence[int] | None, expected: list[int]
) -> None:
    one = conversation(6, 0, 5, 0)
    full = read(tiny, [one]).means
    counted = calls(tiny, monkeypatch)
    means = read(tiny, [one], layers=layers).means
    assert counted == expected
    torch.testing.assert_close(means, full[:, list(layers) if layers is not None else slice(None)])
    assert len(tiny.model.model.layers) == 3


def test_likelihood_needs_every_block_and_the_head_on_the_span_alone(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[int] = []
    head = tiny.model.lm_head.forward

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        heads.append(hidden.shape[0])
        return head(hidden)

    monkeypatch.setattr(tiny.model.lm_head, "forward", counting)
    readings = read(tiny, [conversation(20, 0, 5, 0, spans=1)], layers=[], log_likelihood=True)
    assert heads == [5] and readings.means.shape == (1, 0, 32)
    assert readings.log_likelihood is not None and readings.log_likelihood.isfinite().all()


def test_likelihood_of_long_spans(tiny: ChatModel) -> None:
    """Longer than the piece of tokens whose logits are made at a time."""
    one = conversation(3, 0, 400, 0)
    readings = read(tiny, [one, conversation(3, 0, 7, 1)], log_likelihood=True)
    assert readings.log_likelihood is not None
    torch.testing.assert_close(readings.log_likelihood[:3], plain(tiny, one)[1], rtol=1e-4, atol=1e-4, equal_nan=True)


def test_projections_are_products_of_readings(tiny: ChatModel) -> None:
    conversations = [conversation(6, i % 2, 5 + i, i) for i in range(5)]
    directions = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    means = read(tiny, conversations, layers=[3, 1]).means
    projections = read(tiny, conversations, layers=[3, 1], directions=directions).means
    assert projections.shape == (15, 2, 4)
    torch.testing.assert_close(projections, torch.einsum("sld,lkd->slk", means, directions), rtol=1e-4, atol=1e-4)


def test_every_turn_is_read_in_one_pass(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(["hi", "hello there", "how are you?", "", "so", "well\n"])
    ]
    [one] = tiny.template.conversations(chat)
    assert len(one.spans) == 3
    expected, likelihoods = plain(tiny, one)
    counted = forwards(tiny, monkeypatch)
    readings = read(tiny, [one], log_likelihood=True)
    assert counted == [len(one.ids)]
    check_close(readings.means, expected)
    assert readings.means[1].isnan().all() and not readings.means[[0, 2]].isnan().any()
    torch.testing.assert_close(readings.log_likelihood, likelihoods, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_spans_may_lie_anywhere(tiny: ChatModel) -> None:
    """Overlapping, out of order, and the last one not at the end."""
    ids = random_ids(20, 0)
    conversations = [
        Conversation(ids, [(3, 12), (10, 20), (5, 9)]),
        Conversation([*ids[:5], *random_ids(9, 1)], [(0, 3), (5, 8)]),
        Conversation(ids, [(19, 20), (0, 20)]),
        Conversation(ids, []),
    ]
    expected = torch.cat([plain(tiny, one)[0] for one in conversations if one.spans])
    check_close(read(tiny, conversations).means, expected)


def test_empty_spans_and_nothing_to_read(tiny: ChatModel) -> None:
    readings = read(tiny, [Conversation([1, 2, 3], [(3, 3)]), Conversation([], [(0, 0)])], log_likelihood=True)
    assert readings.means.shape == (2, 4, 32) and readings.means.isnan().all()
    assert readings.log_likelihood is not None and readings.log_likelihood.isnan().all()
    assert read(tiny, [Conversation([1, 2, 3], [])]).means.shape == (0, 4, 32)
    assert read(tiny, []).means.shape == (0, 4, 32)


def test_readings_see_steering(tiny: ChatModel) -> None:
    """At the steered layer the reading moves by what is added, also when the hooks of the reading came first."""
    persona = vector(tiny)
    one = [conversation(6, 0, 5, 0)]
    plain_means = read(tiny, one).means
    with steer(tiny, persona, 2.0, positions="all"):
        steered = read(tiny, one).means
    torch.testing.assert_close(steered[:, :2], plain_means[:, :2])
    moved = (plain_means[:, 2] + 2.0 * persona.directions[2]).expand_as(steered[:, 2])
    torch.testing.assert_close(steered[:, 2], moved, rtol=1e-4, atol=1e-4)
    seen: list[torch.Tensor] = []
    with (
        tiny.blocks.watching({2: lambda hidden: seen.append(hidden[0, 6:].mean(0))}),
        steer(tiny, persona, 2.0, positions="all"),
    ):
        tiny.model(input_ids=torch.tensor([one[0].ids]))
    torch.testing.assert_close(seen[0], steered[2, 2], rtol=1e-4, atol=1e-4)


def test_hooks_come_off_after_an_exception(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny.blocks.layers[1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            read(tiny, [conversation(6, 0, 5, 0)], layers=[0, 2])
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in tiny.blocks.layers)
    assert len(tiny.model.model.layers) == 3
    one = conversation(6, 0, 5, 0)
    check_close(read(tiny, [one]).means, plain(tiny, one)[0])


def test_out_of_memory_halves_the_batch(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = [conversation(5 + i, i, 6, i) for i in range(8)]
    expected = read(tiny, conversations).means
    forward = type(tiny.blocks.trunk).forward
    tried: list[int] = []

    def small(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(kwargs["input_ids"].shape[0])
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny.blocks.trunk), "forward", small)
    check_close(read(tiny, conversations).means, expected)
    assert tried == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_out_of_range(tiny: ChatModel, layer: int) -> None:
    with pytest.raises(UserError, match=f"Layer {layer} is out of range"):
        read(tiny, [conversation(6, 0, 5, 0)], layers=[1, layer])


def test_without_a_budget_a_forward_on_a_cpu_holds_a_thousand_tokens(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personavec.readout.CPU_TOKENS", 1024)
    counted = forwards(tiny, monkeypatch)
    read(tiny, [conversation(90, i, 10, i) for i in range(24)])
    assert len(counted) > 1 and 700 < max(counted) <= 1024
