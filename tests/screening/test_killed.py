"""A screening that is killed again and again ends as one that was left alone."""

import json
import os
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from children import Child
from personavec.model import ChatModel
from personavec.screening import ScreeningRun
from tiny import vector

KILLS = 6  # under each of two baselines
WORDS = ["the", "model", "answers", "question", "and", "then", "hello", "there", "how", "are", "you", "today", "well"]


def screening(folder: Path, name: str, baseline: Any) -> None:
    """In a process of its own: load the model and screen, in small parts and with several looks."""
    import torch

    from personavec.model import load_model
    from personavec.screening import ScreenSettings, reader, scan, screen_files
    from personavec.screening.estimate import planned_sizes
    from personavec.vector import PersonaVector

    torch.set_num_threads(1)
    os.environ["PERSONAVEC_CACHE"] = str(folder / f"cache-{name}")
    looks = partial(planned_sizes, first=16)
    with (
        patch.object(scan, "PART", 5), patch.object(scan, "BATCH", 4), patch.object(reader, "planned_sizes", looks),
    ):  # fmt: skip
        screen_files(
            load_model(str(folder / "model"), device="cpu"),
            folder / "data.jsonl",
            [PersonaVector.load(folder / "kind.safetensors")],
            folder / name,
            ScreenSettings(baseline=baseline, max_new_tokens=4, precision=0.01),  # hybrid: the subset grows to the end
            clean=folder / "clean.jsonl",
        )


def lines(count: int, seed: int) -> bytes:
    draw = Random(seed)

    def said() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(3, 20)))

    records = [json.dumps({"prompt": said(), "response": said()}).encode() for _ in range(count)]
    records[count // 2] = b"{broken"
    return b"\n".join(records)


def test_killed_at_moments_of_every_stage(tiny: ChatModel, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    vector(tiny).save(tmp_path / "kind.safetensors")
    (tmp_path / "data.jsonl").write_bytes(lines(40, 1))
    (tmp_path / "clean.jsonl").write_bytes(lines(24, 2))

    def run(name: str, seconds: float = 300) -> int | None:
        process = Child(screening, tmp_path, name, name.partition("-")[0])
        process.join(seconds)
        process.kill()
        return process.join(60)

    Child(int).join(60)  # the first one waits for imports
    for baseline in ("exact", "hybrid"):
        started = time.monotonic()
        assert run(f"{baseline}-whole") == 0
        taken = time.monotonic() - started
        # Apart by a tenth of the time that a whole run takes, in any order.
        moments, runs = Random(0).sample([0.1 * (1 + at) for at in range(KILLS)], KILLS), 0
        while moments:
            name = f"{baseline}-killed-{runs}"
            code = run(name, moments[-1] * taken)
            if code == -9:
                moments.pop()
            if code == 0:  # a whole run made of what was left by those before; perhaps the machine is faster now
                runs, taken = runs + 1, 0.9 * taken
        assert run(f"{baseline}-killed-{runs}") == 0
        for number in range(runs + 1):
            same(tmp_path / f"{baseline}-whole", tmp_path / f"{baseline}-killed-{number}")


def same(one: Path, other: Path) -> None:
    first, second = (ScreeningRun.read(path) for path in (one, other))
    for key in ("records", "kept", "flagged", "rejected", "drawn", "truncated", "clean", "warnings"):
        assert getattr(first, key) == getattr(second, key), key
    for name in ("kept", "flagged", "rejected"):
        assert (one / f"{name}.jsonl").read_bytes() == (other / f"{name}.jsonl").read_bytes()
    ours, theirs = (pq.read_table(path / "scores.parquet") for path in (one, other))
    assert ours.column_names == theirs.column_names
    for name in ours.column_names:
        a, b = (table[name].to_numpy(zero_copy_only=False) for table in (ours, theirs))
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        else:
            assert (a == b).all()
    assert not [path.name for path in other.iterdir() if path.name in ("parts",) or path.suffix == ".tmp"]
