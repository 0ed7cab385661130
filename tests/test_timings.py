"""The seconds of a run: those of every process that worked on it, and none between them."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from personavec import timings
from personavec.timings import Timings


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timings, "time", SimpleNamespace(monotonic=made, time=made))
    return made


def test_stages_add_up_over_processes(tmp_path: Path, clock: Clock) -> None:
    path, log = tmp_path / "timings.json", tmp_path / "log"
    first = Timings(path, log)
    clock.now += 1
    with first.stage("generate"):
        clock.now += 10
    with pytest.raises(KeyboardInterrupt), first.stage("judge"):
        clock.now += 5
        raise KeyboardInterrupt
    clock.now += 3600  # until the same command is given again
    second = Timings(path, log)
    with second.stage("judge"):
        clock.now += 2
    clock.now += 1
    assert second.seconds == pytest.approx(19) and second.stages == {"generate": 10.0, "judge": 7.0}
    second.close()
    assert not path.exists()


@pytest.mark.parametrize("wrote", [7.0, None, -50.0])
def test_a_stage_that_was_killed_counts_up_to_the_last_line_of_the_log(
    tmp_path: Path, clock: Clock, wrote: float | None
) -> None:
    path, log = tmp_path / "timings.json", tmp_path / "log"
    killed = Timings(path, log)
    with killed.stage("read"):
        clock.now += 4
    left = killed.stage("generate")
    left.__enter__()
    if wrote is not None:
        log.touch()
        os.utime(log, (clock.now + wrote, clock.now + wrote))
    clock.now += 9
    killed_file = path.read_text()  # nothing is written when a process is killed
    clock.now += 3600
    path.write_text(killed_file)
    after = Timings(path, log)
    counted = max(wrote or 0.0, 0.0)
    assert after.seconds == pytest.approx(4 + counted)
    assert after.stages == {"read": 4.0, "generate": counted}
    # And once only, however often it is killed again.
    assert Timings(path, log).seconds == pytest.approx(4 + counted)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"stages": 3}', '{"stages": {"a": "b"}, "seconds": 1}'])
def test_a_file_of_another_shape_counts_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "timings.json"
    path.write_text(text)
    made: Any = Timings(path, tmp_path / "log")
    assert 0 <= made.seconds < 60 and abs(json.loads(path.read_text())["at"] - time.time()) < 60
