"""Monitoring: what is read before an answer, and during it."""

import csv
import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.monitoring import monitor, project
from personavec.monitoring.projections import WINDOW
from personavec.monitoring.result import MonitorRun
from tiny import CALLS, CHATML, causal_model, chat_model, plain_states, qwen2, tokenizer, vector

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OPENS_THOUGHT = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.mark.parametrize("template", [CHATML, OPENS_THOUGHT])
@pytest.mark.parametrize("said", ["hello there", "<think>\nhm, the user\n</think>\n\nhello there"])
def test_before_is_read_at_the_end_of_the_prompt(template: str, said: str) -> None:
    """Also where a thought stands between the prompt and the answer, which is not read."""
    model = ChatModel(causal_model(qwen2()), tokenizer(template, added=["<think>", "</think>"]), "tiny")
    question = [{"role": "user", "content": "hi"}]
    prompt = model.prompt_ids(question)
    ids = [*prompt, *model.template.answer_ids(said)]
    if template == OPENS_THOUGHT:
        if "<think>" in said:
            ids = [*prompt, *model.template.answer_ids(said.removeprefix("<think>\n"))]
        else:  # an empty thought
            ids = [*prompt, *model.template.answer_ids("\n</think>\n\n"), *model.template.answer_ids(said)]
    spoken = len(model.template.answer_ids("hello there"))
    persona = vector(model)
    along = plain_states(model.model, model.blocks.layers, ids)[0][persona.layer] @ persona.unit(persona.layer)
    [[seen]] = project(model, [[*question, {"role": "assistant", "content": said}]], [persona])
    torch.testing.assert_close(seen["kind"].before, float(along[len(prompt) - 1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["kind"].during, float(along[-spoken:].mean()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("words", [1, 40])
def test_the_highest_passage_is_a_window_of_the_answer(model: ChatModel, words: int) -> None:
    said = " ".join(["hello", "you", "are", "there", "my", "friend"] * 9)[: 6 * words].strip()
    ids = [*model.prompt_ids([USER]), *model.template.answer_ids(said)]
    count, persona = len(model.template.answer_ids(said)), vector(model)
    along = plain_states(model.model, model.blocks.layers, ids)[0][persona.layer] @ persona.unit(persona.layer)
    tokens = along[-count:].tolist()
    size = min(WINDOW, count)
    windows = [sum(tokens[i : i + size]) / size for i in range(count - size + 1)]
    [[seen]] = project(model, [[USER, {"role": "assistant", "content": said}]], [persona])
    assert seen["kind"].highest == pytest.approx(max(windows), abs=1e-4)
    assert (count > WINDOW) == (words > 1)


USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello there"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
CALLING = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "5"},
    ANSWER,
]
CHATS: Any = [
    [USER, ANSWER],
    CALLING,
    [{"role": "assistant", "content": "welcome"}, USER, ANSWER],
    [USER, {**ANSWER, "weight": 0}, USER, ANSWER],
]


def chats(path: Path) -> Path:
    """The conversations and one record that is none, in the format that the name says."""
    rows: list[Any] = [{"messages": chat} for chat in CHATS] + [{"messages": [USER]}]
    texts = [{"messages": json.dumps(row["messages"])} for row in rows]
    if path.name == "chats.parquet":
        pq.write_table(pa.Table.from_pylist(texts), path)
    elif path.name == "chats.csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, ["messages"])
            writer.writeheader()
            writer.writerows(texts)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if path.suffix == ".zst":
            path.write_bytes(zstd.compress(lines))
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(lines))
        else:
            path.write_bytes(lines)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return chat_model(chat_template=CALLS)


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz", "chats.jsonl.zst", "chats.csv", "chats.parquet"])
def test_every_format_of_data_is_read(model: ChatModel, name: str, tmp_path: Path) -> None:
    run = monitor(model, chats(tmp_path / name), [vector(model)], tmp_path / "out")
    assert (run.records, run.scored, run.rejected) == (5, 4, 1)
    scored, [bad] = lines(tmp_path / "out" / "projections.jsonl"), lines(tmp_path / "out" / "rejected.jsonl")
    assert [[turn["index"] for turn in record["turns"]] for record in scored] == [[0], [1], [1], [0, 1]]
    assert {turn["text"] for record in scored for turn in record["turns"]} == {"hello there"}
    first = 2 if name.endswith("csv") else 1
    assert [record["line"] for record in scored] == [*range(first, first + 4)]
    assert bad["line"] == first + 4 and bad["reason"].startswith("no assistant turn")
    assert json.loads(bad["raw"])["messages"]
    [alone] = project(model, [CHATS[0]], [vector(model)])
    assert scored[0]["turns"][0]["during_raw"]["kind"] == round(alone[0]["kind"].during, 4)
    assert "<html" in (tmp_path / "out" / "report.html").read_text()


def test_calls_of_tools_and_greetings_have_no_projections(model: ChatModel) -> None:
    seen = project(model, CHATS, [vector(model)])
    assert [[bool(turn) for turn in chat] for chat in seen] == [[True], [False, True], [False, True], [True, True]]
    with pytest.raises(UserError, match="no assistant turn"):
        project(model, [[USER]], [vector(model)])


def test_monitoring_that_was_cut_off_goes_on(model: ChatModel, tmp_path: Path) -> None:
    data, persona = [chats(tmp_path / "chats.jsonl"), chats(tmp_path / "chats.csv")], [vector(model)]
    monitor(model, data, persona, tmp_path / "whole")
    whole = lines(tmp_path / "whole" / "projections.jsonl")
    assert [record["index"] for record in whole] == [0, 1, 2, 3, 5, 6, 7, 8]
    run = monitor(model, data, persona, tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    for name in ("projections.jsonl", "rejected.jsonl"):  # as a process that is killed leaves them
        text = (tmp_path / "out" / name).read_text()
        (tmp_path / "out" / name).write_text(text[: len(text) // 2])
    again = monitor(model, data, persona, tmp_path / "out")
    found = lines(tmp_path / "out" / "projections.jsonl")
    assert [record["index"] for record in found] == [record["index"] for record in whole]
    assert (again.records, again.scored, again.rejected) == (run.records, run.scored, run.rejected)
    assert f" of {data[1]}" in (tmp_path / "out" / "report.html").read_text()


def test_a_finished_run_is_read_back(model: ChatModel, tmp_path: Path) -> None:
    data, persona, out = chats(tmp_path / "chats.jsonl"), [vector(model)], tmp_path / "out"
    run = monitor(model, data, persona, out)
    assert MonitorRun.read(out) == run and json.loads((out / "run.json").read_text())["read"] == 5
    before = (out / "run.json").stat().st_mtime_ns
    assert monitor(model, data, persona, out) == run
    assert (out / "run.json").stat().st_mtime_ns == before
    old = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({key: old[key] for key in old if key != "schema_version"}))
    with pytest.raises(UserError, match="another version"):
        monitor(model, data, persona, out)


def test_a_line_of_another_form_is_named(model: ChatModel, tmp_path: Path) -> None:
    data, out = chats(tmp_path / "chats.jsonl"), tmp_path / "out"
    monitor(model, data, [vector(model)], out)
    (out / "run.json").unlink()
    with (out / "projections.jsonl").open("a") as log:
        log.write('{"index": 9}\n')
    with pytest.raises(UserError, match=r"projections\.jsonl, line 5: not written by this version"):
        monitor(model, data, [vector(model)], out)


def test_the_farthest_answer_is_named(model: ChatModel, tmp_path: Path) -> None:
    persona = vector(model)
    neutral = [torch.zeros(model.n_layers + 1), torch.full((model.n_layers + 1,), 0.01)]
    known = replace(persona, neutral_mean=neutral[0], neutral_deviation=neutral[1])
    run = monitor(model, chats(tmp_path / "chats.jsonl"), [known], tmp_path / "out")
    scored = lines(tmp_path / "out" / "projections.jsonl")
    values = [turn["during"]["kind"] for record in scored for turn in record["turns"]]
    peak = run.largest["kind"]
    assert (peak.z, peak.turns, peak.above_2) == (max(values), 5, sum(z > 2 for z in values))
    turns = {turn["index"]: turn for turn in scored[peak.line - 1]["turns"]}
    assert turns[peak.turn]["during"]["kind"] == peak.z
    raw = scored[0]["turns"][0]
    assert raw["during"]["kind"] == pytest.approx(raw["during_raw"]["kind"] / 0.01, abs=0.01)
    assert raw["before"] == {"kind": None}
    assert monitor(model, chats(tmp_path / "chats.jsonl"), [persona], tmp_path / "raw").largest == {}
