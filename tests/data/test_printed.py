"""Lists in cells of text: read where Python or JSON would read one thing, and never run."""

import warnings
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from personavec.data import open_data
from personavec.data.printed import described, from_text
from personavec.errors import UserError

CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": 'it\'s\n "so" \\d'},
    {"role": "assistant", "content": "don't é", "n": None},
]


@pytest.mark.parametrize("value", [CHAT, [["Q", "A"], ["it's", '"']], [], [1, 2.5, True], [{"a": [{"b": ("c",)}]}]])
def test_a_printed_list_is_read(value: Any) -> None:
    expected = [{"a": [{"b": ["c"]}]}] if value and value[0] == {"a": [{"b": ("c",)}]} else value
    assert from_text(str(value)) == from_text(f" {value}\n") == expected


@pytest.mark.parametrize(
    "text",
    [
        str(np.array(CHAT, dtype=object)),
        str(np.array([["a", "b"]])),
        "['a' 'b']",
        "[{'a': ['b'\n 'c']}]",
        "[{'a': 1, 'a': 2}]",
        "[nan]",
        "[b'x']",
        "[{1, 2}]",
        "[...]",
        "[open('/etc/passwd')]",
        "[__import__('os').getcwd()]",
        "[" * 100_000,
        "[" * 90 + "]" * 90 + "x",
        "['\0']",
        "['\ud800' 5]",
        "hello",
        "[" + "1" * 5000 + ", None]",
        "[1] + [2]",
    ],
)
def test_what_is_no_list_of_plain_values_stays_text(text: str) -> None:
    assert from_text(text) == text


def test_texts_beside_each_other_in_parentheses_are_one_text_to_everybody() -> None:
    assert from_text("[{'a': ('b'\n 'c')}, 'd e']") == [{"a": "bc"}, "d e"]
    assert from_text("['it is \\'a\\' \\'b\\'', 'c']") == ["it is 'a' 'b'", "c"]


def test_a_backslash_that_escapes_nothing_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_text("['\\d', 'x']") == ["\\d", "x"]


def test_descriptions() -> None:
    assert described([]) == "a list"
    assert described({}) == "an object"
    assert described([[{"x": 1}]]) == "a list of list of object with the fields 'x'"
    assert described("[" + "1 " * 50).endswith(f"{('[' + '1 ' * 50)[:40]}…")


def test_a_table_that_pandas_wrote(tmp_path: Any) -> None:
    """Lists come back as they were; of NumPy's arrays, which a Parquet file gives, the way out is said."""
    table = pd.DataFrame({"messages": [CHAT, CHAT], "n": [1, 2]})
    table.to_csv(tmp_path / "lists.csv", index=False)
    found = [getattr(item, "messages", None) for item in open_data(tmp_path / "lists.csv")]
    assert found == 2 * [[{"role": m["role"], "content": m["content"]} for m in CHAT]]
    table["messages"] = [np.array(CHAT, dtype=object) for _ in range(2)]
    table.to_csv(tmp_path / "arrays.csv", index=False)
    with pytest.raises(UserError, match="as NumPy prints it") as caught:
        open_data(tmp_path / "arrays.csv")
    assert 'table["messages"].map(lambda cell: json.dumps(list(cell)))' in str(caught.value)
