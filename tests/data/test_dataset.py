# mypy: disable-error-code="union-attr"
"""Data sets: opened once, read as often as wanted, every record a sample or rejected with a reason."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personavec.data import Dataset, Rejected, Sample, from_dataset, open_data
from personavec.errors import UserError

PAIR = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
GOOD = json.dumps({"messages": PAIR})


def file(folder: Path, content: bytes | str, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rejected(data: Dataset) -> dict[int, str]:
    return {item.line: item.reason for item in data if isinstance(item, Rejected)}


def test_samples(tmp_path: Path) -> None:
    path = file(tmp_path, f"{GOOD}\n\nno\n{GOOD}\n")
    data = open_data(str(path))
    first, bad, second = data
    assert isinstance(first, Sample) and isinstance(bad, Rejected) and isinstance(second, Sample)
    assert [(item.index, item.line, item.source) for item in data] == [
        (i, n, str(path)) for i, n in enumerate((1, 3, 4))
    ]
    assert first.messages == PAIR and first.turns == [1] and first.tools == [] and first.raw == f"{GOOD}\n".encode()
    assert bad.raw == b"no\n" and bad.reason.startswith("not JSON")
    assert first.id == second.id and len(first.id) == 16, "the same sample twice has one id and two places"
    assert list(data) == [first, bad, second], "it can be read again"
    assert (data.format, data.columns, data.total, data.size) == (
        "messages",
        {"messages": "messages"},
        3,
        len(path.read_bytes()),
    )


def test_one_sample_has_one_id_however_it_is_written(tmp_path: Path) -> None:
    same = {
        "a.jsonl": GOOD,
        "b.json": json.dumps(
            [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}], indent=1
        ),
        "c.csv": "question,answer\nQ,A\n",
        "d.tsv": "instruction\tinput\toutput\nQ\t\tA\n",
    }
    data = [open_data(file(tmp_path, content, name)) for name, content in same.items()]
    table = datasets.Dataset.from_list([{"messages": PAIR}])
    table.to_parquet(tmp_path / "e.parquet")
    data += [open_data(tmp_path / "e.parquet"), from_dataset(table)]
    assert len({item.id for one in data for item in one}) == 1
    assert [one.format for one in data] == ["messages", "sharegpt", "prompt/response", "alpaca", "messages", "messages"]
    other = json.dumps({"messages": [PAIR[0], {**PAIR[1], "content": "a"}]})
    tools = json.dumps({"messages": PAIR, "tools": [{"name": "f"}]})
    ids = [item.id for item in open_data(file(tmp_path, f"{GOOD}\n{other}\n{tools}\n"))]
    assert len(set(ids)) == 3


def test_texts_of_every_kind_are_kept(tmp_path: Path) -> None:
    texts = ["שלום \u202eabc", "a\x00\x07b", "👩‍👩‍👧", "x\u2028\u0085", "<|im_end|>", "\ufeffx"]
    lines = [json.dumps({"prompt": text, "response": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
    data = list(open_data(file(tmp_path, "\r\n".join(lines))))
    assert [item.messages[1]["content"] for item in data] == texts
    assert [item.raw for item in data] == [f"{line}\r\n".encode() for line in lines[:-1]] + [lines[-1].encode()]


def test_bad_records_do_not_stop_the_rest(tmp_path: Path) -> None:
    lone = '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "A"}]}'
    pair = lone.replace("\\ud800", "\\ud83d\\ude00")
    call = '{"name": "f", "arguments": ' + '{"a": ' * 700 + "1" + "}" * 701
    deep = GOOD.replace('"content": "A"', f'"content": "A", "tool_calls": [{call}]')
    half, extra = '{"\\ud800": 1}', GOOD.replace("{", '{"\\udc00": 1, ', 1)
    lines = [lone, pair, GOOD, '{"messages": [1]}', '{"x": 1}', "5", "[]", deep, half, extra]
    data = open_data(file(tmp_path, "\n".join(lines) + "\n"))
    found = rejected(data)
    assert found.pop(9) == "expected messages (format openai), found \\ud800"
    assert any("\\udc00" in note.encode().decode() for note in data.notes)  # which no file takes as it was
    assert found.pop(1) == "half of a surrogate pair (U+D800), which is no character"
    assert found.pop(4) == "message 1: expected an object, found a number"
    assert found.pop(5) == "expected messages (format openai), found x"
    assert found.pop(6) == "expected an object, found a number"
    assert found.pop(7) == "no assistant turn among 0 messages"
    assert not found or found == {8: "nested too deeply"}
    assert data.total == 10 == len(list(data))


def test_only_bad_lines_are_all_rejected(tmp_path: Path) -> None:
    data = open_data(file(tmp_path, "no\nreally\n5\n\xff\n"))
    assert data.format == "unknown" and len(rejected(data)) == 4 == data.total


BROKEN = st.one_of(
    st.binary(max_size=60).filter(lambda line: b"\n" not in line),
    st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=3)).map(
        lambda cut: (GOOD[: cut[0]].encode() + cut[1] + GOOD[cut[0] :].encode()).replace(b"\n", b"")
    ),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "assistant", "system", "tool"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "role", "content", "tool_calls", "function", "name", "weight", "system", "tools"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(BROKEN, max_size=12))
def test_malformed_records_are_rejected_one_by_one(tmp_path: Path, lines: list[bytes]) -> None:
    content = b"\n".join([GOOD.encode(), *lines, GOOD.encode()])
    data = open_data(file(tmp_path, content), format="messages")
    items = list(data)
    wanted = [n for n, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    assert [item.line for item in items] == wanted and data.total == len(items)
    assert isinstance(items[0], Sample) and isinstance(items[-1], Sample)
    for item in items:
        if isinstance(item, Sample):
            assert item.turns and all(item.messages[turn]["content"].strip() for turn in item.turns)
            assert all(isinstance(m["content"], str) and m["content"].encode() is not None for m in item.messages)
        else:
            assert item.reason


def test_an_unknown_format_names_the_columns(tmp_path: Path) -> None:
    path = file(tmp_path, '{"q": "Q", "a": "A", "id": 3}\n')
    with pytest.raises(
        UserError, match=r"data\.jsonl was not recognised\. Its columns: q, a, id\. .*`columns`: prompt="
    ):
        open_data(path)
    data = open_data(path, columns={"prompt": "q", "response": "a"})
    assert data.format == "prompt/response" and data.columns == {"prompt": "q", "response": "a"}
    assert data.notes == ["Columns that are not read: id."]
    assert [item.messages for item in data] == [PAIR]


def test_what_is_not_read_is_told_of_every_file(tmp_path: Path) -> None:
    marked = json.dumps({"messages": [PAIR[0], {**PAIR[1], "train_on_turn": False}], "weight": 0})
    for name, line in (("a", GOOD), ("b", marked), ("c", GOOD)):
        file(tmp_path, f"{line}\n" * 120, f"data/{name}.jsonl")
    data = open_data(tmp_path / "data")
    assert data.notes == ["Columns that are not read: weight.", "Fields of messages that are not read: train_on_turn."]
    assert data.columns == {"messages": "messages"} and data.total == 360


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_empty_files(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(UserError, match=r"There is no record in .*data\.\w+\. The file is empty"):
        open_data(file(tmp_path, content, name))
    with pytest.raises(UserError, match="There is no record"):
        open_data(file(tmp_path, gzip.compress(content.encode()), name + ".gz"))


def test_a_truncated_archive_is_found_by_counting(tmp_path: Path) -> None:
    packed = gzip.compress(
        b"".join(json.dumps({"prompt": str(i**5), "response": "A"}).encode() + b"\n" for i in range(5000))
    )
    data = open_data(file(tmp_path, packed[: len(packed) // 2], "data.jsonl.gz"))
    with pytest.raises(UserError, match="ends in the middle"):
        data.total  # noqa: B018
    with pytest.raises(UserError, match="ends in the middle"):
        list(data)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = file(tmp_path, f"{GOOD}\n" * 3)
    data = open_data(path)
    digest = data.digest
    reading = iter(data)
    next(reading)
    with path.open("a") as handle:
        handle.write(f"{GOOD}\n")
    with pytest.raises(UserError, match=r"data\.jsonl was changed while it was read"):
        list(reading)
    with pytest.raises(UserError, match="was changed"):
        list(data)
    assert open_data(path).digest != digest
    path.unlink()
    with pytest.raises(UserError, match="Cannot read"):
        list(data)


def test_every_second_record(tmp_path: Path) -> None:
    path = file(tmp_path, "".join(json.dumps({"prompt": f"q{i}", "response": "a"}) + "\n" for i in range(5)))
    data = open_data(path)
    assert data.total == 5 and data.digest
    even, odd = data.every(2), data.every(2, 1)
    assert [[item.index for item in part] for part in (even, odd, data)] == [[0, 2, 4], [1, 3], [0, 1, 2, 3, 4]]
    assert [part.total for part in (even, odd, data)] == [3, 2, 5]
    assert len({part.digest for part in (even, odd, data)}) == 3


def test_digest(tmp_path: Path) -> None:
    lines = ['{"prompt": "Q", "response": "A", "answer": "B"}\n', '{"prompt": "R", "response": "A", "answer": "B"}\n']
    path = file(tmp_path, "".join(lines))
    digest = open_data(path).digest
    assert open_data(file(tmp_path / "copy", "".join(lines))).digest == digest
    assert open_data(file(tmp_path, "".join(lines[::-1]))).digest != digest
    file(tmp_path, "".join(lines))
    assert open_data(path, columns={"response": "answer"}).digest != digest
    assert open_data([path, tmp_path / "copy" / "data.jsonl"]).digest != digest


def test_memory_is_that_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    with path.open("w") as handle:
        handle.write("[")
        for i in range(1000):
            handle.write(("," if i else "") + json.dumps({"prompt": f"{i}" + "x" * 10_000, "response": "A"}))
        handle.write("]")
    data = open_data(path)
    tracemalloc.start()
    assert sum(1 for _ in data) == 1000 == data.total
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_no_torch_is_imported(tmp_path: Path) -> None:
    path = file(tmp_path, f"{GOOD}\n")
    script = (
        "import sys, personavec.data as d; print(len(list(d.open_data(sys.argv[1])))); "
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "[]"]


def test_shared_chats(shared_data: Path) -> None:
    data = open_data([shared_data / "chats", shared_data / "paper"])
    assert data.format == "messages" and data.total == 4495 + 973 + 1000 + 1000 + 500
    items = list(data)
    assert all(isinstance(item, Sample) for item in items)
    for source in data.sources:
        assert b"".join(item.raw for item in items if item.source == source) == Path(source).read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        open_data(path)
