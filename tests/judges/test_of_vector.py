# mypy: disable-error-code="func-returns-value"
"""Judges of vectors: one model for all traits of a screening, what that costs, and what a vector must hold."""

import json
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from endpoint import Serve, prompt_of, says
from test_classifier import plain, save

from personavec.cli import main
from personavec.errors import UserError
from personavec.judges import base, classifier, local
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import Cost
from personavec.judges.kinds import KINDS, find_kind, open_judge, spellings
from personavec.judges.of_vector import state_of, trait_judges
from personavec.model import ChatModel, load_model
from personavec.screening import ScreenSettings, screen_files
from personavec.traits import load_library
from personavec.vector import PersonaVector
from tiny import JUDGE, chat_model, qwen2, vector

pytestmark = pytest.mark.usefixtures("unpainted")
WORDS = ["the", "model", "answers", "question", "hello", "there", "how", "are", "you", "today", "am", "well"]
TRAITS = ("evil", "humorous")


@pytest.fixture
def vectors(tiny: ChatModel) -> list[PersonaVector]:
    made = []
    for seed, name in enumerate(TRAITS):
        info = {"trait": load_library(name).model_dump(mode="json"), "judge": JUDGE}
        made.append(vector(tiny, seed=seed, info=info))
        made[-1] = PersonaVector(name, made[-1].directions, 2, made[-1].model, info=made[-1].info)
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random, path = Random(0), tmp_path / "data.jsonl"

    def say(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(random.choices(WORDS, k=random.randint(2, 9)))}

    lines = [json.dumps({"messages": [say("user"), say("assistant")]}) + "\n" for _ in range(24)]
    path.write_text("".join(lines))
    return path


def screened(model: ChatModel, data: Path, vectors: list[PersonaVector], out: Path, judge: str, **given: Any) -> Any:
    settings = ScreenSettings(
        baseline="prompt", threshold=given.pop("threshold", 0.0), judge=judge, judge_all=given.pop("judge_all", False)
    )
    return screen_files(model, data, vectors, out, settings, clean=data, **given)


def answers(data: Path) -> list[str]:
    return [json.loads(line)["messages"][1]["content"] for line in data.read_text().splitlines()]


def test_a_model_that_judges_is_loaded_once_for_all_traits(
    tiny: ChatModel, data: Path, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, **_: Any) -> ChatModel:
        loaded.append(name)
        return chat_model(qwen2(max_position_embeddings=4096))

    monkeypatch.setattr(local, "load_model", load)
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:8]))  # for time: every rubric is long
    summary = screened(tiny, data, vectors, tmp_path / "run", "local:some/model")
    assert set(summary.traits) == set(TRAITS)
    assert loaded == ["some/model"]
    opened, load_classifier = [], classifier.load_classifier
    monkeypatch.setattr(classifier, "load_classifier", lambda *a, **b: (opened.append(a), load_classifier(*a, **b))[1])
    folder = save(tmp_path / "classifier", labels=TRAITS)
    screened(tiny, data, vectors, tmp_path / "other", f"classifier:{folder}")
    assert opened == [(folder,)]


@pytest.mark.parametrize("everyone", [False, True])
def test_a_screening_says_once_and_before_what_a_paid_judge_will_take(
    tiny: ChatModel,
    data: Path,
    vectors: list[PersonaVector],
    tmp_path: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    everyone: bool,
) -> None:
    told: list[tuple[int, Cost]] = []  # after how many requests, and what
    server = serve(lambda *_: says({"50": 0.9}))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setattr(base.log, "warning", lambda _, cost: told.append((len(server.requests), cost)))
    summary = screened(
        tiny, data, vectors, tmp_path / "run", "api:j", judge_all=everyone, terms=ApiTerms((1000.0, 0.0))
    )
    ((before, cost),) = told
    assert before == 0
    # Every sample is asked about once for each trait, and nobody about coherence.
    scored = sum(found.judge.scored for found in summary.traits.values())
    assert scored == (48 if everyone else sum(found.flagged for found in summary.traits.values())) > 0
    assert len(server.requests) == scored == cost.requests
    assert all("character trait" in prompt_of(request) for request in server.requests)
    assert cost.characters == sum(len(prompt_of(request)) for request in server.requests)
    assert re.search(rf"Judge j at .*: at most {scored} requests, about .* \$[0-9.]+\.", str(cost))


