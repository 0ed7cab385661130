"""Text files are read as streams: every byte of a kept line, every line counted, every fault named."""

import codecs
import datetime
import gzip
import json
import os
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personavec.data import record, text
from personavec.data.record import Record, parse, row_record
from personavec.data.text import Csv, Json, Jsonl
from personavec.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def file(folder: Path, content: bytes | str, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reasons(records: Iterator[Record]) -> list[str | None]:
    return [found.reason for found in records]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Records of more than 100 bytes are too long, files are read 7 bytes at a time."""
    for module in (record, text):
        monkeypatch.setattr(module, "LIMIT", 100)
        monkeypatch.setattr(module, "SHOWN", 10)
    monkeypatch.setattr(text, "CHUNK", 7)
    yield 100


# JSONL


def test_jsonl_keeps_bytes_and_line_numbers(tmp_path: Path) -> None:
    lines = [b'{"a": 1}\r\n', b"\n", b" \t\r\n", b'  {"a": "\xe2\x80\xa8\xd7\xa9"}  \n', b"no\n", b'{"a": 3}']
    found = list(Jsonl(file(tmp_path, b"".join(lines))).records())
    assert [(r.line, r.raw) for r in found] == [(n, lines[n - 1]) for n in (1, 4, 5, 6)]
    assert [r.value for r in found] == [{"a": 1}, {"a": "\u2028ש"}, None, {"a": 3}]
    assert [r.reason for r in found] == [None, None, "not JSON: Expecting value at character 1", None]
    assert Jsonl(tmp_path / "data.jsonl").count() == 4


@FUZZ
@given(lines=st.lists(st.binary(max_size=30) | VALUES.map(lambda v: json.dumps(v).encode())), end=st.booleans())
def test_jsonl_records_are_the_file_without_its_blank_lines(tmp_path: Path, lines: list[bytes], end: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if end else b"")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)):
        content = b"x" + content
    wanted = [(n, line) for n, line in enumerate(_lines(content), 1) if line.strip()]
    source = Jsonl(file(tmp_path, content))
    found = list(source.records())
    assert [(r.line, r.raw) for r in found] == wanted
    assert all((r.reason is None) == _parses(r.raw) for r in found)
    assert source.count() == len(found)


def _lines(content: bytes) -> list[bytes]:
    pieces = content.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def _parses(raw: bytes) -> bool:
    try:
        json.loads(raw.decode())
    except ValueError:
        return False
    return True


def test_byte_order_mark_stays_in_the_bytes_and_out_of_the_value(tmp_path: Path) -> None:
    [first, second] = Jsonl(file(tmp_path, codecs.BOM_UTF8 + b'{"a": 1}\n{"a": 2}\n')).records()
    assert first.raw == codecs.BOM_UTF8 + b'{"a": 1}\n' and first.value == {"a": 1} and second.value == {"a": 2}
    assert list(Jsonl(file(tmp_path, codecs.BOM_UTF8 + b"\n")).records()) == []


@pytest.mark.parametrize("kind", [Jsonl, Json, Csv])
def test_other_encodings_of_the_whole_file_are_named(tmp_path: Path, kind: type) -> None:
    with pytest.raises(UserError, match=r"is UTF-16 or UTF-32, not UTF-8\. .*iconv"):
        list(kind(file(tmp_path, '{"a": 1}\n'.encode("utf-16"))).records())


def test_a_line_in_another_encoding_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    content = '{"a": "é"}\n'.encode("latin-1") + b'{"a": 1}\n'
    [bad, good] = Jsonl(file(tmp_path, content)).records()
    assert bad.reason == "not UTF-8: byte 0xe9 at position 8" and good.value == {"a": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("{} {}", "not JSON: Extra data at character 4"),
        ("\x00\x00", "not JSON"),
        ('{"a": "\x01"}', "not JSON: Invalid control character"),
        ('{"a": 1, "b": 2, "a": 3}', 'the key "a" stands twice'),
        ('[{"x": {"a": 1, "a": 1}}]', 'the key "a" stands twice'),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 50_000, "nested too deeply"),
        ("9" * 5_000, "not readable: .*digits"),
    ],
)
def test_what_is_no_json(tmp_path: Path, line: str, reason: str) -> None:
    bad, good = Jsonl(file(tmp_path, line + '\n{"a": 1}\n')).records()
    assert bad.value is None and bad.reason is not None and good.value == {"a": 1}
    assert re.search(reason, bad.reason)


def test_json_of_python_and_odd_numbers_is_taken() -> None:
    value, reason = parse(b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": 123456789012345678901234567890}')
    assert reason is None and value["a"] != value["a"] and value["d"] == 123456789012345678901234567890


def test_long_lines_are_refused_without_being_held(tmp_path: Path, small: int) -> None:
    fits = b'{"a": "' + b"x" * (small - 10) + b'"}\n'
    long = b'{"a": "' + b"x" * 500 + b'"}'
    found = list(Jsonl(file(tmp_path, fits + long + b"\n" + b'{"a": 1}\n' + long)).records())
    assert len(fits) == small
    assert [r.line for r in found] == [1, 2, 3, 4]
    assert [r.reason is None for r in found] == [True, False, True, False]
    assert found[1].raw == long[:10] and found[1].reason is not None and "longer than" in found[1].reason


def test_memory_stays_small_with_a_line_of_50_mb(tmp_path: Path) -> None:
    with (tmp_path / "data.jsonl").open("wb") as handle:
        handle.write(b'{"a": "')
        for _ in range(50):
            handle.write(b"x" * 1_000_000)
        handle.write(b'"}\n{"a": 1}\n')
    tracemalloc.start()
    found = list(Jsonl(tmp_path / "data.jsonl").records())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].reason == "longer than 10 MB (50.0 MB); only its beginning is kept here"
    assert found[1].line == 2 and found[1].value == {"a": 1}
    assert peak < 35_000_000


# Compressed


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd.compress)])
@pytest.mark.parametrize("kind", [Jsonl, Json, Csv])
def test_compressed(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], kind: Any) -> None:
    content: Any = {Jsonl: b'{"a": "1"}\n{"a": "2"}\n', Json: b'[{"a": "1"}, {"a": "2"}]', Csv: b"a\n1\n2\n"}[kind]
    source = kind(file(tmp_path, pack(content[:8]) + pack(content[8:]), f"data{ending}"))  # of several members
    assert [r.value for r in source.records()] == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd.compress)])
def test_truncated_and_damaged_archives_are_no_complete_data(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(b"".join(b'{"a": "%d"}\n' % (i * 7919) for i in range(2000)))
    source = Jsonl(file(tmp_path, packed[: len(packed) // 2], f"cut.jsonl{ending}"))
    for read in (lambda: list(source.records()), source.count):
        with pytest.raises(UserError, match=r"cut\.jsonl.* ends in the middle"):
            read()
    with pytest.raises(UserError, match=r"is damaged"):
        list(Jsonl(file(tmp_path, b"no archive", f"bad.jsonl{ending}")).records())


# JSON


@FUZZ
@given(values=st.lists(VALUES, min_size=0), indent=st.none() | st.integers(0, 2), chunk=st.integers(4, 40))
def test_json_array_is_taken_apart_as_json_does(
    tmp_path: Path, values: list[Any], indent: int | None, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "CHUNK", chunk)
        content = json.dumps(values, indent=indent, ensure_ascii=False)
        wholes = [content]
        if values and isinstance(values[0], dict | list):
            wholes.append(json.dumps({"version": [1, "["], "x": {"y": [{}]}})[:-1] + f', "data": {content}}}')
        for whole in wholes:
            source = Json(file(tmp_path, whole.encode(errors="surrogatepass"), "data.json"))
            found = list(source.records())
            assert [r.value for r in found] == values and [r.line for r in found] == [*range(1, len(values) + 1)]
            assert all(r.raw.endswith(b"\n") and r.raw.count(b"\n") == 1 and b"\r" not in r.raw for r in found)
            assert [json.loads(r.raw) for r in found] == values


def test_json_keeps_numbers_as_written_and_goes_on_after_a_bad_element(tmp_path: Path) -> None:
    content = b'[\n {"a": 1.10,\n  "b": 1e2},\n {"a": oops},\n {"a": "\xff"}, {"a": NaN}, {"a": 1, "a": 2},\n 5,\n'
    content += b' {"a":\n "x\ny"}\n]\n'
    found = list(Json(file(tmp_path, content, "data.json")).records())
    assert found[0].raw == b'{"a": 1.10, "b": 1e2}\n'
    assert [r.reason is None for r in found] == [True, False, False, True, False, True, False]
    assert [r.line for r in found] == [1, 2, 3, 4, 5, 6, 7]


def test_json_elements_that_are_too_long(tmp_path: Path, small: int) -> None:
    content = json.dumps([{"a": 1}, {"a": "x,[" * 200}, {"a": 2}])
    found = list(Json(file(tmp_path, content, "data.json")).records())
    assert [r.value for r in found] == [{"a": 1}, None, {"a": 2}]
    assert found[1].reason is not None and "longer than" in found[1].reason and len(found[1].raw) == 10


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),  # lines after all
        ('[{"role": 1}]\n[{"role": 2}]\n', [[{"role": 1}], [{"role": 2}]]),
        ('{"a": 1}', [{"a": 1}]),
        ('{"messages": [{"role": 1}],\n "id": 5}', [{"messages": [{"role": 1}], "id": 5}]),
        ('\ufeff\n [{"a": 1}]', [{"a": 1}]),
        ('{"meta": {"data": [{"x": 1}]}, "rows": [{"a": 1}, {"a": 2}], "tags": ["b"]}', [{"a": 1}, {"a": 2}]),
        ("[]", []),
        ("", []),
        (" \n", []),
    ],
)
def test_what_a_json_file_may_be(tmp_path: Path, content: str, values: list[Any]) -> None:
    source = Json(file(tmp_path, content, "data.json"))
    assert [r.value for r in source.records()] == values and source.count() == len(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a": 2}', "ends in the middle, in record 2"),
        ('[{"a": 1}, {"a": "', "ends in the middle, in record 2"),
        ('[{"a": 1]}', "is not JSON: ']' where it closes nothing, in or after record 1"),
        ('[{"a": 1}] [', "after the end"),
        ("hello", "is not JSON"),
        ('{"train": [{"a": 1}], "test": [{"a": 2}]}', r"holds the lists train, test\. Choose one with `split`"),
    ],
)
def test_json_files_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Json(file(tmp_path, content, "data.json")).records())


def test_one_of_several_lists(tmp_path: Path) -> None:
    path = file(tmp_path, '{"train": [{"a": 1}], "test": [{"a": 2}, {"a": 3}]}', "data.json")
    assert [r.value for r in Json(path, "test").records()] == [{"a": 2}, {"a": 3}]
    with pytest.raises(UserError, match="none named dev"):
        Json(path, "dev")


# CSV


def test_csv(tmp_path: Path) -> None:
    content = '\ufeffq,a,\r\n"one, ""two""\r\nthree",yes,\r\n\r\nשלום,é,x\r\n'
    found = list(Csv(file(tmp_path, content, "data.csv")).records())
    assert [r.value for r in found] == [
        {"q": 'one, "two"\r\nthree', "a": "yes", "column 3": ""},
        {"q": "שלום", "a": "é", "column 3": "x"},
    ]
    assert [r.line for r in found] == [2, 5], "where they begin in the file"
    assert [json.loads(r.raw) for r in found] == [r.value for r in found] and found[0].raw.count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "sign"), [("data.csv", ";"), ("data.csv", "\t"), ("data.tsv", "\t"), ("data.TSV", "\t")]
)
def test_csv_delimiters(tmp_path: Path, name: str, sign: str) -> None:
    for start in ("", "\n"):  # a blank line before the header
        [found] = Csv(file(tmp_path, f"{start}q{sign}a\n1,5{sign}2\n", name)).records()
        assert found.value == {"q": "1,5", "a": "2"}


def test_csv_rows_that_are_none(tmp_path: Path) -> None:
    rows = [b"1,2", b"3", b"4,5,6", b'"x"y,7', b"\xe9,8", b"9,\x00", b'"open,10']
    source = Csv(file(tmp_path, b"q,a\n" + b"\n".join(rows), "data.csv"))
    found = list(source.records())
    expected = [None, "1 fields, and the header has 2", "3 fields", "not CSV", "not UTF-8: column 'q'", None, "not CSV"]
    assert [r.line for r in found] == [2, 3, 4, 5, 6, 7, 8] and source.count() == 7
    for row, r, reason in zip(rows, found, expected, strict=True):
        assert (r.reason is None) if reason is None else r.reason is not None and r.reason.startswith(reason)
        if reason:
            assert r.raw.rstrip(b"\n") == row
    assert found[5].value == {"q": "9", "a": "\x00"}


def test_csv_rows_that_are_too_long(tmp_path: Path, small: int) -> None:
    content = "q,a\n1,2\n" + "x" * 350 + ",3\n4,5\n" + '"' + "y" * 60 + '","' + "z" * 60 + '"\n6,7\n'
    found = list(Csv(file(tmp_path, content, "data.csv")).records())
    assert [r.value["q"] if r.value else None for r in found] == ["1", None, "4", None, "6"]
    assert all("longer than" in r.reason for r in found if r.reason) and len(found[1].raw) == 10


def test_csv_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two columns are named 'a'"):
        list(Csv(file(tmp_path, "a,b,a\n1,2,3\n", "data.csv")).records())
    assert list(Csv(file(tmp_path, "", "data.csv")).records()) == []


# Rows of tables


def test_rows_as_json() -> None:
    row = {
        "nested": {"a": None, "b": [1.5, float("nan"), {"c": None}]},
        "none": None,
        "bytes": b"\x00\xff",
        "date": datetime.datetime(2024, 5, 6, 7, 8, 9),
        "decimal": Decimal("1.10"),
        "lone": "\ud800",
    }
    found = row_record(3, "x", row)
    assert found.value == {
        "nested": {"b": [1.5, None, {}]},
        "none": None,
        "bytes": "AP8=",
        "date": "2024-05-06T07:08:09",
        "decimal": "1.10",
        "lone": "\ud800",
    }
    assert found.raw.endswith(b"\n") and json.loads(found.raw) == found.value


# Files


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "{}")

    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match=r"Cannot read .*data\.jsonl: Permission denied\. Check"):
            Jsonl(path)
    source = Jsonl(path)
    path.unlink()
    with pytest.raises(UserError, match="Cannot read"):
        list(source.records())


def test_identity_follows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "x" * 1000)
    before = Jsonl(path).identity
    os.utime(path, (1, 1))
    assert Jsonl(path).identity == before, "a copy is the same data"
    file(tmp_path, "x" * 500 + "y" + "x" * 499)
    assert Jsonl(path).identity != before
    monkeypatch.setattr(text, "CHUNK", 4)  # too large to be hashed whole
    large = Jsonl(path).identity
    os.utime(path, (2, 2))
    assert Jsonl(path).identity != large
