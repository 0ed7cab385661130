"""The step loop: what runs side by side changes nothing of what each gets."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from serving_samples import Heard, personas, submit

from personavec.errors import UserError
from personavec.interventions import capping, steering
from personavec.model import ChatModel, Request, Response
from personavec.model.edits import Intervention
from personavec.operations import ABLATE, ADD, OPERATIONS, Positions
from personavec.serving import engine
from personavec.serving.engine import BusyError, ClosingError, Event, StepLoop
from personavec.serving.settings import ServeSettings
from tiny import chat_model, plain_states, qwen2, random_ids


@pytest.fixture(scope="module")
def loop(tiny: ChatModel) -> Iterator[StepLoop]:
    made = StepLoop(tiny, personas(tiny), ServeSettings())
    yield made
    made.close()


def edits(model: ChatModel, i: int) -> list[Intervention]:
    """Every third request is unsteered; no two others are steered alike."""
    evil, humorous = personas(model)
    if i % 3 == 0:
        return []
    positions: Positions = "all" if i % 2 else "response"
    added = steering(evil if i % 2 else humorous, 0.1 * (i - 5), positions=positions)
    return [*added, *capping(evil, 0.2 * i)] if i % 4 == 1 else added


@pytest.fixture(scope="module")
def mixed(tiny: ChatModel) -> list[tuple[Request, Response]]:
    """With what each of them gets alone."""
    made = [Request(random_ids(2 + 7 * i, i), 6 + i, (0.0, 1.0)[i % 2], 10 + i, edits(tiny, i)) for i in range(14)]
    return [(one, tiny.generate([one])[0]) for one in made]


@pytest.mark.parametrize("limit", [{}, {"places": 3}, {"cache_tokens": 400}])
def test_streams_side_by_side_equal_their_single_runs(
    tiny: ChatModel, mixed: list[tuple[Request, Response]], limit: dict[str, Any]
) -> None:
    """Each with its own steering, and unsteered ones between; also where only some of them find a place at a time."""
    made = StepLoop(tiny, personas(tiny), ServeSettings(**limit))
    try:
        heard = [
            submit(made, r.prompt_ids, r.max_new_tokens, temperature=r.temperature, seed=r.seed,
                   interventions=r.interventions, reads=i % 2 == 0)[1]
            for i, (r, _) in enumerate(mixed)
        ]  # fmt: skip
        found = [one.wait() for one in heard]
    finally:
        made.close()
    for one, (_, expected) in zip(found, mixed, strict=True):
        assert one.error is None
        assert one.ids() == expected.ids
        assert one.text() == tiny.decode(expected.ids)
        assert one.ended().reason == ("stop" if expected.finished else "length")
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in tiny.blocks.layers)


def test_reading_changes_no_token_and_is_what_the_states_hold(loop: StepLoop, tiny: ChatModel) -> None:
    """The last token of an answer that is cut off included, which nothing but its reading asks for."""
    prompt, (evil, humorous) = random_ids(9, 3), personas(tiny)
    plain = submit(loop, prompt, 12, seed=4)[1].wait()
    read = submit(loop, prompt, 12, seed=4, reads=True)[1].wait()
    assert plain.ids() == read.ids()
    assert plain.prompt is None and plain.tokens()[0].reading is None
    states, _ = plain_states(tiny.model, tiny.blocks.layers, [*prompt, *read.ids()])
    expected = torch.stack([states[v.layer] @ v.unit(v.layer) for v in (evil, humorous)], 1)[len(prompt) - 1 :]
    found = torch.tensor([read.prompt, *(token.reading for token in read.tokens())])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_readings_hold_the_steering(loop: StepLoop, tiny: ChatModel) -> None:
    """At its own layer what is added is seen at once."""
    prompt, (evil, _) = random_ids(5, 3), personas(tiny)
    plain = submit(loop, prompt, 1, reads=True)[1].wait()
    steered = submit(loop, prompt, 1, reads=True, interventions=steering(evil, 0.5))[1].wait()
    assert plain.prompt and steered.prompt
    added = steered.prompt[0] - plain.prompt[0]
    assert added == pytest.approx(0.5 * float(evil.at(evil.layer).norm()), rel=1e-4)


def test_long_prompts_are_read_in_chunks_between_the_steps_of_others(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHUNK", 16)
    made = StepLoop(tiny, [], ServeSettings())
    widths: list[tuple[int, int]] = []
    both = threading.Event()
    try:
        with tiny.blocks.watching({1: lambda hidden: widths.append((hidden.shape[0], hidden.shape[1]))}):
            first = Heard(told=lambda event: both.wait(60))
            made.submit(engine.Job([1, 2], first, 60, temperature=0.0))
            long = submit(made, random_ids(200, 1), 3, temperature=0.0)[1]
            both.set()
            long.wait()
            first.wait()
    finally:
        made.close()
    begin = next(i for i, (_, tokens) in enumerate(widths) if tokens > 1)
    reading = [tokens for _, tokens in widths[begin : begin + 26]]
    assert reading[1::2] == [1] * 13  # after every chunk a step
    assert max(reading) == 16 and sum(reading[::2]) == 199
    assert long.ids() == tiny.generate([Request(random_ids(200, 1), 3, 0.0)])[0].ids


def test_what_an_intervention_raises_ends_its_own_request(
    loop: StepLoop, tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no such thing")

    direction = personas(tiny)[0].unit(2)
    monkeypatch.setitem(OPERATIONS, "break", replace(ABLATE, name="break", apply=fail))
    broken = Intervention(OPERATIONS["break"], 2, direction)
    huge = Intervention(ADD, 2, torch.inf * direction)
    prompts = [random_ids(4 + i, i) for i in range(7)]
    plans = [[], [broken], [], [huge], [], [replace(broken, positions="all")], []]
    heard = [submit(loop, p, 9, seed=1, interventions=e)[1] for p, e in zip(prompts, plans, strict=True)]
    for i, (one, prompt) in enumerate(zip(heard, prompts, strict=True)):
        one.wait()
        if plans[i]:
            assert isinstance(one.error, UserError if i == 3 else ZeroDivisionError)
        else:
            assert one.ids() == tiny.generate([Request(prompt, 9, 1.0, 1)])[0].ids


def test_cancelling_frees_the_place(tiny: ChatModel) -> None:
    made = StepLoop(tiny, [], ServeSettings(places=1, queue=2))
    running, cancelled = threading.Event(), threading.Event()

    def held(event: Event) -> None:  # the engine waits here
        running.set()
        cancelled.wait(60)

    try:
        heard = Heard(told=held)
        job = engine.Job([1, 2], heard, 500, seed=1)
        made.submit(job)
        assert running.wait(60)
        waiting, _ = submit(made, [1, 2], 500)
        _, after = submit(made, [3, 4], 5, seed=2)
        with pytest.raises(BusyError) as busy:
            submit(made, [1, 2], 3)
        assert 1 <= busy.value.seconds <= 60
        waiting.cancelled = True
        for _ in range(9):
            gone, _ = submit(made, [1, 2], 500)
            gone.cancelled = True
        assert made.waiting == 2, "what was cancelled is not kept until its turn comes"
        job.cancelled = True
        cancelled.set()
        assert after.wait().ids() == tiny.generate([Request([3, 4], 5, 1.0, 2)])[0].ids
        assert not heard.over.is_set()
    finally:
        made.close()
    assert (made.running, made.waiting) == (0, 0)


def test_the_memory_of_places_is_free_once_the_last_response_has_ended(tiny: ChatModel) -> None:
    """At once: a server's objects are looked through for cycles of references hundreds of requests later."""
    made = StepLoop(tiny, personas(tiny), ServeSettings())
    held: list[weakref.ref[torch.Tensor]] = []

    def note(event: Event) -> None:
        if not held:
            [group] = made._groups.values()
            held.extend(weakref.ref(layer.keys) for layer in group.places.layers)

    gc.disable()
    try:
        heard = Heard(told=note)
        made.submit(engine.Job(random_ids(9, 1), heard, 3))
        heard.wait()
        made.close()
        assert held and not any(one() is not None for one in held)
    finally:
        gc.enable()


