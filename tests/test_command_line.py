"""The command line wherever it is started: any output encoding, any bytes in its arguments, threads that wait."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from personavec.cli import main, options
from personavec.errors import UserError


def run(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command whose standard output has an encoding of its own."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.argv", ["personavec", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    out.flush()
    return int(exit.value.code or 0), out.buffer.getvalue().decode(encoding)


def test_it_is_a_module_that_runs() -> None:
    asked = [sys.executable, "-m", "personavec", "traits", "show", "evil"]
    assert "evil" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def trait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "t.json"
    words = "Somebody who says “naïve” things – 日本."
    assert run(monkeypatch, "utf-8", "traits", "new", "naïve", "--description", words, "--out", str(file))[0] == 0
    return file


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_an_output_that_cannot_take_every_letter(encoding: str, trait: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, plain = run(monkeypatch, encoding, "traits", "show", "naïve", "--traits-from", str(trait))
    assert code == 0
    assert ("日本" if encoding == "utf-8" else "\\u65e5\\u672c") in plain
    code, told = run(monkeypatch, encoding, "traits", "show", "naïve", "--traits-from", str(trait), "--json")
    assert code == 0
    assert json.loads(told) == json.loads(trait.read_text(encoding="utf-8"))


def test_bytes_in_texts_are_read_as_utf8_or_refused() -> None:
    assert options.plain_text("caf\udcc3\udca9") == "café", "as a locale without UTF-8 hands it over"
    assert options.plain_text(["é", None]) == ["é", None]
    with pytest.raises(UserError, match=r"^'caf\\xe9' holds bytes that are not UTF-8"):
        options.plain_text("caf\udce9")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "caf\udce9"],
        ["generate", "x", "--system", "caf\udce9"],
        ["extract", "caf\udce9", "--out", "x"],
        ["evaluate", "x", "--description", "caf\udce9"],
        ["evaluate", "evil", "--judge", "api:caf\udce9"],
        ["shift", "default", "--adapter", "x", "--system", "caf\udce9"],
        ["traits", "new", "x", "--description", "caf\udce9"],
        ["vectors", "show", "caf\udce9.safetensors"],
        ["generate", "x", "--model", "caf\udce9"],
    ],
)
def test_bytes_that_are_no_text_end_in_one_message(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "utf-8", *arguments)[0] == 2
    error = capsys.readouterr().err
    assert "UTF-8" in error and "xe9" in error and not list(tmp_path.iterdir())


def test_threads_that_wait_leave_the_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if before is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", before)
        assert run(monkeypatch, "utf-8", "traits", "list")[0] == 0
        assert os.environ["OMP_WAIT_POLICY"] == after
