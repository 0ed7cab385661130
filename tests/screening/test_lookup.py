"""Samples by their index, in as few passes over the data as their order allows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from personavec.data import Dataset, open_data
from personavec.screening.lookup import Lookup


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Six records, the second of which is no sample."""
    lines = [json.dumps({"prompt": f"question {number}", "response": "well"}) for number in range(6)]
    lines[1] = "{broken"
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return open_data(tmp_path / "data.jsonl")


def test_samples_are_found_whatever_the_order(data: Dataset) -> None:
    lookup = Lookup(data)
    for wanted in ([4, 2], [0], [5], [0, 5]):
        found = lookup(wanted)
        assert list(found) == sorted(wanted)
        assert all(sample.messages[0]["content"] == f"question {index}" for index, sample in found.items())
    assert lookup([]) == {}
    assert list(lookup([1, 2])) == [2]


def test_rising_indices_take_one_pass(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    plain = Dataset.__iter__

    def counted(self: Dataset) -> Iterator[Any]:
        passes.append(1)
        yield from plain(self)

    monkeypatch.setattr(Dataset, "__iter__", counted)
    lookup = Lookup(data)
    for wanted in ([0, 2], [3], [5]):
        lookup(wanted)
    assert len(passes) == 1
    lookup([3])
    assert len(passes) == 2
