"""A data set of chat samples, read as a stream as often as wanted."""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from personavec.data.formats import Format, recognise
from personavec.data.messages import Message, MisfitError
from personavec.data.record import Record
from personavec.data.sources import Found, Source, find_sources
from personavec.data.tables import rows_of
from personavec.errors import UserError
from personavec.files import printable

FIRST = 100  # records that the format is recognised from


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to be trained on.

    Attributes:
        id: Hash of messages, turns and tools, the same wherever and however the sample is written down. A sample that
            stands twice in the data has one id; `index`, or `source` with `line`, tells the two apart.
        index: Place in the whole data set, counted from 0; samples and rejected records are counted together.
        line, source, raw: See `Record`.
        messages: For the chat template: role (system, user, assistant, tool), content (text, perhaps empty) and, where
            given, tool_calls, name, tool_call_id, reasoning_content.
        turns: Indexes of the assistant messages that have text, answer something and are trained on.
        tools: The tools on offer, as chat templates take them.
    """

    id: str
    index: int
    line: int
    source: str
    raw: bytes
    messages: list[Message]
    turns: list[int]
    tools: list[Any]

    def rejected(self, reason: str) -> "Rejected":
        """The record as one that is no sample after all."""
        return Rejected(self.index, self.line, self.source, self.raw, reason)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is no sample, and why. See `Sample` and `Record` for the rest."""

    index: int
    line: int
    source: str
    raw: bytes
    reason: str

    def as_json(self) -> dict[str, JsonValue]:
        """A line of rejected.jsonl."""
        raw = self.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        return {"line": self.line, "source": self.source, "reason": self.reason, "raw": raw}


