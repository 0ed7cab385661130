"""Batched generation: a rollout is the same whatever runs beside it, is steered as asked, and drawn as it should be."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MistralConfig

from personavec.errors import UserError
from personavec.interventions import ablation, capping, intervening, steering
from personavec.model import ChatModel, Request, Response
from personavec.model.edits import Intervention
from personavec.model.generate import DECODINGS, Decoding, Generator
from personavec.model.sampling import draw, nucleus
from personavec.operations import ADD, Positions
from tiny import SIZES, causal_model, chat_model, editing, plain_greedy, qwen2, random_ids, tokenizer, vector

LENGTHS = (1, 30, 4, 4, 12, 1, 7, 21, 2, 30)


def requests(tiny: ChatModel) -> list[Request]:
    """Mixed prompts, lengths, temperatures, seeds and steering; two prompts are shared."""
    persona, other = vector(tiny), vector(tiny, seed=1, layer=3)
    steered: list[list[Intervention]] = [
        [],
        steering(persona, 1.0, positions="all"),
        steering(persona, -1.0, positions="prompt"),
        [*steering(other, 1.5, positions="response"), *ablation(persona, positions="all")],
        steering(persona, 0.7, layers="all", positions="all"),
    ]
    made = []
    for i, length in enumerate(LENGTHS):
        made.append(
            Request(
                random_ids(length, length), 3 + 5 * (i % 4), (1.0, 0.0, 0.6)[i % 3], i // 2, steered[i % len(steered)]
            )
        )
    return [*made, *(replace(r, interventions=()) for r in made)]


@pytest.fixture(scope="module")
def alone(tiny: ChatModel) -> list[Response]:
    return [tiny.generate([request])[0] for request in requests(tiny)]


def decoding_by(model: ChatModel, decoding: Decoding) -> ChatModel:
    """The same model, told how to decode."""
    other = ChatModel(model.model, model.tokenizer, model.id)
    other.__dict__["decoding"] = decoding
    return other


@pytest.mark.parametrize("decoding", DECODINGS)
@settings(max_examples=5, deadline=None)
@given(places=st.integers(1, 24), order=st.randoms(use_true_random=False), count=st.integers(1, 20))
def test_a_rollout_does_not_depend_on_what_runs_beside_it(
    tiny: ChatModel, alone: list[Response], decoding: Decoding, places: int, order: random.Random, count: int
) -> None:
    chosen = order.sample(range(len(alone)), count)
    model = decoding_by(tiny, decoding)
    everything = requests(tiny)
    responses = model.generate([everything[i] for i in chosen], places=places)
    assert responses == [alone[i] for i in chosen]


def test_the_rollouts_of_this_file_differ(alone: list[Response]) -> None:
    """Otherwise the test above could not fail: steering, seed and prompt all matter."""
    assert len({tuple(response.ids) for response in alone}) >= len(alone) - 3


def test_seed_decides(tiny: ChatModel) -> None:
    prompt = random_ids(9, 1)
    first = tiny.generate([Request(prompt, 20, 1.0, seed) for seed in range(6)])
    again = tiny.generate([Request(prompt, 20, 1.0, seed) for seed in reversed(range(6))])[::-1]
    assert first == again
    assert len({tuple(response.ids) for response in first}) == 6


def test_temperature_zero_ignores_the_seed(tiny: ChatModel) -> None:
    prompt = random_ids(9, 1)
    [a, b] = tiny.generate([Request(prompt, 20, 0.0, 1), Request(prompt, 20, 0.0, 2)])
    assert a == b
    expected = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, 9:].tolist()
    assert a.ids == expected


def ending(stop: int | list[int] | None = None, **options: Any) -> ChatModel:
    """A model that often says one of a few tokens, some of which end its turn."""
    model = causal_model(qwen2(**options))
    with torch.no_grad():
        model.lm_head.weight[20:] *= 0.02
    model.generation_config.eos_token_id = stop
    return ChatModel(model, tokenizer(), "ending")


def test_end_of_turn() -> None:
    free = ending()
    assert free.stop_ids == {free.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    prompt = random_ids(9, 1)
    long = [response.ids for response in free.generate([Request(prompt, 30, 1.0, seed) for seed in range(8)])]
    stops = [long[0][7], long[1][3]]
    model = ending(stops)
    assert model.stop_ids == {*free.stop_ids, *stops}
    responses = model.generate([Request(prompt, 30, 1.0, seed) for seed in range(8)])
    for ids, response in zip(long, responses, strict=True):
        expected = list(itertools.takewhile(lambda token: token not in model.stop_ids, ids))
        assert response.ids == expected  # without the marker
        assert response.finished == (len(expected) < 30)
    assert {response.finished for response in responses} >= {True}


def test_stop_ids_from_config_tokenizer_and_template() -> None:
    model = causal_model(qwen2(eos_token_id=[7, 8]))
    chat = ChatModel(model, tokenizer(eos_token="<|pad|>"), "x")
    assert chat.stop_ids == {7, 8, *chat.tokenizer.convert_tokens_to_ids(["<|pad|>", "<|im_end|>"])}


def test_a_mark_that_stands_inside_an_answers_turn_does_not_end_it() -> None:
    """As `<|end|>`, which ends Phi's turns and only the messages of gpt-oss's."""
    phi = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    named = (
        "{% for m in messages %}{% if m.thinking %}<|start|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
        "<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}"
        "{{ '<|return|>' if m['role'] == 'assistant' and loop.last else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>{% endif %}"
    )
    special = ("<|end|>", "<|return|>", "<|start|>", "<|message|>")
    for text, eos, ends in ((phi, "<|pad|>", {"<|pad|>", "<|end|>"}), (named, "<|return|>", {"<|return|>"})):
        chat = ChatModel(causal_model(qwen2()), tokenizer(text, special=special, eos_token=eos), "x")
        assert chat.stop_ids == set(chat.tokenizer.convert_tokens_to_ids([*ends]))


def test_longest_response(tiny: ChatModel) -> None:
    requests = [Request(random_ids(5, 5), n, 1.0, 3) for n in (1, 2, 13)]
    responses = tiny.generate(requests, places=2)
    assert [len(response.ids) for response in responses] == [1, 2, 13]
    assert responses[2].ids[:2] == responses[1].ids  # a longer limit changes nothing before it
    assert not any(response.finished for response in responses)


def test_callbacks(tiny: ChatModel) -> None:
    """Tokens stream in order, responses are reported once, as they end."""
    streamed: dict[int, list[int]] = {}
    ended: list[tuple[int, Response]] = []
    events: list[int] = []

    def token(index: int, chosen: int) -> None:
        assert index not in dict(ended)
        streamed.setdefault(index, []).append(chosen)
        events.append(index)

    made = [Request(random_ids(6, i), 4 * (i + 1), 1.0, i) for i in range(5)]
    responses = tiny.generate(made, lambda i, response: ended.append((i, response)), token=token, places=5)
    assert [streamed[i] for i in range(5)] == [response.ids for response in responses]
    assert sorted(ended, key=lambda pair: pair[0]) == list(enumerate(responses))
    assert [i for i, _ in ended] == [0, 1, 2, 3, 4]  # the shorter ones first
    assert events[:5] != [0, 0, 0, 0, 1]  # side by side, not one after the other


def by_hand(model: ChatModel, request: Request) -> list[int]:
    """Greedy, one full forward a token without a cache, with plain hooks that edit the positions asked for."""
    ids = list(request.prompt_ids)
    prompt = len(ids)
    with torch.no_grad():
        for _ in range(request.max_new_tokens):
            handles = []
            for item in request.interventions:

                def edit(hidden: torch.Tensor, item: Intervention = item) -> torch.Tensor:
                    where = {"all": slice(None), "prompt": slice(0, prompt), "response": slice(prompt - 1, None)}
                    part = hidden[:, where[item.positions]]
                    unit = item.direction
                    if item.operation.name == "add":
                        edited = part + item.direction
                    elif item.operation.name == "ablate":
                        edited = part - (part @ unit)[..., None] * unit
                    else:
                        edited = part - torch.relu(part @ unit - item.bound)[..., None] * unit
                    hidden = hidden.clone()
                    hidden[:, where[item.positions]] = edited
                    return hidden

                handles.append(editing(model.blocks.layers[item.layer - 1], edit))
            ids.append(int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            for handle in handles:
                handle.remove()
    return ids[prompt:]


@pytest.fixture(scope="module")
def intervened(tiny: ChatModel) -> list[tuple[Request, list[int]]]:
    """Requests with interventions of every kind, and the answers by hand."""
    statistics: dict[str, Any] = {"neutral_token_mean": torch.zeros(4), "neutral_token_deviation": torch.ones(4)}
    persona, other = vector(tiny, **statistics), vector(tiny, seed=1, layer=1, **statistics)
    made = []
    for i, positions in enumerate(get_args(Positions)):
        for kind in (
            steering(persona, 1.5, positions=positions),
            steering(other, -1.0, positions=positions),
            steering(persona, 1.0, layers="all", positions=positions),
            ablation(other, layers="all", positions=positions),
            capping(persona, -0.5, positions=positions),
            [*steering(persona, 1.5, positions=positions), *ablation(other, positions="prompt")],
        ):
            for length in (1, 9 + i):
                made.append(Request(random_ids(length, 7), 8, 0.0, 0, kind))
    return [(request, by_hand(tiny, request)) for request in made]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_interventions_per_row_at_their_positions(
    tiny: ChatModel, intervened: list[tuple[Request, list[int]]], decoding: Decoding
) -> None:
    made = [request for request, _ in intervened]
    responses = decoding_by(tiny, decoding).generate(made, places=7)
    assert [response.ids for response in responses] == [wanted for _, wanted in intervened]
    unsteered = {length: tiny.generate([Request(random_ids(length, 7), 8, 0.0)])[0].ids for length in (1, 9, 10, 11)}
    changed = [
        response.ids != unsteered[len(request.prompt_ids)] for request, response in zip(made, responses, strict=True)
    ]
    assert sum(changed) > 0.8 * len(changed)


def test_interventions_equal_hooks_on_the_whole_model(tiny: ChatModel) -> None:
    """What a request asks for is what `intervening` does to the model's own `generate`."""
    persona = vector(tiny)
    for positions in ("all", "prompt", "response"):
        for edits in (steering(persona, 1.5, positions=positions), ablation(persona, positions=positions)):
            prompt = random_ids(9, 2)
            [response] = tiny.generate([Request(prompt, 10, 0.0, interventions=edits)])
            with intervening(tiny.model, [edits]):
                out = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)
            assert response.ids == out[0, len(prompt) :].tolist()


