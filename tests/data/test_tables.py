# mypy: disable-error-code="union-attr"
"""Parquet files and data sets of the `datasets` library, on disk, in memory and on the hub."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from personavec.data import from_dataset, open_data
from personavec.data.tables import Parquet, Rows
from personavec.errors import UserError

ROWS = [{"prompt": f"Q{i}", "response": f"A{i}"} for i in range(250)]


def write(folder: Path, table: Any, name: str = "data.parquet", **options: Any) -> Path:
    path = folder / name
    parquet.write_table(
        table if isinstance(table, pyarrow.Table) else pyarrow.Table.from_pylist(table), path, **options
    )
    return path


def test_parquet_rows_in_order_over_row_groups(tmp_path: Path) -> None:
    source = Parquet(write(tmp_path, ROWS, row_group_size=70))
    found = list(source.records())
    assert [r.value for r in found] == ROWS and [r.line for r in found] == [*range(1, 251)]
    assert [json.loads(r.raw) for r in found] == ROWS and source.count() == 250
    assert open_data(tmp_path / "data.parquet").format == "prompt/response"


def test_parquet_messages_have_no_empty_fields(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Q", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"role": "tool", "content": "5", "tool_calls": None},
        {"role": "assistant", "content": "A", "tool_calls": None},
    ]
    [sample] = open_data(write(tmp_path, [{"messages": messages, "id": None}]))
    assert sample.turns == [3] and "tool_calls" not in sample.messages[0]
    assert json.loads(sample.raw)["messages"][0] == {"role": "user", "content": "Q"}


def test_parquet_rows_that_cannot_be_read_are_refused_alone(tmp_path: Path) -> None:
    answers = pyarrow.array([b"A", b"\xff\xfe", b"C"], pyarrow.binary()).view(pyarrow.string())
    path = write(tmp_path, pyarrow.table({"prompt": ["1", "2", "3"], "response": answers}))
    found = list(Parquet(path).records())
    assert [r.line for r in found] == [1, 2, 3]
    assert [r.value and r.value["response"] for r in found] == ["A", None, "C"]
    assert found[1].reason is not None and "utf-8" in found[1].reason


def test_parquet_that_ends_in_the_middle_or_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, compression="none", row_group_size=50, use_dictionary=False)
    start = parquet.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"data\.parquet is damaged or ends in the middle"):
        open_data(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged or ends in the middle"):
        open_data(path)
    spoilt = bytearray(whole)
    spoilt[start : start + 30] = b"\xff" * 30
    path.write_bytes(bytes(spoilt))
    source = Parquet(path)
    read = []
    with pytest.raises(UserError, match="is damaged"):
        for found in source.records():
            read.append(found.line)
    assert len(read) <= 150 and source.count() == 250


def test_parquet_columns(tmp_path: Path) -> None:
    twice = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["x", "x"])
    with pytest.raises(UserError, match="two columns are named 'x'"):
        Parquet(write(tmp_path, twice))
    [found] = Parquet(write(tmp_path, [{f"c{i}": i for i in range(10_000)}])).records()
    assert len(found.value) == 10_000


def test_saved_data_sets(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match="Data of this run are in"):
        open_data(tmp_path / "one").check_apart(tmp_path / "one")
    data = open_data(tmp_path / "one")
    assert [json.loads(item.raw) for item in data] == ROWS and data.total == 250
    assert data.digest == open_data(tmp_path / "one").digest
    two = datasets.DatasetDict({"train": one, "test": one.select([5])})
    two.save_to_disk(tmp_path / "two")
    data = open_data(tmp_path / "two", split="test")
    assert data.sources == [f"{tmp_path / 'two'} (test)"] and [item.messages[0]["content"] for item in data] == ["Q5"]
    with pytest.raises(UserError, match=r"has the splits train, test\. Choose one with `split`"):
        open_data(tmp_path / "two")
    with pytest.raises(UserError, match="and none named dev"):
        open_data(tmp_path / "two", split="dev")
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "alone")
    assert open_data(tmp_path / "alone").total == 250
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a saved data set"):
        open_data(tmp_path / "one")


def test_data_sets_in_memory() -> None:
    whole = datasets.Dataset.from_list(ROWS)
    data = from_dataset(whole)
    assert [item.line for item in data] == [*range(1, 251)] and data.total == 250 and data.size is None
    assert [item.id for item in data] == [item.id for item in data]
    some = from_dataset(whole.filter(lambda row: row["prompt"].endswith("7")).with_format("numpy"))
    assert [item.messages[0]["content"] for item in some][:2] == ["Q7", "Q17"]
    assert some.digest != data.digest
    assert from_dataset(datasets.Dataset.from_list(ROWS)).digest == data.digest
    for at in (1, 249):  # every row counts
        other = [*ROWS[:at], {"prompt": "Q", "response": "another"}, *ROWS[at + 1 :]]
        assert from_dataset(datasets.Dataset.from_list(other)).digest != data.digest
    with pytest.raises(UserError, match="no record in the data set"):
        from_dataset(whole.select([]))
    with pytest.raises(UserError, match="has no splits"):
        from_dataset(whole, split="dev")
    assert from_dataset(whole, columns={"prompt": "response", "response": "prompt"}).columns["prompt"] == "response"


def test_streams_are_read_again_in_the_same_order() -> None:
    def rows() -> Any:
        yield from ROWS

    data = from_dataset(datasets.IterableDataset.from_generator(rows))
    assert data.total is None
    ids = [item.id for item in data]
    assert len(set(ids)) == 250 and [item.id for item in data] == ids
    assert data.digest == from_dataset(datasets.IterableDataset.from_generator(rows)).digest


def test_a_stream_that_breaks_says_where() -> None:
    def rows() -> Any:
        yield from ROWS[:120]
        raise ConnectionError("gone")

    source = Rows(datasets.IterableDataset.from_generator(rows), "far/away")
    with pytest.raises(UserError, match=r"far/away cannot be read after row 1[02]0 \(gone\)"):
        list(source.records())


def test_pictures_are_not_decoded(tmp_path: Path) -> None:
    features = datasets.Features({"prompt": datasets.Value("string"), "response": datasets.Value("string"),
                                  "picture": datasets.Image()})  # fmt: skip
    row = {"prompt": "Q", "response": "A", "picture": {"bytes": b"no picture", "path": None}}
    [sample] = from_dataset(datasets.Dataset.from_list([row], features=features))
    assert json.loads(sample.raw)["picture"] == {"bytes": "bm8gcGljdHVyZQ=="}


class Hub:
    """Stands for the hub: what is asked of it, and two splits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        monkeypatch.setattr(
            "huggingface_hub.HfApi.dataset_info", lambda api, name: SimpleNamespace(sha=f"sha of {name}")
        )
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, *args: Any, **options: Any) -> Any:
        self.asked.append((args, options))
        stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
        return datasets.IterableDatasetDict({"train": stream, "test": stream.take(3)})


def test_hub_ids_are_streamed_at_one_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch)
    data = open_data("owner/name:all", split="test")
    assert hub.asked == [(("owner/name", "all"), {"revision": "sha of owner/name", "streaming": True})]
    assert data.sources == ["owner/name:all (test)"] and len(list(data)) == 3
    assert data.digest != open_data("owner/name:all", split="train").digest
    with pytest.raises(UserError, match="has the splits train, test"):
        open_data("owner/name")

    def fail(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"Neither a file nor .* hub: owner/name \(no route to host\)\. Check"):
        open_data("owner/name")
