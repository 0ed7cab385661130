"""The tutorial is run as it is written: every block of shell and of Python, in order, in an empty folder.

In place of the default model stands a tiny one with random weights, and in place of the library's texts two kinds of
letters: all is done that the page does, and none of its figures mean anything.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import main
from personavec.model import default
from personavec.texts import contrastive
from tiny import causal_model, qwen2, tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "ten-minutes.md"
SHORTER = {  # what is added to a command, for time
    "extract": ["--max-new-tokens", "8", "--random-directions", "1"],
    "generate": ["--max-new-tokens", "8"],
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def small(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, a model that takes no time, and texts whose sides it can tell apart."""
    folder = str(tmp_path_factory.mktemp("model"))
    causal_model(qwen2(max_position_embeddings=2048)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    monkeypatch.setattr(default, "prepare_bundled", lambda _: folder)
    library = tmp_path_factory.mktemp("library")
    sides = {"positive": "hello there", "negative": "98 76 54 32"}
    texts = [
        {"question": f"Question {n}?", "answer": f"{says} {n}", "side": side}
        for n in range(20)
        for side, says in sides.items()
    ]
    (library / "optimistic.texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    monkeypatch.setattr(contrastive, "_LIBRARY", library)
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("small")
def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"bash", "python"}
    names: dict[str, Any] = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            monkeypatch.setattr(sys, "argv", [program, *arguments, *SHORTER.get(arguments[0], [])])
            with pytest.raises(SystemExit) as end:
                main()
            assert program == "personavec" and not end.value.code, capsys.readouterr().err
    left = {str(file) for file in Path().rglob("*.*") if file.is_file()}
    assert left >= {"runs/optimistic/report.html", "runs/watched/projections.jsonl", "runs/screened/kept.jsonl"}
    assert re.search(r"^[+-]\d\.\d  ", capsys.readouterr().out, re.MULTILINE), "a reading of each answer"
