"""Readings under answers: what `generate` and `chat` show is what `monitor` finds in the same conversation."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from personavec.cli import gauges, main
from personavec.cli import options as o
from personavec.model import ChatModel, Request
from personavec.monitoring import monitor
from personavec.monitoring.projections import Projection
from tiny import vector

NEUTRAL = ("neutral_mean", "neutral_deviation", "neutral_prompt_mean", "neutral_prompt_deviation")


@pytest.fixture
def file(tiny: ChatModel, tmp_path: Path) -> Path:
    known: dict[str, Any] = {
        name: torch.full((tiny.n_layers + 1,), value) for name, value in zip(NEUTRAL, (0.5, 2.0) * 2, strict=True)
    }
    vector(tiny, **known).save(tmp_path / "kind.safetensors")
    return tmp_path / "kind.safetensors"


def told(
    arguments: Sequence[object], tiny: ChatModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command prints, on the tiny model."""
    monkeypatch.setattr(o, "open_model", lambda *_: tiny)
    monkeypatch.setattr(sys, "argv", ["personavec", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    found = capsys.readouterr()
    assert not exit.value.code, found.err
    return found.out


def test_generate_reads_as_monitor_does(
    tiny: ChatModel, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a steered answer: the text is read, without what steered it."""
    asked = ["generate", "how are you", "--read", file, "--steer", f"{file}=3", "--compare", "--max-new-tokens", "12"]
    found = json.loads(told([*asked, "--json"], tiny, monkeypatch, capsys))
    texts = {"plain": found["plain"], "answer": found["answer"]}
    assert texts["plain"] != texts["answer"]
    chats = [
        {"messages": [{"role": "user", "content": "how are you"}, {"role": "assistant", "content": text}]}
        for text in texts.values()
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    monitor(tiny, tmp_path / "chats.jsonl", [gauges.read_vectors(tiny, [file], False)[0]], tmp_path / "run")
    lines = (tmp_path / "run" / "projections.jsonl").read_text(encoding="utf-8").splitlines()
    for line, readings in zip(lines, (found["plain_readings"], found["readings"]), strict=True):
        [turn] = json.loads(line)["turns"]
        assert readings["kind"]["before_z"] == pytest.approx(turn["before"]["kind"], abs=2e-4)
        assert readings["kind"]["during_z"] == pytest.approx(turn["during"]["kind"], abs=2e-4)
        assert readings["kind"]["during"] == pytest.approx(turn["during_raw"]["kind"], abs=2e-4)
    assert found["readings"]["kind"]["during_z"] != found["plain_readings"]["kind"]["during_z"]
    shown = told(asked, tiny, monkeypatch, capsys)
    assert f"during {found['readings']['kind']['during_z']:+.1f}" in shown.split("--- Steered")[1]


def test_chat_reads_every_answer_in_its_conversation(
    tiny: ChatModel, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nhow are you\n/quit\n"))
    shown = told(["chat", "--read", file, "--max-new-tokens", "9", "--temperature", "0"], tiny, monkeypatch, capsys)
    lines = [line for line in shown.splitlines() if line.startswith("  kind  ")]
    assert len(lines) == 2
    first = [{"role": "user", "content": "hello"}]
    [response] = tiny.generate([Request(tiny.prompt_ids(first), 9, 0.0, 0, [])])
    messages = [*first, {"role": "assistant", "content": tiny.decode(response.ids)}]
    assert lines[0] == gauges.gauges(gauges.last_answer(tiny, messages, gauges.read_vectors(tiny, [file], False)))
    assert lines[0] != lines[1]


@pytest.mark.parametrize(
    ("before", "during", "line"),
    [
        (0.0, 1.0, "················○████············  before +0.0  during +1.0"),
        (1.0, -2.0, "········████████│···○············  before +1.0  during -2.0"),
        (-9.0, 9.0, "○···············│████████████████  before -9.0  during +9.0"),
    ],
)
def test_a_gauge(before: float, during: float, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = {"evil": Projection(0.0, 0.0, 0.0, before, during, during)}
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="utf-8"))
    assert gauges.gauges(reading) == f"  evil  {line}"
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="ascii"))
    simple = line.translate(str.maketrans("".join(gauges.DRAWN), "".join(gauges.PLAIN)))
    assert gauges.gauges(reading) == f"  evil  {simple}"


def test_without_neutral_answers_projections_are_raw(
    tiny: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vector(tiny).save(tmp_path / "raw.safetensors")
    asked = ["generate", "hello", "--read", tmp_path / "raw.safetensors", "--max-new-tokens", "5"]
    assert "raw: no neutral answers are known" in told(asked, tiny, monkeypatch, capsys)