class Dataset:
    """Samples in a fixed order; nothing but the record at hand is in memory.

    `open_data` and `from_dataset` make it. Iterating yields a `Sample` or a `Rejected` for every record.

    Attributes:
        sources: What is read, in this order.
        format: The name of the format, one of `personavec.data.FORMATS`; "unknown" where no record could be parsed, so
            that all are rejected.
        form: The same with its columns: how every record is read.
        columns: Which column of the first records holds what.
        notes: What a user should know: what was left out, which columns and which fields of messages are not
            read, by the first records of every source.
        size: Bytes on disk of all sources; None where that is not known.
    """

    def __init__(
        self,
        found: Found,
        format: str | Format | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self._sources, self._folders = found.sources, found.folders
        self._taken: tuple[int, int] = (0, 1)  # which records: the first, and every how many
        first = _first(self.records())
        self.form = format if isinstance(format, Format) else recognise(first, _names(self._sources), format, columns)
        present: dict[str, None] = {}
        told = self.form.notes(_noting(first if len(self._sources) == 1 else self._heads(), present))
        self.columns = {role: column for role, column in self.form.columns.items() if column in present}
        unread = [column for column in present if column not in self.columns.values()]
        self.notes = [*found.notes]
        if unread:
            more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
            self.notes.append(
                printable(f"Columns that are not read: {', '.join(f'{c:.60}' for c in unread[:10])}{more}.")
            )
        self.notes += map(printable, told)

    @property
    def sources(self) -> list[str]:
        """Names of the files, or of the data set on the hub."""
        return [source.name for source in self._sources]

    @property
    def format(self) -> str:
        """Name of the format that the records are read as."""
        return self.form.name

    @property
    def size(self) -> int | None:
        """Bytes of all sources; None where one does not know."""
        sizes = [source.size for source in self._sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def records(self) -> Iterator[Record]:
        """The raw records of all sources.

        Raises:
            UserError: A source cannot be read, is damaged, ends in the middle, or was changed since it was opened.
        """
        for source in self._sources:
            source.check_unchanged()
            yield from source.records()
            source.check_unchanged()

    def _heads(self) -> Iterator[Any]:
        """What the first records of every source hold: of one folder, files need not be alike."""
        for source in self._sources:
            yield from _first(source.records())

    def __iter__(self) -> Iterator[Sample | Rejected]:
        first, step = self._taken
        for index, record in islice(enumerate(self.records()), first, None, step):
            yield read_sample(index, record, self.form)

    def every(self, step: int, first: int = 0) -> "Dataset":
        """Every so many of its records, from a first one on; with their indices among all."""
        part = copy.copy(self)
        part._taken = (first, step)
        for kept in ("total", "digest"):
            part.__dict__.pop(kept, None)
        return part

    def check_apart(self, out: Path | str) -> None:
        """Make sure that a run's folder holds none of the data: the run's own files would take their place.

        Raises:
            UserError: It does. A folder of its own beside the data, inside of theirs, holds none of them.
        """
        if any(folder.is_relative_to(Path(out).resolve()) for folder in self._folders):
            raise UserError(
                printable(f"Data of this run are in {out}, which is to be its folder."),
                "Choose another with `out`; one inside of it will do.",
            )

    @cached_property
    def total(self) -> int | None:
        """How many records there are; None where that is not known (a stream from the hub).

        Text files are gone through once for it, without parsing: a damaged one is found here, before the work begins.
        """
        total = 0
        for source in self._sources:
            count = source.count()
            if count is None:
                return None
            total += count
        first, step = self._taken
        return len(range(first, total, step))

    @cached_property
    def digest(self) -> str:
        """Identity of the data and of how it is read, for run folders: changes when a file changes."""
        digest = hashlib.sha256()
        for source in self._sources:
            source.check_unchanged()
            digest.update(source.identity.encode() + b"\n")
        digest.update(json.dumps([self.format, sorted(self.form.columns.items())]).encode())
        if self._taken != (0, 1):
            digest.update(repr(self._taken).encode())
        return digest.hexdigest()[:16]


class Joined(Dataset):
    """Several data sets after another, each read in its own format.

    Args:
        name: Of them all.
    """

    def __init__(self, parts: Sequence[Dataset], name: str) -> None:
        self._parts, self._name = parts, name
        self._folders = frozenset[Path]().union(*(part._folders for part in parts))
        self.form, self.columns, self.notes = parts[0].form, parts[0].columns, []

    def every(self, step: int, first: int = 0) -> Dataset:
        """Take it of the parts."""
        raise NotImplementedError

    @property
    def sources(self) -> list[str]:
        """Their name."""
        return [self._name]

    @property
    def size(self) -> int | None:
        """Not known."""
        return None

    def __iter__(self) -> Iterator[Sample | Rejected]:
        for index, record in enumerate(record for part in self._parts for record in part):
            yield replace(record, index=index)

    @cached_property
    def total(self) -> int | None:
        """How many records there are; None where that is not known of one."""
        totals = [part.total for part in self._parts]
        return None if None in totals else sum(total for total in totals if total is not None)

    @cached_property
    def digest(self) -> str:
        """Identity of all parts, in their order."""
        return hashlib.sha256(json.dumps([part.digest for part in self._parts]).encode()).hexdigest()[:16]


def open_data(
    sources: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
) -> Dataset:
    """Open chat training data.

    Args:
        sources: Files (.jsonl, .ndjson, .json, .csv, .tsv, also with .gz or .zst, and .parquet), folders of them (read
            in the order of their names), folders of `datasets`' save_to_disk, ids on the Hugging Face hub
            ("owner/name" or "owner/name:configuration").
        format: One of `FORMATS`; None: what most of the first 100 records are.
        columns: Which column holds what, such as {"prompt": "q", "response": "a"}.
        split: Of a saved data set, one on the hub, or a JSON object of several lists.

    Raises:
        UserError: A source is missing, empty, damaged or of no known kind, or its format is not recognised.

    Example:
        >>> data = open_data("data.jsonl")
        >>> [item.reason for item in data if isinstance(item, Rejected)]
    """
    names = [sources] if isinstance(sources, str | Path) else sources
    return _opened(find_sources(names, split), format, columns)


def from_dataset(
    dataset: Any,
    *,
    format: str | Format | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
) -> Dataset:
    """A `datasets.Dataset` or `IterableDataset` that is already there; for a dictionary of them, one split.

    Args:
        format: Its name, or the `form` of a data set that was read before; None: it is recognised.

    Raises:
        UserError: It is empty, has no such split, or its format is not recognised.
    """
    found = Found([rows_of(dataset, "the data set", split)], [], frozenset())
    return _opened(found, format, columns)


def _opened(found: Found, format: str | Format | None, columns: Mapping[str, str] | None) -> Dataset:
    data = Dataset(found, format, columns)
    if next(data.records(), None) is None:
        raise UserError(
            f"There is no record in {_names(found.sources)}.", "The file is empty or holds blank lines only."
        )
    return data


def read_sample(index: int, record: Record, format: Format) -> Sample | Rejected:
    """The sample that a record holds in a format, or why it holds none."""
    reason = record.reason
    if reason is None:
        try:
            content = format.read(record.value)
            told = json.dumps([content.messages, content.turns, content.tools], ensure_ascii=False, sort_keys=True)
            id = hashlib.sha256(told.encode()).hexdigest()[:16]
            return Sample(
                id, index, record.line, record.source, record.raw, content.messages, content.turns, content.tools
            )
        except MisfitError as error:
            reason = printable(str(error))
        except UnicodeEncodeError as error:
            reason = f"half of a surrogate pair (U+{ord(error.object[error.start]):04X}), which is no character"
        except RecursionError:
            reason = "nested too deeply"
    return Rejected(index, record.line, record.source, record.raw, reason)


def _first(records: Iterable[Record]) -> list[Any]:
    """What the first of some records hold that could be parsed."""
    return list(islice((r.value for r in records if isinstance(r.value, dict | list)), FIRST))


def _noting(values: Iterable[Any], present: dict[str, None]) -> Iterator[Any]:
    """The values, while the names of their columns are put down."""
    for value in values:
        if isinstance(value, dict):
            present.update(dict.fromkeys(value))
        yield value


def _names(sources: Sequence[Source]) -> str:
    names = [source.name for source in sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
