"""What a screening leaves behind: scores.parquet, kept.jsonl, flagged.jsonl and rejected.jsonl, whole or absent."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from personavec.data import Dataset, Rejected
from personavec.errors import UserError
from personavec.files import cannot_write, to_json

BOM = b"\xef\xbb\xbf"

Column: TypeAlias = NDArray[np.generic] | pa.ChunkedArray


def write_scores(path: Path, pieces: Iterable[Mapping[str, Column]]) -> None:
    """Write columns as Parquet, piece by piece; there is at least one piece, and all have the same columns."""
    with ExitStack() as stack:
        temporary = stack.enter_context(_whole(path))
        writer: pq.ParquetWriter | None = None
        for piece in pieces:
            table = pa.table(dict(piece))
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(temporary, table.schema))
            writer.write_table(table)


def split(
    folder: Path,
    data: Dataset,
    indices: Iterable[int],
    flagged: NDArray[np.bool_],
    reasons: Mapping[int, str],
    advance: Callable[[int], None],
) -> tuple[dict[str, int], dict[str, int]]:
    """Write every record of a data set into kept.jsonl, flagged.jsonl or rejected.jsonl, in order.

    Kept and flagged lines are the original bytes, but for the byte order mark of a file that is not the first.

    Args:
        indices: Of the n samples, in the order of the data.
        flagged: (n,).
        reasons: Why a record that the data set took for a sample was rejected later, by index.

    Returns:
        {"read", "kept", "flagged", "rejected"}: counts, read is the sum of the others; and, by its name, how many
        records of each source that held no sample were rejected.

    Raises:
        UserError: The data set is not what it was when it was read.
    """
    counts = {"read": 0, "kept": 0, "flagged": 0, "rejected": 0}
    ended = dict.fromkeys(counts, True)  # a file's last line may lack its newline
    row, expected = 0, iter(indices)
    useless: dict[str, int] = {}
    useful: set[str] = set()
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name in ("kept", "flagged", "rejected"):
            temporary = stack.enter_context(_whole(folder / f"{name}.jsonl"))
            files[name] = stack.enter_context(temporary.open("wb"))
        for record in data:
            counts["read"] += 1
            advance(1)
            if isinstance(record, Rejected) or record.index in reasons:
                kind = "rejected"
                reason = record.reason if isinstance(record, Rejected) else reasons[record.index]
                raw = record.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
                line = {"line": record.line, "source": record.source, "reason": reason, "raw": raw}
                written = to_json(line).encode() + b"\n"
                useless[record.source] = useless.get(record.source, 0) + 1
            else:
                if next(expected, None) != record.index:
                    raise UserError("The data changed while they were screened.", "Start again with another --out.")
                kind = "flagged" if flagged[row] else "kept"
                # A mark at the start of a file is no part of its first line, and in the middle of one an error.
                written = record.raw.removeprefix(BOM) if counts[kind] else record.raw
                row += 1
                useful.add(record.source)
            if counts[kind] and not ended[kind]:
                files[kind].write(b"\n")
            counts[kind] += 1
            ended[kind] = written.endswith(b"\n")
            files[kind].write(written)
        if row != len(flagged):
            raise UserError("The data changed while they were screened.", "Start again with another --out.")
    return counts, {source: count for source, count in useless.items() if source not in useful}


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
