"""What was measured of every sample of a data set: on disk, in the parts of a scan, and read a block at a time."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from personavec.projection.measure import SampleMeasurements

ROWS = 1 << 14  # in memory at a time


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a table; n samples.

    Attributes:
        rows: (n,) their numbers in the table.
        ids, indices, lines, sources: (n,) as `Sample` has them.
        asked: (n,) a number that samples with the same prompt share, see `prompt_key`.
        measured: Of these samples.
    """

    rows: NDArray[np.intp]
    ids: pa.ChunkedArray
    indices: NDArray[np.int64]
    lines: NDArray[np.int64]
    sources: pa.ChunkedArray
    asked: NDArray[np.int64]
    measured: SampleMeasurements

    def __len__(self) -> int:
        return len(self.rows)


class Table(Collection[str]):
    """The rows of several Parquet files, in order. As a collection, the ids of the samples.

    Args:
        paths: Files of `Scanner`; they must stay as they are.
        directions: How many were projected on.
    """

    def __init__(self, paths: Sequence[Path], directions: int) -> None:
        counts = {path: pq.read_metadata(path).num_rows for path in paths}
        self._paths = [path for path, count in counts.items() if count]  # no file without a sample
        self._starts = np.cumsum([0, *(count for count in counts.values() if count)])
        self._directions = directions
        self._whole: Block | None = None  # if it is one

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[str]:
        for path in self._paths:
            yield from _read(path, ["id"])["id"].to_pylist()

    def __contains__(self, identity: object) -> bool:
        return any(one == identity for one in self)

    def blocks(self) -> Iterator[Block]:
        """All rows in order, so many at a time that memory does not depend on how many there are."""
        if len(self) <= ROWS and self._paths:
            self._whole = self._whole or self.take(np.arange(len(self)))
            yield self._whole
            return
        held: list[pa.Table] = []
        start = 0
        for path, end in zip(self._paths, self._starts[1:], strict=True):
            held.append(_read(path))
            if end - start >= ROWS or end == len(self):
                yield self._block(np.arange(start, end, dtype=np.intp), pa.concat_tables(held))
                held, start = [], int(end)

    def take(self, rows: ArrayLike) -> Block:
        """Rows (n,), none twice, in the order given."""
        wanted = np.asarray(rows, dtype=np.intp)
        order = np.argsort(wanted, kind="stable")
        of = np.searchsorted(self._starts, wanted[order], "right") - 1
        pieces = [
            _read(self._paths[part]).take(wanted[order][of == part] - self._starts[part]) for part in np.unique(of)
        ]
        if not pieces:
            return self._block(wanted, _read(self._paths[0]).slice(0, 0))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return self._block(wanted, pa.concat_tables(pieces).take(back))

    def _block(self, rows: NDArray[np.intp], table: pa.Table) -> Block:
        def column(name: str) -> NDArray[Any]:
            return np.asarray(table[name].to_numpy(), dtype=np.float64)

        several = range(self._directions)
        measured = SampleMeasurements(
            answers=np.stack([column(f"answer_{k}") for k in several], 1),
            prompts=np.stack([column(f"prompt_{k}") for k in several], 1),
            answer_tokens=column("answer_tokens"),
            prompt_tokens=column("prompt_tokens"),
            refusals=column("refusal"),
            truncated=column("truncated"),
        )
        indices, lines, asked = (table[name].to_numpy() for name in ("index", "line", "asked"))
        return Block(rows, table["id"], indices, lines, table["source"], asked, measured)


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read(columns)
