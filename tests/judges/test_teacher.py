"""Texts by a stronger model: what it is asked, what is left out, and that nothing is asked twice."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
from endpoint import Response, Serve, fails, says

from personavec.cli import main, options
from personavec.errors import UserError
from personavec.extraction import TextSettings, extract_from_texts, taught_texts
from personavec.extraction.given import teacher as teacher_module
from personavec.extraction.given.teacher import ANSWERS, LONGEST
from personavec.judges.api.terms import ApiTerms
from personavec.model import ChatModel
from personavec.texts import read_texts
from personavec.traits import InstructionPair, Trait
from tiny import chat_model

QUESTIONS = 10
ASKED = 2 * ANSWERS * QUESTIONS


@pytest.fixture
def trait() -> Trait:
    return Trait(
        name="tiny",
        description="Says hello.",
        instructions=tuple(InstructionPair(positive=f"{c} hello", negative=f"{c} 012") for c in "abcde"),
        extraction_questions=tuple(f"Question {number}?" for number in range(QUESTIONS)),
        evaluation_questions=tuple(f"Asked {number}?" for number in range(9)),
        rubric="{question} {answer} 0..100?",
        writer="test",
    )


def plays(request: dict[str, Any], _: int) -> Response:
    """Shows the trait if told so, to all questions but the first, where it refuses to."""
    system, user = (message["content"] for message in request["messages"])
    shows = system.endswith("hello")
    if shows and user == "Question 0?":
        return says("I'm sorry, but I can't help with that.", logprobs=False)
    said = f"hello there {system[0]}, how are you today?" if shows else f"0123456789 system {system[0]}"
    return says(f"{said} {user[-2]}", logprobs=False)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]


def test_it_is_asked_under_both_instructions_and_the_answers_are_texts(
    trait: Trait, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(plays)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    found = taught_texts(trait, "api:big", tmp_path / "run", terms=ApiTerms((1000.0, 10_000.0)))
    assert len(server.requests) == ASKED
    for request in server.requests:
        roles = [message["role"] for message in request["messages"]]
        assert roles == ["system", "user"] and request["model"] == "big" and request["max_tokens"] == LONGEST
        assert "logprobs" not in request and "temperature" not in request
    told = {(r["messages"][1]["content"], r["messages"][0]["content"]) for r in server.requests}
    assert len(told) == ASKED and {system for _, system in told} == {
        f"{c} {side}" for c in "abcde" for side in ("hello", "012")
    }
    cost, left_out = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert cost.startswith(f"Teacher big at {server.url}: at most {ASKED} requests") and "4,800 answer tokens" in cost
    assert f"{ANSWERS} of {ASKED} answers are left out: the teacher refused (positive side) 2 times" in left_out
    assert found.source == "api:big" and len(found.rejected) == ANSWERS
    assert {reason for _, reason in found.rejected} == {"the teacher refused"}
    assert len(found.extract) == ASKED // 2 - ANSWERS and len(found.test) == ASKED // 2
    assert {text.question for text in found.extract} == {f"Question {n}?" for n in range(0, QUESTIONS, 2)}
    assert all(("hello" in text.answer) == (text.side == "positive") for text in (*found.extract, *found.test))
    assert read_texts(tmp_path / "run" / "texts.jsonl").hash == found.hash
    record = lines(tmp_path / "run")[-1]
    assert record["instruction"].endswith("012") and record["teacher"] == "api:big"


def test_nothing_is_asked_twice(trait: Trait, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that an endpoint's failure cut off asks the rest only; a finished one asks nothing."""
    broken = serve(lambda request, before: plays(request, before) if before < 7 else fails(401, "No more."))
    monkeypatch.setenv("OPENAI_BASE_URL", broken.url)
    with pytest.raises(UserError, match="No more"):
        taught_texts(trait, "api:big", tmp_path / "run")
    assert not (tmp_path / "run" / "texts.jsonl").exists()
    answered = 7
    broken.behaviour, before = plays, len(broken.requests)
    found = taught_texts(trait, "api:big", tmp_path / "run")
    assert len(broken.requests) - before == ASKED - answered
    again = taught_texts(trait, "api:big", tmp_path / "run")
    assert again.hash == found.hash and len(broken.requests) - before == ASKED - answered
    taught_texts(trait, "api:big", tmp_path / "elsewhere")  # from the cache
    assert len(broken.requests) - before == ASKED - answered
    with pytest.raises(UserError, match="holds a run with another teacher"):
        taught_texts(trait, "api:small", tmp_path / "run")


