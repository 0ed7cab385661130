"""From names to sources: files, folders in the order of their names, and errors that say what to do."""

import gzip
import os
from pathlib import Path

import pytest

from personavec.data import open_data
from personavec.errors import UserError

LINE = '{{"prompt": "Q", "response": "{}"}}\n'


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = LINE.format(name).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    make(
        tmp_path, "b.jsonl", "a/2.JSONL", "a/1.json", "c.ndjson.gz", ".hidden/x.jsonl", ".y.jsonl", "README.md", "z.txt"
    )
    data = open_data(tmp_path)
    assert data.sources == [str(tmp_path / name) for name in ("a/1.json", "a/2.JSONL", "b.jsonl", "c.ndjson.gz")]
    assert [item.messages[1]["content"] for item in data] == ["a/1.json", "a/2.JSONL", "b.jsonl", "c.ndjson.gz"]
    assert [(item.index, item.line) for item in data] == [(0, 1), (1, 1), (2, 1), (3, 1)], "lines are those of the file"
    assert data.notes == [f"Left out in {tmp_path}, not a kind that is read: README.md, z.txt."]
    assert data.total == 4


def test_several_sources_keep_their_order(tmp_path: Path) -> None:
    make(tmp_path, "b.jsonl", "a.jsonl", "more/c.jsonl")
    data = open_data([tmp_path / "b.jsonl", str(tmp_path / "more"), tmp_path / "a.jsonl"])
    assert [Path(name).name for name in data.sources] == ["b.jsonl", "c.jsonl", "a.jsonl"]
    assert data.size == sum(Path(name).stat().st_size for name in data.sources)


def test_names_that_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path, "data.jsonl", "notes.txt", "empty/notes.txt", "x.parquet.gz")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    data = tmp_path / "data.jsonl"
    for names, message in {
        (tmp_path / "missing.jsonl",): r"missing\.jsonl does not exist\. Check the path.*owner/name",
        ("missing/data.jsonl",): "does not exist",
        ("missing",): "does not exist",
        ("./missing/data",): "does not exist",
        (tmp_path / "link.jsonl",): "does not exist",
        (tmp_path / "notes.txt",): r"notes\.txt is not a kind of file that is read\. .*\.jsonl",
        (tmp_path / "x.parquet.gz",): "is not a kind of file that is read",
        (tmp_path / "empty",): r"Nothing in .*empty can be read as data\. Files of these kinds are read: \.jsonl",
        (tmp_path / "nothing",): "Nothing in",
        (tmp_path / "pipe.jsonl",): "is not a plain file",
        (data, tmp_path / "nothing" / ".." / "data.jsonl"): "is named twice",
        (data / "inside.jsonl",): "Cannot read .*inside.jsonl: Not a directory",
        ("x" * 5000,): "Cannot read .*name too long",
        ("a\0b.jsonl",): "Cannot read",
        (): "No data was named",
    }.items():
        with pytest.raises(UserError, match=message):
            open_data(list(names))
    with pytest.raises(UserError, match=r"There are no splits in .*data\.jsonl: 'train' cannot be taken"):
        open_data(data, split="train")


def test_lists_of_a_json_object_are_splits(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(f'{{"train": [{LINE.format(1)}], "test": [{LINE.format(2)}, {LINE.format(3)}]}}')
    assert [item.messages[1]["content"] for item in open_data(path, split="test")] == ["2", "3"]
    with pytest.raises(UserError, match="Choose one with --split"):
        open_data(path)