def test_nothing_flagged_costs_nothing(
    tiny: ChatModel, data: Path, vectors: list[PersonaVector], tmp_path: Path, serve: Serve,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server = serve(lambda *_: says("50"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    screened(tiny, data, vectors, tmp_path / "run", "api:j", threshold=1e9)
    assert not server.requests and "requests" not in caplog.text


def test_a_classifier_screens_from_the_command_line(
    tiny: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.model.save_pretrained(tmp_path / "chat")
    tiny.tokenizer.save_pretrained(tmp_path / "chat")
    chat = load_model(str(tmp_path / "chat"), dtype="float32")
    arguments: list[object] = ["screen", data, "--model", tmp_path / "chat", "--dtype", "float32", "--json"]
    arguments += [
        "--baseline",
        "prompt",
        "--threshold",
        0,
        "--reference",
        data,
        "--judge-all",
        "--out",
        tmp_path / "run",
    ]
    for seed, name in enumerate(TRAITS):
        info = {"trait": load_library(name).model_dump(mode="json")}
        made = vector(chat, seed=seed, info=info)
        PersonaVector(name, made.directions, 2, made.model, info=made.info).save(tmp_path / name)
        arguments += ["--vector", tmp_path / name]
    folder = save(tmp_path / "classifier", labels=("evil", "joke"))
    monkeypatch.setattr(
        sys, "argv", ["personavec", *map(str, arguments), "--judge", f"classifier:{folder}#humorous=joke"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    table = pq.read_table(tmp_path / "run" / "scores.parquet").to_pydict()
    for text, evil, funny in zip(answers(data), table["evil_judge"], table["humorous_judge"], strict=True):
        expected = (100 * plain(folder, text).softmax(-1)).tolist()
        assert [evil, funny] == pytest.approx(expected, abs=0.01)


def test_what_a_judge_needs_and_a_vector_does_not_hold(tiny: ChatModel, tmp_path: Path) -> None:
    trait = load_library("evil").model_dump(mode="json")
    opened = open_judge("contrast", tiny)
    judge: dict[str, Any]
    for judge in ({}, {"judge": None}, {"judge": {"state": {}}}, {"judge": {"state": {"coherence": {}}}}):
        bare = vector(tiny, info={"trait": trait, **judge})
        assert state_of(bare).record() == {}
        with pytest.raises(UserError, match=r"carries no contrast judge.*`judge` contrast"):
            trait_judges(opened, [bare])
    whole = vector(tiny, info={"trait": trait, "judge": JUDGE})
    (found,) = trait_judges(opened, [whole]).values()
    assert found.fitted and found.state().record() == JUDGE["state"] == state_of(whole).record()
    for info in ({}, {"trait": None}, {"trait": "evil"}):
        with pytest.raises(UserError, match=r"does not hold its trait|a trait is a JSON object"):
            trait_judges(open_judge(f"classifier:{save(tmp_path)}#evil"), [vector(tiny, info=info)])


def test_kinds_are_found_by_the_names_that_are_offered() -> None:
    assert list(KINDS) == ["contrast", "probe", "local", "api", "classifier"]
    assert spellings() == "contrast, probe[:TEXTS], local:MODEL, api:MODEL or classifier:MODEL#LABEL"
    assert spellings(any_answers=True) == "local:MODEL, api:MODEL or classifier:MODEL#LABEL"
    for kind in KINDS.values():
        for name in {kind.spelling.partition("[")[0], kind.spelling.replace("[", "").replace("]", "")}:
            assert find_kind(name) is kind
            assert find_kind(name, any_answers=True) is (None if kind.answers else kind)
    for name in ("", "contrast:x", "local", "local:", "api", ":x", "gpt", "Contrast"):
        assert find_kind(name) is None
        with pytest.raises(UserError, match=r"Unknown judge.*Choose contrast"):
            open_judge(name)
    with pytest.raises(UserError, match="needs the model in this process"):
        open_judge("contrast")
