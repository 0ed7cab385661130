"""What the server says of its vectors."""

from dataclasses import replace
from typing import Any

import pytest
from serving_samples import Live, digits_model, personas

from personavec.info import VectorInfo
from personavec.interventions import steering
from personavec.model import ChatModel, Request
from personavec.monitoring import project
from personavec.operations import ABLATE, ADD, CAP
from personavec.serving.facts import facts
from personavec.serving.persona import Cast


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return digits_model()


def pushes(model: ChatModel, **options: Any) -> dict[str, dict[str, float | None]]:
    told: Any = facts(Cast(model, personas(model), {}, **options), model.id)["data"]
    return {one["trait"]: one["push"] for one in told}


def test_a_push_is_told_where_it_can_be(model: ChatModel) -> None:
    evil, humorous = personas(model)
    assert pushes(model) == {
        "evil": {"evil": pytest.approx(float(evil.at(2).norm()), rel=1e-5), "humorous": None},
        "humorous": {"evil": 0.0, "humorous": pytest.approx(float(humorous.at(3).norm()), rel=1e-5)},
    }
    along = float(humorous.at(3) @ evil.unit(2))
    assert pushes(model, layers=3)["humorous"]["evil"] == 0.0
    at_two: Any = facts(Cast(model, [evil, humorous.using(2)], {}), model.id)
    assert at_two["data"][1]["push"]["evil"] == pytest.approx(float(humorous.at(2) @ evil.unit(2)), rel=1e-5) != along
    for options in ({"layers": "all"}, {"positions": "prompt"}):
        assert set(pushes(model, **options)["evil"].values()) == {None}


def test_less_the_push_a_steered_answer_reads_as_its_text(model: ChatModel) -> None:
    evil, humorous = personas(model)
    live = Live(model, [evil, humorous])
    try:
        told = live.chat(max_tokens=20, seed=3, persona={"steer": {"evil": 1.5, "humorous": -1}})
        status, known, _ = live.ask("GET", "/v1/persona/vectors")
    finally:
        live.close()
    edits = [*steering(evil, 1.5), *steering(humorous, -1.0)]
    prompt = [{"role": "user", "content": "hello"}]
    text = model.decode(model.generate([Request(model.prompt_ids(prompt), 20, seed=3, interventions=edits)])[0].ids)
    assert text == told["choices"][0]["message"]["content"]
    [[seen]] = project(model, [[*prompt, {"role": "assistant", "content": text}]], [evil])
    found = told["persona"]["choices"][0]
    push = 1.5 * known["data"][0]["push"]["evil"] - known["data"][1]["push"]["evil"]
    assert status == 200 and abs(push) > 0.1
    assert found["summary"]["evil"]["mean"] - push == pytest.approx(seen["evil"].during, abs=1e-4)
    assert found["prompt"]["evil"]["value"] - push == pytest.approx(seen["evil"].before, abs=1e-4)


def test_what_is_known_is_told(model: ChatModel) -> None:
    trait: Any = {"description": "Means harm.", "opposite": "kind", "evaluation_questions": ["Who are you?"] * 9}
    evil, humorous = personas(model)
    evil = replace(evil, info=VectorInfo(coherent_range=(-1.0, 2.0), trait=trait))
    default: Any = {ADD.option: {"evil": -0.5}, CAP.option: {"evil": 2.0}, ABLATE.option: {"humorous": None}}
    told: Any = facts(Cast(model, [evil, humorous], default), "a-model")
    assert told["load_as"] == "a-model"
    assert told["default"] == {"steer": {"evil": -0.5}, "cap": {"evil": 2.0}, "ablate": {"humorous": None}}
    first, second = told["data"]
    assert (first["description"], first["opposite"], len(first["examples"])) == ("Means harm.", "kind", 3)
    assert first["coherent_range"] == [-1.0, 2.0] and second["coherent_range"] is None
    assert first["normal"]["answer"] == pytest.approx((0.1, 0.5)) and second["normal"]["token"] is None
    assert not first["ready"] and first["auc"] is None and first["effect"] is None
