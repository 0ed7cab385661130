"""Several data sets as one, each in its own format."""

import json
from pathlib import Path

import pytest

from personavec.data import Joined, Rejected, Sample, open_data


def test_records_of_all_parts_come_in_order_with_indices_of_their_own(tmp_path: Path) -> None:
    chats, pairs = tmp_path / "chats.jsonl", tmp_path / "pairs.csv"
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}]
    chats.write_text("".join(json.dumps({"messages": messages}) + "\n" for _ in range(3)) + "{broken\n")
    pairs.write_text("prompt,response\nhow,so\nwhy,because\n")
    parts = [open_data(chats).every(2, 1), open_data(pairs)]
    both = Joined(parts, "both")
    records = list(both)
    assert [type(record) for record in records] == [Sample, Rejected, Sample, Sample]
    assert [record.index for record in records] == [0, 1, 2, 3] and both.total == 4 and both.sources == ["both"]
    assert [record.line for record in records] == [2, 4, 2, 3]
    assert isinstance(records[-1], Sample) and records[-1].messages[-1]["content"] == "because"
    assert both.digest == Joined(parts, "other").digest != Joined(parts[::-1], "both").digest
    with pytest.raises(NotImplementedError):
        both.every(2)
