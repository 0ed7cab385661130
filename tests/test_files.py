# mypy: disable-error-code="func-returns-value"
"""Files are whole or absent, whatever happens while they are written; a run folder has one owner."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personavec.errors import UserError
from personavec.files import (
    SUMMARY,
    JsonLines,
    RunFolder,
    check_utf8,
    once,
    printable,
    replacing,
    write_atomic,
    write_json,
)
from personavec.stats.estimate import Estimate

RECORDS: list[dict[str, Any]] = [{"id": 1, "text": "a\nb"}, {"id": 2, "text": "größer ✓ \u2028"}, {"id": 3}]


def full_disk(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_atomic_is_on_the_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.read_text()), fsync(fd)))
    write_atomic(path, "new")
    assert synced == ["old"] and path.read_text() == "new"


@pytest.mark.parametrize("error", [full_disk, KeyboardInterrupt])
def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*args: Any) -> None:
        if error is full_disk:
            full_disk()
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError if error is full_disk else error) as caught:
        write_atomic(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    if error is full_disk:
        assert "No space left on device" in caught.value.problem and str(path) in caught.value.problem
        assert "space" in caught.value.advice


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    inside = tmp_path / "file" / "inside"  # a file is where the folder should be
    for write in (
        lambda: write_atomic(inside, "x"),
        lambda: write_json(inside, {}),
        lambda: JsonLines(inside).append({}),
        lambda: RunFolder(inside, {}).__enter__(),
        lambda: RunFolder(tmp_path / "file", {}).__enter__(),
    ):
        with pytest.raises(UserError, match=r"Cannot write .*file"):
            write()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        for write in (
            lambda: write_atomic(tmp_path / "x", "x"),
            lambda: JsonLines(tmp_path / "x").append({}),
            lambda: RunFolder(tmp_path / "x", {}).__enter__(),
            lambda: RunFolder(tmp_path, {}).__enter__(),
        ):
            with pytest.raises(UserError, match=r"Cannot write .*ermission"):
                write()
    finally:
        tmp_path.chmod(0o700)


def test_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without permission, for those who run tests as root."""

    def deny(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", deny)
    monkeypatch.setattr(Path, "open", deny)
    monkeypatch.setattr(os, "open", deny)
    for write in (
        lambda: write_atomic(tmp_path / "x", "x"),
        lambda: JsonLines(tmp_path / "x").append({}),
        lambda: RunFolder(tmp_path / "x", {}).__enter__(),
    ):
        with pytest.raises(UserError, match=r"Cannot write .*Permission denied"):
            write()


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="Cannot write"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "new"


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ü": [1.5, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": [1.5, None]}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "x.json", {"score": value})
        with pytest.raises(ValueError, match="not JSON compliant"):
            JsonLines(tmp_path / "lines").append({"score": value})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": [1.5, None]}
    assert not (tmp_path / "lines").exists()


def test_lines(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "deep" / "log.jsonl")
    assert list(log) == []
    log.append(RECORDS[0])
    log.append(*RECORDS[1:])
    assert list(log) == list(JsonLines(log.path)) == RECORDS
    assert len(log.path.read_bytes().split(b"\n")) == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.integers(0, 74))
def test_torn_last_line(tmp_path: Path, left: int) -> None:
    """A writer killed at any byte: what was whole is kept, and what follows is appended to a clean end."""
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = JsonLines(path)
    log.append(*RECORDS)
    blob = path.read_bytes()
    assert len(blob) == 74
    path.write_bytes(blob[:left])
    whole = blob[:left].count(b"\n")
    assert list(log) == RECORDS[:whole]
    log.append({"id": 9})
    assert list(log) == [*RECORDS[:whole], {"id": 9}]


def test_line_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for bad in (b"{'id': 1}\n", b"\xff\xfe\n", b"\n"):
        path.write_bytes(b'{"id": 0}\n' + bad + b'{"id": 2}\n')
        with pytest.raises(UserError, match=r"log\.jsonl, line 2: not JSON"):
            list(JsonLines(path))
        assert len(path.read_bytes().splitlines()) == 3  # nothing is cut off then


def test_full_disk_while_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.append(RECORDS[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=r"Cannot write .*No space left"):
            log.append(RECORDS[1])
    assert next(iter(log)) == RECORDS[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device() -> None:
    with pytest.raises(UserError, match="Cannot write /dev/full: No space left"):
        JsonLines("/dev/full").append({})


def test_run_folder(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"trait": "kind", "layers": (1, 2), "seed": 0}
    with RunFolder(tmp_path / "run", arguments) as run:
        assert run / "x.json" == tmp_path / "run" / "x.json"
        assert json.loads((run / "arguments.json").read_text()) == {"trait": "kind", "layers": [1, 2], "seed": 0}
    with RunFolder(tmp_path / "run", arguments):  # again, with the same arguments
        pass


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"seed": 1}, "seed"), ({"seed": 1, "trait": "evil"}, "seed, trait"), ({"new": 3}, "new")],
)
def test_run_folder_with_other_arguments(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"trait": "kind", "seed": 0}
    with RunFolder(tmp_path, arguments):
        pass
    with (
        pytest.raises(UserError, match=f"holds a run with another {named}\\."),
        RunFolder(tmp_path, arguments | changed),
    ):
        pass
    with RunFolder(tmp_path, arguments):  # and the refusal has let go of the folder
        assert json.loads((tmp_path / "arguments.json").read_text()) == arguments