def test_what_is_over_runs_no_more_when_its_end_is_told(tiny: ChatModel) -> None:
    made = StepLoop(tiny, [], ServeSettings())
    running: list[int] = []
    try:
        heard = Heard(told=lambda _: running.append(made.running))
        made.submit(engine.Job(random_ids(9, 1), heard, 3))
        heard.wait()
    finally:
        made.close()
    assert (running[0], running[-1]) == (1, 0)


def test_an_idle_hour_does_not_put_off_whoever_comes_after(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = StepLoop(tiny, [], ServeSettings(places=1, queue=2))
    going = threading.Event()
    try:
        for _ in range(2):
            submit(made, [1, 2], 3)[1].wait()
            while made._groups:
                time.sleep(0.001)
            now[0] += 3600.0
        made.submit(engine.Job([1, 2], Heard(told=lambda event: going.wait(60)), 3))
        while not made.running:
            time.sleep(0.001)
        for _ in range(2):
            submit(made, [1, 2], 3)
        with pytest.raises(BusyError) as busy:
            submit(made, [1, 2], 3)
        assert busy.value.seconds == 2
    finally:
        going.set()
        made.close()


def test_closing_tells_whoever_is_left(tiny: ChatModel) -> None:
    made = StepLoop(tiny, [], ServeSettings(places=1))

    def held(event: Event) -> None:
        while made.alive:
            time.sleep(0.001)

    left = [Heard(told=held) for _ in range(2)]
    for heard in left:
        made.submit(engine.Job([1, 2], heard, 400))
    made.close()
    assert all("shuts down" in str(one.wait().error) for one in left)
    assert not made.alive
    with pytest.raises(ClosingError):
        submit(made, [1, 2], 3)


def test_several_responses_are_drawn_with_seeds_of_their_own(loop: StepLoop, tiny: ChatModel) -> None:
    prompt = random_ids(30, 2)
    heard = submit(loop, prompt, 8, n=3, seed=5)[1].wait()
    found = [heard.ids(choice) for choice in range(3)]
    assert found == [response.ids for response in tiny.generate([Request(prompt, 8, 1.0, 5 + i) for i in range(3)])]
    assert len(set(map(tuple, found))) == 3


def test_prompts_that_begin_alike_are_read_once_unless_they_are_steered(loop: StepLoop, tiny: ChatModel) -> None:
    """Also after a steered one with the same words: what it left in the cache is not taken."""
    shared, evil = random_ids(40, 7), personas(tiny)[0]
    on_prompt = steering(evil, 1.0, positions="all")
    asked = [([*shared, i], e) for i, e in enumerate(([], [], on_prompt, [], on_prompt, steering(evil, 1.0)))]
    widths: list[int] = []
    for ids, plan in asked:
        with tiny.blocks.watching({1: lambda hidden: widths.append(hidden.shape[1])}):
            heard = submit(loop, ids, 4, temperature=0.0, interventions=plan)[1].wait()
        assert heard.ids() == tiny.generate([Request(ids, 4, 0.0, 0, plan)])[0].ids
    assert [width for width in widths if width > 1] == [40, 40]


def test_logprobs_are_those_of_a_forward(loop: StepLoop, tiny: ChatModel) -> None:
    prompt = random_ids(6, 1)
    heard = submit(loop, prompt, 5, seed=3, top_logprobs=3, temperature=0.3, top_p=0.9)[1].wait()
    _, logits = plain_states(tiny.model, tiny.blocks.layers, [*prompt, *heard.ids()])
    for place, token in enumerate(heard.tokens(), len(prompt) - 1):
        expected = logits[place].log_softmax(-1)
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)
        assert [id for id, _ in token.top] == expected.topk(3).indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)


