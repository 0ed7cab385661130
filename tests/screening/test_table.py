"""What was measured stays on disk: rows come back in blocks or by number, and what is picked from a stream of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personavec.screening import table as table_module
from personavec.screening.extremes import Extremes, farthest, select
from personavec.screening.table import Table

COUNTS = (3, 0, 4, 1, 5)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    paths, start = [], 0
    for number, count in enumerate(COUNTS):
        rows = np.arange(start, start + count)
        columns = {
            "index": 2 * rows,
            "asked": rows // 2,
            "line": 2 * rows + 1,
            "id": [f"id {row}" for row in rows],
            "source": ["a"] * len(rows),
        }
        if count:  # a part without samples has no measurements
            names = ("answer_tokens", "prompt_tokens", "refusal", "truncated", "answer_0", "prompt_0", "answer_1")
            columns |= {name: rows + 0.25 * at for at, name in enumerate((*names, "prompt_1"))}
        paths.append(tmp_path / f"part-{number}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
        start += count
    return Table(paths, 2)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_blocks_hold_every_row_once_in_order(table: Table, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "ROWS", rows)
    blocks = list(table.blocks())
    assert len(table) == sum(COUNTS) == sum(len(block) for block in blocks)
    assert max(map(len, blocks)) < rows + max(COUNTS)
    assert np.concatenate([block.rows for block in blocks]).tolist() == list(range(13))
    assert np.concatenate([block.lines for block in blocks]).tolist() == list(range(1, 27, 2))
    assert [identity for block in blocks for identity in block.ids.to_pylist()] == list(table)
    answers = np.concatenate([block.measured.answers for block in blocks])
    np.testing.assert_array_equal(answers, np.arange(13)[:, None] + [1.0, 1.5])


def test_rows_are_taken_in_the_order_given(table: Table) -> None:
    block = table.take([12, 0, 6, 7, 3])
    assert block.ids.to_pylist() == ["id 12", "id 0", "id 6", "id 7", "id 3"]
    assert block.rows.tolist() == [12, 0, 6, 7, 3] and block.indices.tolist() == [24, 0, 12, 14, 6]
    np.testing.assert_array_equal(block.measured.prompts[:, 1], block.rows + 1.75)
    nothing = table.take([])
    assert len(nothing) == 0 and nothing.measured.answers.shape == (0, 2)


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=80),
    st.lists(st.integers(1, 25), min_size=1),
    st.integers(-9, 9),
)
def test_what_stands_out_does_not_depend_on_how_the_stream_is_cut(
    numbers: list[int], cuts: list[int], threshold: int
) -> None:
    values, start = np.array(numbers, dtype=float), 0
    stream = Extremes(lambda found: np.array([row for row, _ in select(found, threshold)]))
    table = Extremes(lambda found: farthest(found)[:7])
    while start < len(values):
        end = start + cuts[start % len(cuts)]
        stream.add(np.arange(start, len(values))[: end - start], values[start:end])
        table.add(np.arange(start, len(values))[: end - start], values[start:end, None])
        start = end
    picked = [(int(stream.rows[at]), place) for at, place in select(stream.values, threshold)]
    assert picked == select(values, threshold)
    assert [int(table.rows[at]) for at in farthest(table.values)] == farthest(values[:, None])[:7].tolist()
