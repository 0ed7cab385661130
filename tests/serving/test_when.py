"""Steering that acts while a condition on the readings holds."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from serving_samples import Live, digits_model, personas, submit
from torch import Tensor

from personavec.interventions import steering
from personavec.model import ChatModel
from personavec.serving.engine import StepLoop
from personavec.serving.failures import RequestError
from personavec.serving.persona import Cast
from personavec.serving.readings import Condition
from personavec.serving.settings import ServeSettings
from tiny import editing, plain_states, random_ids

COUNT = 24


@pytest.fixture(scope="module")
def loop(tiny: ChatModel) -> Iterator[StepLoop]:
    made = StepLoop(tiny, personas(tiny), ServeSettings())
    yield made
    made.close()


def by_hand(model: ChatModel, prompt: list[int], condition: Condition, coefficient: float) -> tuple[list[int], int]:
    """Full forwards: tokens, and how many were drawn while the steering acted. The prompt's last token never is."""
    evil = personas(model)[0]
    pushed, unit = coefficient * evil.at(evil.layer), evil.unit(evil.layer)
    _, sign, limit = condition
    ids, acts = list(prompt), [False]
    for _ in range(COUNT):
        where = torch.tensor([0.0] * (len(prompt) - 1) + [float(one) for one in acts])[None, :, None]

        def edit(hidden: Tensor, where: Tensor = where) -> Tensor:
            return hidden + where * pushed

        handle = editing(model.blocks.layers[evil.layer - 1], edit)
        states, logits = plain_states(model.model, model.blocks.layers, ids)
        handle.remove()
        seen = (states[evil.layer] @ unit)[len(prompt) - 1 :]
        z = float(((seen[0] if len(seen) == 1 else seen[1:].mean()) - 0.1) / 0.5)  # neutral mean and deviation
        acts.append(z > limit if sign == ">" else z < limit)
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], sum(acts[:COUNT])


@pytest.mark.parametrize(("sign", "limit", "coefficient"), [(">", 0.5, -1.0), ("<", 0.5, 1.0), (">", -2.0, -0.5)])
def test_it_acts_as_by_hand(loop: StepLoop, tiny: ChatModel, sign: Any, limit: float, coefficient: float) -> None:
    """Also beside answers whose steering acts always, or on another condition."""
    evil, humorous = personas(tiny)
    condition: Condition = ("evil", sign, limit)
    edits = steering(evil, coefficient)
    others = [submit(loop, random_ids(5, 50), 200, interventions=steering(humorous, 0.3), seed=1)]
    never: Condition = ("evil", ">", 1e5)
    others += [
        submit(loop, random_ids(6, 51), 200, interventions=edits, reads=True, when=partial(loop.meter.met, [never]))
    ]
    when, prompts = partial(loop.meter.met, [condition]), [random_ids(7 + number, number) for number in range(4)]
    asked = [
        submit(loop, one, COUNT, temperature=0.0, interventions=edits, reads=True, when=when)[1] for one in prompts
    ]
    assert [one[1].wait().ended().steered for one in others] == [len(others[0][1].ids()), 0]
    found = [(heard.wait().ids(), heard.ended().steered) for heard in asked]
    assert found == [by_hand(tiny, prompt, condition, coefficient) for prompt in prompts]
    assert any(0 < acted < COUNT for _, acted in found)  # on and off in one answer


def test_a_request_says_when() -> None:
    model = digits_model()
    live = Live(model, personas(model), {"steer": {"humorous": -0.1}})
    try:
        told = {
            limit: live.chat(persona={"when": {"evil": limit}, "monitor": []}, max_tokens=12)["persona"]
            for limit in ("<1000", "> 1000", "<-0.25")
        }
        assert [one["choices"][0]["steered_tokens"] for one in told.values()][:2] == [11, 0]
        assert told["> 1000"]["steering"] == ["humorous -0.1", "while evil is >1000"]
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        for when, param in (
            ({"evil": "3"}, "persona.when.evil"),
            ({"evil": ">nan"}, "persona.when.evil"),
            ({"evil": 3}, "persona.when.evil"),
            ({"kind": ">3"}, "persona.when"),
            ({"humorous": ">3"}, "persona.when.humorous"),  # its file has no neutral statistics
            ({}, "persona.when"),
        ):
            status, wrong, _ = live.ask("POST", "/v1/chat/completions", {**body, "persona": {"when": when}})
            assert (status, wrong["error"]["param"]) == (400, param)
    finally:
        live.close()


def test_conditions_are_on_what_is_read() -> None:
    """A vector that is steered and read along two directions needs the statistics of the one it is read along."""
    model = digits_model()
    known, bare = personas(model)
    bare = replace(bare, trait=known.trait)
    cast = Cast(model, [replace(bare, read=known)], {"steer": {"evil": 1.0}})
    assert cast.steered(when={"evil": ">3"}).conditions == [("evil", ">", 3.0)]
    with pytest.raises(RequestError, match="no neutral statistics"):
        Cast(model, [replace(known, read=bare)], {"steer": {"evil": 1.0}}).steered(when={"evil": ">3"})


def test_prompts_that_are_edited_cannot_wait() -> None:
    model = digits_model()
    cast = Cast(model, personas(model), {"steer": {"evil": 1.0}}, positions="all")
    with pytest.raises(RequestError, match="prompts are read before"):
        cast.steered(when={"evil": ">1"})