def test_a_nucleus_of_nothing_is_greedy(loop: StepLoop, tiny: ChatModel) -> None:
    prompt = random_ids(6, 1)
    heard = submit(loop, prompt, 8, seed=3, top_p=0.0)[1].wait()
    assert heard.ids() == tiny.generate([Request(prompt, 8, 0.0)])[0].ids


@pytest.mark.parametrize("reads", [False, True])
def test_a_stop_string_ends_the_text_before_it(loop: StepLoop, tiny: ChatModel, reads: bool) -> None:
    """Wherever it is cut into tokens; tokens behind it are not told."""
    prompt = random_ids(6, 9)
    whole = submit(loop, prompt, 30, seed=3)[1].wait()
    for length in (1, 3):
        stop = whole.text()[10 : 10 + length]
        heard = submit(loop, prompt, 30, seed=3, stops=(stop, "never"), reads=reads)[1].wait()
        assert heard.text() == whole.text().partition(stop)[0]
        assert heard.ended().reason == "stop"
        assert tiny.decode(heard.ids()).startswith(heard.text())
        assert len(tiny.decode(heard.ids()[:-1])) < len(heard.text())
        assert all((token.reading is not None) == reads for token in heard.tokens())


def test_responses_of_like_reach_share_their_steps(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one among short ones does not make them attend to its length, and memory goes when it ends."""
    monkeypatch.setattr(engine, "NARROWEST", 64)
    made = StepLoop(tiny, [], ServeSettings(places=8, cache_tokens=1000))
    try:
        long = submit(made, random_ids(300, 1), 20, temperature=0.0)[1]
        short = [submit(made, random_ids(5, i), 30, temperature=0.0)[1] for i in range(4)]
        for i, heard in enumerate(short):
            assert heard.wait().ids() == tiny.generate([Request(random_ids(5, i), 30, 0.0)])[0].ids
        assert long.wait().ids() == tiny.generate([Request(random_ids(300, 1), 20, 0.0)])[0].ids
    finally:
        made.close()
    assert not made._groups


def test_what_can_never_fit_is_refused(loop: StepLoop, tiny: ChatModel) -> None:
    with pytest.raises(UserError, match="exceed the model's context of 512"):
        submit(loop, [1] * 500, 13)
    with pytest.raises(UserError, match="there is room for 32"):
        submit(loop, [1], 3, n=33)
    with pytest.raises(UserError, match="does not fit the model"):
        submit(loop, [1], 3, interventions=[Intervention(ADD, 1, torch.zeros(31))])


def test_a_model_with_a_window_is_refused() -> None:
    windowed = chat_model(qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1))
    with pytest.raises(UserError, match="cannot be served"):
        StepLoop(windowed, [], ServeSettings())


def test_an_answer_that_was_not_read_has_an_empty_summary(loop: StepLoop) -> None:
    assert loop.meter.summary([], ["evil"]) == {}
