"""What a screening leaves behind: scores.parquet, kept.jsonl, flagged.jsonl and rejected.jsonl, whole or absent."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from personavec.data import Dataset, Rejected
from personavec.errors import UserError
from personavec.files import replacing, to_json

BOM = b"\xef\xbb\xbf"

Column: TypeAlias = NDArray[np.generic] | pa.ChunkedArray


def write_scores(path: Path, pieces: Iterable[Mapping[str, Column]]) -> None:
    """Write columns as Parquet, piece by piece; there is at least one piece, and all have the same columns."""
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(path))
        writer: pq.ParquetWriter | None = None
        for piece in pieces:
            table = pa.table(dict(piece))
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(temporary, table.schema))
            writer.write_table(table)


@dataclass(frozen=True)
class Split:
    """How many records went where.

    Attributes:
        kept, flagged, rejected: Records in the file of that name.
        useless: Of each source that held no sample, how many records were rejected.
    """

    kept: int
    flagged: int
    rejected: int
    useless: dict[str, int]

    @property
    def records(self) -> int:
        """All of them."""
        return self.kept + self.flagged + self.rejected


class _Lines:
    """A file that gets records as they are, each on a line of its own."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle, self._ended = handle, True  # a file's last line may lack its newline
        self.count = 0

    def write(self, line: bytes) -> None:
        if not self._ended:
            self._handle.write(b"\n")
        # A mark at the start of a file is no part of its first line, and in the middle of one an error.
        line = line.removeprefix(BOM) if self.count else line
        self._handle.write(line)
        self._ended = line.endswith(b"\n")
        self.count += 1


def split(
    folder: Path,
    data: Dataset,
    indices: Iterable[int],
    flagged: NDArray[np.bool_],
    reasons: Mapping[int, str],
    advance: Callable[[int], None],
) -> Split:
    """Write every record of a data set into kept.jsonl, flagged.jsonl or rejected.jsonl, in order.

    Kept and flagged lines are the original bytes, but for the byte order mark of a file that is not the first.

    Args:
        indices: Of the n samples, in the order of the data.
        flagged: (n,).
        reasons: Why a record that the data set took for a sample was rejected later, by index.

    Raises:
        UserError: The data set is not what it was when it was read.
    """
    expected = zip(indices, flagged, strict=True)
    useless: dict[str, int] = {}
    useful: set[str] = set()
    with ExitStack() as stack:

        def opened(name: str) -> _Lines:
            temporary = stack.enter_context(replacing(folder / f"{name}.jsonl"))
            return _Lines(stack.enter_context(temporary.open("wb")))

        kept, out, rejected = map(opened, ("kept", "flagged", "rejected"))
        for record in data:
            advance(1)
            if not isinstance(record, Rejected) and (reason := reasons.get(record.index)) is not None:
                record = record.rejected(reason)
            if isinstance(record, Rejected):
                rejected.write(to_json(record.as_json()).encode() + b"\n")
                useless[record.source] = useless.get(record.source, 0) + 1
                continue
            index, flag = next(expected, (None, False))
            if index != record.index:
                raise _changed()
            (out if flag else kept).write(record.raw)
            useful.add(record.source)
        if next(expected, None) is not None:
            raise _changed()
    useless = {source: count for source, count in useless.items() if source not in useful}
    return Split(kept.count, out.count, rejected.count, useless)


def _changed() -> UserError:
    return UserError("The data changed while they were screened.", "Start again with another `out`.")
