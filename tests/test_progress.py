"""Progress on standard error: plain lines, a bar on a terminal, silence on request."""

import os
import subprocess
import sys

import pytest

from personavec import progress as module
from personavec.progress import progress


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSONAVEC_QUIET", raising=False)


def test_lines_are_few_and_say_how_far(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("Generating", 40, "rollouts") as job:
        for _ in range(20):
            now += 0.5
            job.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Generating: 20 of 40 rollouts, 4 a second, 0:05 left",
        "Generating: 40 of 40 rollouts, 4 a second, 0:00 left",
        "Generating: 40 of 40 rollouts, 4 a second, took 0:10",
    ]


def test_bytes_and_no_total(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("Downloading", unit="B") as job:
        job.advance(3_000_000_000)
        now += 4000
    assert capsys.readouterr().err == "Downloading: 3.0 GB, 750.0 kB/s, took 1:06:40\n"


def test_no_time_left_is_told_of_the_first_of_many_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short answer that ends first would say that an hour is left, when its batch is nearly done."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("Generating", 400, "rollouts", together=32) as job:
        for done in (1, 31, 32, 32):  # the first of a batch, the rest of it, two whole ones
            now += 30
            job.advance(done)
        now += 6
        assert job.left == 380 - 6, "what has gone by since is taken off"
    *lines, _ = capsys.readouterr().err.splitlines()
    assert ["left" in line for line in lines] == [False, False, True, True]
    assert lines[-1] == "Generating: 96 of 400 rollouts, 0.8 a second, 6:20 left"


def test_a_quarter_is_enough_to_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "quiet", True)
    with progress("Generating", 40, "rollouts", together=64) as job:
        job.advance(9)
        assert job.left is None
        job.advance()
        assert job.left is not None


def test_slow_jobs_count_by_the_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("Training", 4, "steps") as job:
        now += 30
        job.advance()
    assert capsys.readouterr().err.splitlines()[0] == "Training: 1 of 4 steps, 2 a minute, 1:30 left"


def test_a_failed_job_says_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress("Reading", 10, "samples") as job:
        job.advance(3)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("Reading: stopped at 3 of 10 samples, ")


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "quiet", True)
    with progress("Reading", 1) as job:
        job.advance()
    monkeypatch.setattr(module, "quiet", False)
    monkeypatch.setenv("PERSONAVEC_QUIET", "1")
    with progress("Reading", 1) as job:
        job.advance()
    assert job.done == 1
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal_may_be_nested() -> None:
    pty = pytest.importorskip("pty")
    code = """
from personavec.progress import progress
with progress("Outer [x]", 2, "stages") as outer:
    with progress("Inner", 10, "items") as inner:
        inner.advance(10)
    outer.advance(2)
with progress("After", 1) as after:
    after.advance()
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, env=environment, check=True)
    os.close(theirs)
    said = b""
    while block := _read(ours):
        said += block
    text = said.decode()
    assert "Outer [x]" in text
    assert "10 of 10 items" in text
    assert "2 of 2 stages" in text
    assert "1 of 1" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""
