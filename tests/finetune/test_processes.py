"""Two processes on CPUs learn what one learns from both their samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_are_one(tmp_path: Path) -> None:
    """With DDP in a trainer, and with FSDP2 in a loop; in one start, since starting takes longest."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    one = [sys.executable, str(HERE / "processes.py"), str(tmp_path)]
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *one[1:]]
    for command in (one, both):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
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
