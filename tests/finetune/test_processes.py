"""Two processes on CPUs learn what one learns from both their samples."""

import json
from pathlib import Path

import processes
import pytest
import torch

from children import Child


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_are_one(tmp_path: Path) -> None:
    """With DDP in a trainer, and with FSDP2 in a loop; in one start, since starting takes longest."""
    for count in (1, 2):
        started = [Child(processes.learn, tmp_path, rank, count) for rank in range(count)]
        for process in started:
            _, said = process.communicate()
            assert process.returncode == 0, said[-3000:]
    found = [json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2)]
    assert flat(found[1]) == pytest.approx(flat(found[0]), rel=1e-4, abs=1e-5)


def flat(value: object) -> list[float]:
    """All numbers in it, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in flat(one)]
    assert isinstance(value, float)
    return [value]