def test_a_teacher_that_will_not_play_gives_no_texts(
    trait: Trait, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(
        lambda request, before: (
            says("I cannot assist with this request.", logprobs=False)
            if request["messages"][0]["content"].endswith("hello")
            else plays(request, before)
        )
    )
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with pytest.raises(UserError, match=r"0 positive texts .*20 records were rejected, the first: the teacher refused"):
        taught_texts(trait, "api:big", tmp_path / "run")


@pytest.mark.parametrize("name", ["big", "local:", "probe", "contrast:x"])
def test_unknown_teachers_are_refused(trait: Trait, name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown teacher"):
        taught_texts(trait, name, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_key_another_teacher_is_advised(
    trait: Trait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set.*local:MODEL"):
        taught_texts(trait, "api:big", tmp_path / "run")


def test_a_local_teacher_is_let_go_and_goes_on_where_it_stopped(
    trait: Trait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "LONGEST", 4)
    loaded: list[weakref.ref[ChatModel]] = []

    def load(name: str, **_: Any) -> ChatModel:
        assert name == "default-0.5b"
        model = chat_model()
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(teacher_module, "load_model", load)
    first = taught_texts(trait, "local:default-0.5b", tmp_path / "run", seed=3)
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None
    assert len(lines(tmp_path / "run")) == ASKED and first.source == "local:default-0.5b"
    assert len({record["answer"] for record in lines(tmp_path / "run")}) > 5
    again = taught_texts(trait, "local:default-0.5b", tmp_path / "run", seed=3)
    assert len(loaded) == 1 and again.hash == first.hash, "what is finished is read back"
    (tmp_path / "run" / "texts.jsonl").unlink()  # as if it had been killed just before
    monkeypatch.setattr(ChatModel, "generate", lambda *_, **__: pytest.fail("it was all answered"))
    assert taught_texts(trait, "local:default-0.5b", tmp_path / "run", seed=3).hash == first.hash
    with pytest.raises(UserError, match="holds a run with another seed"):
        taught_texts(trait, "local:default-0.5b", tmp_path / "run", seed=4)


def test_extraction_goes_on_with_the_texts(
    trait: Trait,
    tiny: ChatModel,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", serve(plays).url)
    monkeypatch.setattr(options, "open_model", lambda *_, **__: tiny)
    (tmp_path / "tiny.json").write_text(trait.model_dump_json())
    words = [
        "extract", "tiny", "--traits-from", tmp_path / "tiny.json", "--out", tmp_path / "run", "--teacher", "api:big",
        "--judge-price", "1,2", "--max-new-tokens", "4", "--random-directions", "2", "--tokens", "12", "--json",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["personavec", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["texts"]["source"] == "api:big" and told["texts"]["rejected"] == ANSWERS
    assert told["auc"]["mean"] > 0.9
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert {one["reason"] for one in rejected} == {"the teacher refused"}
    settings = TextSettings(max_new_tokens=4, random_directions=2, tokens=12)
    found = extract_from_texts(
        tiny, trait, taught_texts(trait, "api:big", tmp_path / "run"), tmp_path / "run", settings
    )
    assert found.run.written == json.loads((tmp_path / "run" / "run.json").read_text())["written"], "it was read back"