def test_models_with_a_window_keep_their_own_cache() -> None:
    model = chat_model(MistralConfig(**SIZES, sliding_window=6))
    assert not model.packs
    persona = vector(model)
    made = [Request(random_ids(n, n), 10, 0.0, 0, steering(persona, 0.3 * n, positions="all")) for n in (2, 15, 9)]
    responses = model.generate(made, places=2)
    assert [response.ids for response in responses] == [by_hand(model, request) for request in made]


def test_free_places_are_refilled(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long response among many short ones: the short ones pass through the places beside it."""
    widths: list[int] = []
    forward = type(tiny.blocks.trunk).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] == 1:
            widths.append(kwargs["input_ids"].shape[0])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny.blocks.trunk), "forward", counting)
    short, long = 10, 50
    made = [Request(random_ids(2 + i, i), short, 1.0, i) for i in range(15)]
    tiny.generate([Request([1, 2], long, 1.0), *made], places=4)
    assert max(widths) == 4
    assert len(widths) == long  # all the short ones ran beside the long one
    assert sum(widths) == long + 15 * short  # and no place was run for nothing


def test_shared_prompts_are_read_once(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = type(tiny.blocks.trunk).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 1:
            read.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny.blocks.trunk), "forward", counting)
    prompt = random_ids(11, 1)
    on_response = steering(vector(tiny), 1.0, positions="response")
    tiny.generate([Request(prompt, 3, 1.0, seed, on_response if seed % 2 else ()) for seed in range(8)])
    assert read == [10]
    on_prompt = steering(vector(tiny), 1.0, positions="all")
    tiny.generate([Request(prompt, 3, 1.0, seed, on_prompt if seed % 2 else ()) for seed in range(8)])
    assert read == [10, 20]


def test_memory_limits_change_nothing(tiny: ChatModel, alone: list[Response]) -> None:
    everything = requests(tiny)
    found: dict[int, Response] = {}
    generator = Generator(
        tiny.blocks, tiny.head, tiny.stop_ids, places=16, decoding="places", prompt_tokens=8, cache_tokens=100
    )
    generator.run(everything, found.__setitem__)
    assert [found[i] for i in range(len(everything))] == alone


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_have_the_right_distribution(temperature: float) -> None:
    """Several tokens' frequencies against softmax(logits / temperature), over blocks of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((1300,), -30.0)
    heavy = [0, 1, 511, 512, 513, 1023, 1024, 1298, 1299]
    logits[heavy] = torch.randn(len(heavy), generator=generator)
    n = 4000
    draws = torch.rand(n, 1, generator=generator, dtype=torch.float64).numpy()
    counts: Counter[int] = Counter()
    for start in range(0, n, 500):
        counts.update(draw(logits.expand(500, -1), [temperature] * 500, draws[start : start + 500, 0].tolist()))
    assert set(counts) <= set(heavy)
    expected = n * torch.softmax(logits[heavy].double() / temperature, 0)
    assert chisquare([counts[token] for token in heavy], expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("end", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(end: float) -> None:
    logits = torch.full((2, 700), -torch.inf)
    logits[:, [3, 600]] = 0.0
    assert draw(logits, [1.0, 0.3], [end, end]) == ([3, 3] if end == 0 else [600, 600])


def test_a_nucleus_keeps_the_likeliest_tokens_that_reach_it() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    kept = {top_p: nucleus(logits, 1.0, top_p).isfinite().nonzero()[:, 0].tolist() for top_p in (0.0, 0.6, 0.76, 1.0)}
    assert kept == {0.0: [1], 0.6: [1, 3], 0.76: [1, 2, 3], 1.0: [0, 1, 2, 3]}
    assert nucleus(logits, 0.2, 0.9).isfinite().nonzero()[:, 0].tolist() == [1]


def test_draws_follow_the_model(tiny: ChatModel) -> None:
    """The first token of many seeds against the model's own next-token probabilities."""
    prompt = random_ids(6, 4)
    n = 3000
    responses = tiny.generate([Request(prompt, 1, 1.0, seed) for seed in range(n)], places=500)
    counts = Counter(response.ids[0] if response.ids else min(tiny.stop_ids) for response in responses)
    probabilities = tiny.next_token_logprobs([prompt])[0].double().exp()
    likely = [token for token in range(len(probabilities)) if n * probabilities[token] >= 10]
    observed = [counts[token] for token in likely]
    expected = [float(n * probabilities[token]) for token in likely]
    rest = n - sum(expected)
    assert len(likely) > 10
    p = chisquare([*observed, n - sum(observed)], [*expected, rest]).pvalue
    assert p > 0.01


def test_next_token_logprobs(tiny: ChatModel) -> None:
    prompts = [random_ids(n, n) for n in (5, 1, 40, 5, 17)]
    found = tiny.next_token_logprobs(prompts)
    with torch.no_grad():
        for row, prompt in zip(found, prompts, strict=True):
            expected = tiny.model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


def test_answer(tiny: ChatModel) -> None:
    plain = tiny.answer("hello", max_new_tokens=8, temperature=0)
    prompt = tiny.prompt_ids([{"role": "user", "content": "hello"}])
    assert plain == tiny.decode(by_hand(tiny, Request(prompt, 8)))
    assert tiny.answer("hello", steering(vector(tiny), 2.0, positions="all"), max_new_tokens=8, temperature=0) != plain
    assert tiny.answer("hello", system="be kind", max_new_tokens=8, temperature=0) != plain


def test_exception_leaves_the_model_as_it_was(tiny: ChatModel) -> None:
    def fail(index: int, token: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.generate([Request([1, 2, 3], 5, 0.0, 0, steering(vector(tiny), 1.0, positions="all"))], token=fail)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in tiny.blocks.layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "up to 0 tokens"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"seed": -1}, "seed -1"),
        ({"prompt_ids": []}, "prompt is empty"),
        ({"prompt_ids": [1] * 500, "max_new_tokens": 13}, "500 tokens and a response of up to 13 exceed .* 512"),
        ({"interventions": [Intervention(ADD, 4, torch.zeros(32))]}, "Layer 4 is out of range"),
        ({"interventions": [Intervention(ADD, 1, torch.zeros(31))]}, "width 31 does not fit a model of width 32"),
    ],
)
def test_bad_requests(tiny: ChatModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.generate([Request(**{"prompt_ids": [1, 2], "max_new_tokens": 3, **options})])


def test_nothing_to_do(tiny: ChatModel) -> None:
    assert tiny.generate([]) == []


def test_a_long_prompt_is_read_in_pieces_and_says_so(tiny: ChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The same answers as in one piece, steered on the prompt as well."""
    ids = random_ids(45, 1)
    edits = steering(vector(tiny), 1.5, positions="all")
    with intervening(tiny, [edits]):
        expected = plain_greedy(tiny.model, ids, 8)
    widths: list[int] = []
    responses: list[Response] = []
    generator = Generator(
        tiny.blocks, tiny.head, frozenset(), places=2, decoding="places", prompt_tokens=10, cache_tokens=1024
    )
    with tiny.blocks.watching({1: lambda hidden: widths.append(hidden.shape[1])}):
        generator.run([Request(ids, 8, 0.0, interventions=edits)], lambda _, response: responses.append(response))
    assert responses[0].ids == expected
    assert widths == [10, 10, 10, 10, 4] + [1] * 8
    assert "Reading the prompt: 44 of 44 tokens" in capsys.readouterr().err


def test_a_prompt_beyond_the_context_is_refused_before_it_is_read(tiny: ChatModel) -> None:
    seen: list[torch.Tensor] = []
    with (
        tiny.blocks.watching({1: seen.append}),
        pytest.raises(UserError, match="A prompt of 20000 tokens"),
    ):
        tiny.generate([Request([5] * 20_000, 8, 0.0)])
    assert not seen
