"""Records of tables: Parquet files, saved `datasets` folders, data sets in memory and on the Hugging Face hub."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from personavec.data.record import Record, row_record
from personavec.data.text import File, cannot_read
from personavec.errors import UserError

ROWS = 100  # rows taken at a time


class Parquet(File):
    """A Parquet file, read one row group after the other."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _parquet(path) as file:
            names = file.schema_arrow.names
            self._rows: int = file.metadata.num_rows
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{self.name}: two columns are named {twice!r}.", "Rename one of them.")

    def records(self) -> Iterator[Record]:
        """All records, in order."""
        import pyarrow

        number = 0
        with _parquet(self.path) as file:
            batches = file.iter_batches(batch_size=ROWS)
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                except (pyarrow.ArrowException, OSError) as error:
                    raise _damaged(self.path, f"after row {number}: {error}") from error
                for record in _batch_records(batch, self.name, number):
                    number = record.line
                    yield record

    def count(self) -> int:
        """How many records there are."""
        return self._rows


class Rows:
    """A `datasets.Dataset` or `IterableDataset`; images and sound in it are not decoded.

    Args:
        name: What the user calls it.
        known: What identifies its content, where that is known.
    """

    def __init__(self, dataset: Any, name: str, known: str | None = None, rows: int | None = None) -> None:
        self.dataset, self.name = dataset.with_format("arrow"), name
        self.size: int | None = None
        self._known = known
        self._count = len(dataset) if hasattr(dataset, "__len__") else rows

    def records(self) -> Iterator[Record]:
        """All records, in order."""
        number = 0
        batches = self.dataset.iter(batch_size=ROWS)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:  # the network, or code of the user's that makes the rows
                raise UserError(
                    f"{self.name} cannot be read after row {number} ({_short(error)}).", "Mend this and start again."
                ) from error
            for record in _batch_records(batch, self.name, number):
                number = record.line
                yield record

    def count(self) -> int | None:
        """How many records there are; None where that is not known before they are read."""
        return self._count

    @cached_property
    def identity(self) -> str:
        """What tells this data set from another: its length and its rows; of a stream, the first 100."""
        if self._known is not None:
            return self._known
        digest = hashlib.sha256(repr(self._count).encode())
        for record in self.records() if self._count is not None else islice(self.records(), ROWS):
            digest.update(record.raw)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Nothing to check: the rows are in memory or of one revision."""


def saved(folder: Path, split: str | None) -> Rows:
    """What `save_to_disk` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # a folder of somebody else's can be wrong in any way
        raise UserError(f"{folder} cannot be read as a saved data set ({_short(error)}).", "Save it again.") from error
    return rows_of(found, str(folder), split)


def rows_of(found: Any, name: str, split: str | None, known: str | None = None) -> Rows:
    """One split of what `datasets` gives back: a data set, or a dictionary of them."""
    if isinstance(found, dict):
        if split is None and len(found) == 1:
            split = next(iter(found))
        if split not in found:
            wrong = "" if split is None else f" and none named {split}"
            raise UserError(f"{name} has the splits {', '.join(found)}{wrong}.", "Choose one with `split`.")
        found, name = found[split], f"{name} ({split})"
    elif split is not None and split != str(found.split):
        raise UserError(f"{name} has no splits; {split!r} cannot be taken.", "Leave `split` out.")
    info = (getattr(found.info, "splits", None) or {}).get(split)
    return Rows(found, name, known and f"{known} {split}", getattr(info, "num_examples", None))


def hub(id: str, split: str | None) -> Rows:
    """A data set on the Hugging Face hub, streamed: "owner/name", or "owner/name:configuration".

    It is read at the revision that is the newest now, which its identity names.
    """
    import datasets
    from huggingface_hub import HfApi

    name, _, configuration = id.partition(":")
    try:
        revision = HfApi().dataset_info(name).sha
        found = datasets.load_dataset(name, configuration or None, revision=revision, streaming=True)
    except Exception as error:  # the network, the hub, its permissions, and whatever the data set's author did
        raise UserError(
            f"Neither a file nor a readable data set on the hub: {id} ({_short(error)}).",
            "Check the name; a configuration is written owner/name:configuration.",
        ) from error
    return rows_of(found, id, split, known=f"{id}@{revision}")


def _parquet(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise _damaged(path, _short(error)) from error
    except OSError as error:
        raise (cannot_read(path, error) if error.errno else _damaged(path, _short(error))) from error


def _batch_records(batch: Any, name: str, before: int) -> Iterator[Record]:
    """Records of a record batch or table; rows that cannot be turned into values are refused one by one."""
    try:
        rows = batch.to_pylist()
    except Exception:  # text that is not UTF-8, dates out of range: find the row
        for i in range(batch.num_rows):
            try:
                [row] = batch.slice(i, 1).to_pylist()
            except Exception as error:
                yield Record(before + i + 1, name, b"", None, f"not readable: {_short(error)}")
            else:
                yield row_record(before + i + 1, name, row)
        return
    for i, row in enumerate(rows, before + 1):
        yield row_record(i, name, row)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or ends in the middle ({what}).", "Copy or download it again.")


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
