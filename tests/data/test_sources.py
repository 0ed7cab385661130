# mypy: disable-error-code="union-attr"
"""From names to sources: files, folders in the order of their names, and errors that say what to do."""

import gzip
import os
import re
from pathlib import Path
from typing import cast

import pytest

from personavec.data import open_data
from personavec.errors import UserError
from personavec.files import RunFolder

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
        (tmp_path / "empty",): r"Nothing in .*empty can be read as data\. .*: notes\.txt\. Files of these kinds are",
        (tmp_path / "nothing",): "Nothing in",
        (tmp_path / "pipe.jsonl",): "is not a plain file",
        (data, tmp_path / "nothing" / ".." / "data.jsonl"): "is named twice",
        (data / "inside.jsonl",): "Cannot read .*inside.jsonl: Not a directory",
        ("x" * 5000,): "Cannot read .*name too long",
        ("a\0b.jsonl",): "Cannot read",
        (): "No data was named",
    }.items():
        with pytest.raises(UserError, match=message):
            open_data(cast(list[str | Path], list(names)))
    with pytest.raises(UserError, match=r"There are no splits in .*data\.jsonl: 'train' cannot be taken"):
        open_data(data, split="train")


def test_lists_of_a_json_object_are_splits(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(f'{{"train": [{LINE.format(1)}], "test": [{LINE.format(2)}, {LINE.format(3)}]}}')
    assert [item.messages[1]["content"] for item in open_data(path, split="test")] == ["2", "3"]
    with pytest.raises(UserError, match="Choose one with `split`"):
        open_data(path)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    data, beside = tmp_path / "data", tmp_path / "beside"
    make(data, "a.jsonl", "sub/b.jsonl")
    make(beside, "c.jsonl", "deep/d.jsonl", ".hidden/e.jsonl")
    make(tmp_path / "third", "f.jsonl")
    (data / "more").symlink_to(beside)
    (beside / "third").symlink_to(tmp_path / "third", target_is_directory=True)
    found = open_data(data)
    expected = ["a.jsonl", "more/c.jsonl", "more/deep/d.jsonl", "more/third/f.jsonl", "sub/b.jsonl"]
    assert found.sources == [str(data / name) for name in expected]
    assert found.notes == []
    (tmp_path / "link").symlink_to(data)
    assert open_data(tmp_path / "link").sources == [str(tmp_path / "link" / name) for name in expected]


def test_links_that_lead_in_circles_are_left_out_by_name(tmp_path: Path) -> None:
    data, beside = tmp_path / "data", tmp_path / "beside"
    make(data, "a.jsonl", "sub/b.jsonl")
    make(beside, "c.jsonl")
    (data / "sub" / "self").symlink_to(data / "sub")
    (data / "sub" / "up").symlink_to("..")
    (data / "sub" / "above").symlink_to(tmp_path)
    (data / "to").symlink_to(beside)
    (beside / "back").symlink_to(data)
    (data / "one").symlink_to(data / "two")
    (data / "two").symlink_to(data / "one")
    (data / "gone.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    found = open_data(data)
    assert found.sources == [str(data / name) for name in ("a.jsonl", "sub/b.jsonl", "to/c.jsonl")]
    assert found.notes == [
        f"Left out in {data}, links that lead nowhere: gone.jsonl, one, two.",
        f"Left out in {data}, links to folders that they stand in: sub/above, sub/self, sub/up, to/back.",
    ]


def test_what_links_reach_twice_is_read_once_under_its_own_name(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    make(data, "sub/b.jsonl")
    make(store, "blob", "in/c.jsonl")
    (data / "a.jsonl").symlink_to(data / "sub" / "b.jsonl")
    (data / "0").symlink_to(data / "sub")
    (data / "x.jsonl").symlink_to(store / "blob")  # as in the cache of the hub
    (data / "y").symlink_to(store / "in")
    (data / "z").symlink_to(store)
    found = open_data(data)
    assert found.sources == [str(data / name) for name in ("sub/b.jsonl", "x.jsonl", "y/c.jsonl")]
    assert found.notes == [
        f"Left out in {data}, not a kind that is read: z/blob.",
        f"Left out in {data}, read already under another name: 0, a.jsonl.",
    ]
    assert found.total == 3


def test_folders_and_pipes_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl", "sub/b.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert open_data(tmp_path).notes == [f"Left out in {tmp_path}, not plain files: pipe.jsonl."]
    real = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "sub":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"Cannot read .*sub: Permission denied"):
        open_data(tmp_path)


def test_folders_of_runs_are_no_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make(data, "a.jsonl", "sub/b.jsonl")
    before = open_data(data)
    run = data / "sub" / "out"
    with RunFolder(run, {"x": 1}):
        make(run, "kept.jsonl", "parts/1.jsonl")
    (data / "link").symlink_to(run)
    nothing = data / "nothing"  # a run that ended since all was rejected
    with pytest.raises(UserError), RunFolder(nothing, {"x": 1}):
        make(nothing, "rejected.jsonl")
        raise UserError("All was rejected.", "")
    assert not (nothing / "arguments.json").exists()
    after = open_data(data)
    assert after.sources == before.sources
    assert after.digest == before.digest, "the same command resumes"
    assert after.notes == [f"Left out in {data}, folders of runs: link, nothing, sub/out."]
    with pytest.raises(UserError, match=r"out is the folder of a run, not of data\. Name the file in it"):
        open_data(run)
    assert open_data(run / "kept.jsonl").total == 1
    (data / "a.jsonl").unlink()
    (data / "sub" / "b.jsonl").unlink()
    with pytest.raises(UserError, match=r"Nothing in .* can be read as data\. Left out in .*, folders of runs: link"):
        open_data(data)


def test_a_run_folder_is_none_of_the_datas_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "data/a.jsonl", "data/sub/deep/b.jsonl", "other/c.jsonl")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    data = open_data(".")
    for out in (".", tmp_path / "data", tmp_path, "sub", "sub/deep", "../other", "more"):
        with pytest.raises(UserError, match="Data of this run are in"):
            data.check_apart(out)
    for free in ("out", "sub/out", "empty", "../runs"):
        data.check_apart(free)


def test_a_run_folder_holds_no_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "o/kept.jsonl", "o/parts/a.jsonl", "elsewhere/b.jsonl")
    monkeypatch.chdir(tmp_path)
    Path("o", "link.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    Path("alias").symlink_to("o")
    taken = [("o/kept.jsonl", "o"), ("o/kept.jsonl", "alias"), ("alias/kept.jsonl", "o"), ("o/parts/a.jsonl", "o")]
    for file, out in [*taken, ("o/link.jsonl", "o"), ("o/link.jsonl", "elsewhere"), ("o/kept.jsonl", ".")]:
        with pytest.raises(UserError, match=f"Data of this run are in {re.escape(out)}"):
            open_data(file).check_apart(out)
    for file, out in (("o/kept.jsonl", "o/run"), ("o/kept.jsonl", "elsewhere"), ("o/kept.jsonl", "oo")):
        open_data(file).check_apart(out)