@pytest.mark.parametrize("text", ["{", "", "[]", "\xff"])
def test_run_folder_that_was_tampered_with(tmp_path: Path, text: str) -> None:
    (tmp_path / "arguments.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"arguments\.json is damaged"), RunFolder(tmp_path, {}):
        pass


HOLD = """
import sys
from personavec.files import RunFolder
with RunFolder(sys.argv[1], {"a": 1}):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_run_folder_has_one_owner(tmp_path: Path) -> None:
    """Also across processes, and it is free again when its owner was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match="Another process is writing"), RunFolder(tmp_path, {"a": 1}):
            pass
        owner.kill()
        owner.wait()
    with RunFolder(tmp_path, {"a": 1}):
        pass


def test_a_run_is_finished_when_it_has_a_summary(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}) as run:
        assert run.finished(Path.exists) is None
        (tmp_path / SUMMARY).write_text("{}")
        assert run.finished(lambda folder: folder) == tmp_path
        with pytest.raises(ZeroDivisionError):  # what reads it may refuse it
            run.finished(lambda folder: 1 // 0)


def test_a_part_is_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> list[Estimate]:
        made.append(1)
        return [Estimate(1.0, 0.5, 1.5, 3)]

    path = tmp_path / "deep" / "part.json"
    for _ in range(2):
        assert once(path, list[Estimate], make) == [Estimate(1.0, 0.5, 1.5, 3)]
    assert len(made) == 1 and json.loads(path.read_text())[0]["n"] == 3
    for damaged in ("[", '[{"mean": 1}]'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"part\.json is damaged"):
            once(path, list[Estimate], make)


def test_a_part_that_cannot_be_made_is_made_the_next_time(tmp_path: Path) -> None:
    def fails() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "part.json", int, fails)
    assert once(tmp_path / "part.json", int, lambda: 3) == 3


def test_run_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, {}):
        raise KeyboardInterrupt
    with RunFolder(tmp_path, {}):
        pass


def test_a_run_that_did_not_begin_claims_no_folder(tmp_path: Path) -> None:
    def fails(arguments: dict[str, int], *, work: bool = False) -> None:
        with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, arguments) as run:
            if work:
                (run / "parts").mkdir()
                (run / "parts" / "first").touch()
            raise KeyboardInterrupt

    fails({"a": 1})
    fails({"a": 2}, work=True)
    for a in (3, 2):
        with pytest.raises(UserError if a == 3 else KeyboardInterrupt), RunFolder(tmp_path, {"a": a}):
            raise KeyboardInterrupt


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b")
    for path in (tmp_path / "data.csv", tmp_path / "data.csv" / "run"):
        with pytest.raises(UserError, match="a file is where a folder should be"), RunFolder(path, {}):
            pass


def test_bytes_that_are_not_utf8_are_written_as_their_escapes(tmp_path: Path) -> None:
    bad, whole, half = os.fsdecode(b"caf\xe9"), "caf\udcc3\udca9", "\ud83d"
    assert [printable(text) for text in (bad, whole, half, "é日")] == ["caf\\xe9", "café", "\\ud83d", "é日"]
    write_json(tmp_path / "a.json", {"out": bad, half: [whole, 'a"\\']})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"out": "caf\\xe9", "\\ud83d": ["café", 'a"\\']}
    log = JsonLines(tmp_path / "a.jsonl")
    log.append({"out": bad})
    assert list(log) == [{"out": "caf\\xe9"}]
    write_atomic(tmp_path / "a.html", f"<p>{bad} é")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<p>caf\\xe9 é"
    for _ in range(2):  # the same arguments are the same run
        with RunFolder(tmp_path / bad, {"data": bad}) as folder:
            write_json(folder / "run.json", {})
    with pytest.raises(UserError, match=r"The path .*caf\\xe9 is not UTF-8"):
        check_utf8(tmp_path / bad)
    check_utf8(tmp_path / whole if sys.getfilesystemencoding() == "ascii" else tmp_path / "café")


def test_a_full_disk_is_told_whatever_a_library_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RuntimeError, match="iostream"), RunFolder(tmp_path / "run", {}):
        raise RuntimeError("basic_ios::clear: iostream error")  # there is room: the error is another
    assert not (tmp_path / "run" / ".space").exists()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device") as refused, RunFolder(tmp_path / "run", {}):
        raise RuntimeError("basic_ios::clear: iostream error")
    assert isinstance(refused.value.__cause__, RuntimeError)
    with pytest.raises(UserError, match="another thing"), RunFolder(tmp_path / "run", {}):
        raise UserError("another thing", "")


def test_a_full_disk_is_told_from_another_error_by_what_the_system_said(tmp_path: Path) -> None:
    """However little room there is for the probe."""
    with pytest.raises(UserError, match="elsewhere: No space left") as refused, RunFolder(tmp_path / "run", {}):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "elsewhere"))
        except OSError as error:
            raise RuntimeError("cannot save") from error
    assert isinstance(refused.value.__cause__, RuntimeError)
    said = f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"  # as safetensors does
    with pytest.raises(UserError, match="run: No space left"), RunFolder(tmp_path / "run", {}):
        raise RuntimeError(said)
    for other in (OSError(errno.EIO, "Input/output error"), ValueError("no number")):
        with pytest.raises(type(other), match=str(other.args[-1])), RunFolder(tmp_path / "run", {}):
            raise other
