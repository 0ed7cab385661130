"""Records of text files: JSONL, JSON, CSV and TSV, plain or compressed, read as streams."""

import codecs
import csv
import gzip
import hashlib
import io
import re
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from personavec.data.record import LIMIT, SHOWN, Record, parse, row_record, too_long
from personavec.errors import UserError
from personavec.files import printable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 20
OF_A_RECORD = {"messages", "conversations", "conversation", "prompt", "completion", "chosen"}  # lists inside one record
Piece = tuple[int, bytes, str | None]  # line, bytes, reason


class File(ABC):
    """A file of records.

    Attributes:
        name: The path as the user wrote it, `printable`.
        size: Bytes on disk, None where nobody knows.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, printable(str(path))
        try:
            with path.open("rb"):
                pass
            self._stamp = self._now()
        except OSError as error:
            raise cannot_read(path, error) from error
        self.size: int | None = self._stamp[0]

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """All records, in the order of the file."""

    @abstractmethod
    def count(self) -> int | None:
        """How many records there are."""

    @cached_property
    def identity(self) -> str:
        """What tells this file from another: its name, its size and its content.

        The content counts by 64 blocks of 1 MB; a larger file by blocks spread evenly and by its time of change.
        """
        size, changed = self._stamp
        digest = hashlib.sha256(f"{self.path.name}\0{size}".encode(errors="surrogateescape"))
        blocks = range(0, size, CHUNK)
        if len(blocks) > 64:
            digest.update(f"\0{changed}".encode())
            blocks = range(0, size, size // 63)
        with self.path.open("rb") as handle:
            for start in blocks:
                handle.seek(start)
                digest.update(handle.read(CHUNK))
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Make sure that the file is the one that was opened.

        Raises:
            UserError: It was written or deleted meanwhile.
        """
        try:
            same = self._now() == self._stamp
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if not same:
            raise UserError(f"{self.name} was changed while it was read.", "Wait until it is complete and start again.")

    def _now(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns


class _Text(File):
    """A text file whose records are JSON."""

    def records(self) -> Iterator[Record]:
        for line, raw, reason in self._pieces():
            body = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
            value, reason = (None, reason) if reason else parse(body)
            yield Record(line, self.name, raw, value, reason)

    def count(self) -> int:
        """How many records there are."""
        return sum(1 for _ in self._pieces())

    @abstractmethod
    def _pieces(self) -> Iterator[Piece]: ...


class Jsonl(_Text):
    """One JSON value a line. Lines end with a newline byte and nothing else; blank ones are no records."""

    def _pieces(self) -> Iterator[Piece]:
        with opened(self.path) as handle:
            number = 0
            while line := handle.readline(LIMIT + 1):
                number += 1
                if number == 1:
                    check_encoding(self.name, line)
                if len(line) > LIMIT:
                    length, end = len(line), line
                    while not end.endswith(b"\n") and (end := handle.readline(CHUNK)):
                        length += len(end)
                    yield number, line[:SHOWN], too_long(length)
                elif (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip():
                    yield number, line, None


class Json(_Text):
    """A JSON array of records, or an object with a list of records in it, taken apart without being loaded whole.

    An object without such a list is one record; several JSON values one after the other, each on its line, are read
    as JSONL.

    Args:
        key: Which list of the object; None: the only one.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        super().__init__(path)
        self.key = key
        self._lines = Jsonl(path)
        self._list = self._find_list()
        self.has_lists = isinstance(self._list, int)

    def _find_list(self) -> int | str:
        """Which member of the file's object is the list of records (counted from 0), or "lines", "array", "object"."""
        start = b""
        with opened(self.path) as handle:
            while not start and (line := handle.readline(LIMIT + 1)):
                check_encoding(self.name, line)
                start = line.removeprefix(codecs.BOM_UTF8).strip()
            more = any(line.strip() for line in iter(lambda: handle.readline(CHUNK), b"")) if start else False
        if not start or (more and _whole(start)):
            return "lines"
        if start.startswith(b"["):
            return "array"
        if not start.startswith(b"{"):
            raise UserError(f"{self.name} is not JSON.", "A file of one record a line is named .jsonl.")
        lists: dict[str, int] = {}
        for index, (member, _) in enumerate(self._elements(1, keep=SHOWN)):
            found = _LIST.match(member)
            name, _ = parse(found[1]) if found else (None, None)
            if isinstance(name, str):
                lists[name] = index
        if not lists or lists.keys() & OF_A_RECORD:
            return "object"
        if self.key is None and len(lists) == 1:
            return next(iter(lists.values()))
        if self.key not in lists:
            found_lists = f"{self.name} holds the lists {', '.join(lists)}"
            raise UserError(
                f"{found_lists}{f' and none named {self.key}' if self.key else ''}.", "Choose one with `split`."
            )
        return lists[self.key]

    def _pieces(self) -> Iterator[Piece]:
        if self._list == "lines":
            yield from self._lines._pieces()
            return
        if self._list == "object":
            elements = self._elements(0)
        elif self._list == "array":
            elements = self._elements(1)
        else:
            elements = self._elements(2, member=int(self._list))
        for number, (element, length) in enumerate(elements, 1):
            if length > LIMIT:
                yield number, element[:SHOWN], too_long(length)
            else:
                lines = element.splitlines()
                # Outside of a string a line may break; a string that breaks would be mended by what joins the lines.
                reason = parse(element)[1] if len(lines) > 1 else None
                yield number, b" ".join(line.strip() for line in lines).strip() + b"\n", reason

    def _elements(  # noqa: C901 -- one pass over bytes, a branch for each mark of JSON
        self, level: int, *, member: int = 0, keep: int | None = None
    ) -> Iterator[tuple[bytes, int]]:
        """Bytes and length of what stands between commas, `level` brackets deep, in one member of the whole.

        Of an element longer than `keep` bytes only so many are kept. Level 0 is the whole value.

        Raises:
            UserError: The brackets do not match, the file ends before they close, or goes on after.
        """
        stack = bytearray()  # brackets that are open
        index = 0  # of the member of the outermost bracket
        quoted = escaped = ended = False
        depth, element, number = max(level, 1), _Element(keep or LIMIT), 1
        for chunk in self._chunks():
            begin = 0 if len(stack) >= depth and index == member else None
            position = 1 if escaped else 0
            escaped = False
            for mark in _MARK.finditer(chunk, position):
                sign = mark[0]
                if quoted:
                    quoted = sign != b'"'
                    escaped = sign == b"\\"  # the last byte of the chunk: what it escapes is in the next one
                    continue
                if ended:
                    if sign in b'[]{},"':
                        raise self._broken(number, f"{sign.decode()!r} after the end")
                    continue
                if sign == b'"':
                    quoted = True
                elif sign in b"[{":
                    stack += sign
                    if index == member and len(stack) == depth:
                        begin = mark.start() if level == 0 else mark.end()
                elif sign in b"]}":
                    if not stack or _CLOSING[stack[-1:].decode()] != sign.decode():
                        raise self._broken(number, f"{sign.decode()!r} where it closes nothing")
                    if begin is not None and len(stack) == depth:
                        yield from element.end(chunk[begin : mark.end() if level == 0 else mark.start()])
                        begin = None
                    del stack[-1:]
                    ended = not stack
                elif sign == b",":
                    if begin is not None and len(stack) == level:
                        for found in element.end(chunk[begin : mark.start()]):
                            yield found
                            number += 1
                        begin = mark.end()
                    if level == 2 and len(stack) == 1:
                        index += 1
            if begin is not None:
                element.add(chunk[begin:])
        if not ended:
            raise UserError(
                f"{self.name} ends in the middle, in record {number}: it was cut short.", "Copy or download it again."
            )

    def _chunks(self) -> Iterator[bytes]:
        """The file in pieces, without the mark that it may begin with."""
        with opened(self.path) as handle:
            yield handle.read(CHUNK).removeprefix(codecs.BOM_UTF8)
            yield from iter(lambda: handle.read(CHUNK), b"")

    def _broken(self, number: int, what: str) -> UserError:
        return UserError(
            f"{self.name} is not JSON: {what}, in or after record {number}.",
            "A file of one record a line is named .jsonl; there, a bad line does not spoil the rest.",
        )


class _Element:
    """What stands between two commas, as it comes; of what is longer than `keep` bytes only so many are kept."""

    def __init__(self, keep: int) -> None:
        self._keep, self._kept, self._length = keep, bytearray(), 0

    def add(self, part: bytes) -> None:
        self._kept += part[: self._keep - len(self._kept)]
        self._length += len(part)

    def end(self, part: bytes) -> list[tuple[bytes, int]]:
        """Its bytes and its length, unless it is blank. The next one begins."""
        self.add(part)
        found = [(bytes(self._kept), self._length)] if self._kept.strip() else []
        self._kept, self._length = bytearray(), 0
        return found


class Csv(File):
    """Comma-separated values with a header; semicolons and tabs are recognised from the header."""

    def records(self) -> Iterator[Record]:
        """All records, in order."""
        for number, row, raw, reason in self._rows():
            bad = next((name for name, cell in row.items() if _undecoded(cell)), None)
            if bad is not None:
                reason = f"not UTF-8: column {bad!r}"
            if reason is None:
                yield row_record(number, self.name, row)
            else:
                yield Record(number, self.name, raw, None, reason)

    def count(self) -> int:
        """How many records there are."""
        return sum(1 for _ in self._rows())

    def _rows(self) -> Iterator[tuple[int, dict[str, str], bytes, str | None]]:
        """Line in the file, cells by column, bytes, and why it is no row."""
        csv.field_size_limit(max(csv.field_size_limit(), LIMIT))
        with opened(self.path) as handle:
            text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
            lines = _Lines(text)
            rows = csv.reader(lines, delimiter=self._delimiter(), strict=True)
            try:
                header = next((row for row in rows if any(cell.strip() for cell in row)), [])
            except csv.Error as error:
                raise UserError(f"{self.name}: the header cannot be read ({error}).", "Is this a CSV file?") from error
            check_encoding(self.name, "".join(lines.taken)[:4].encode(errors="surrogateescape"))
            names = [name.strip() or f"column {i}" for i, name in enumerate(header, 1)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UserError(f"{self.name}: two columns are named {twice!r}.", "Rename one of them.")
            while True:
                lines.begin()
                number = lines.number + 1
                row, reason = [], None
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    reason = f"not CSV: {error}"
                if not row and reason is None:
                    continue  # a blank line
                if reason is None and len(row) != len(names):
                    reason = f"{len(row)} fields, and the header has {len(names)}"
                raw = "".join(lines.taken).encode(errors="surrogateescape")
                if len(raw) >= LIMIT:
                    raw, reason = raw[:SHOWN], too_long(len(raw) + lines.skipped)
                yield number, {} if reason else dict(zip(names, row, strict=True)), raw, reason

    def _delimiter(self) -> str:
        with opened(self.path) as handle:
            header = next((line for line in iter(lambda: handle.readline(CHUNK), b"") if line.strip()), b"")
        if ".tsv" in self.path.name.lower():
            return "\t"
        return max(",;\t", key=lambda sign: header.count(sign.encode()))


class _Lines:
    """The lines that a CSV reader takes, with those of the present row kept and the rest of a too long one left out."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text = text
        self.number = 0  # of the line taken last
        self.begin()

    def begin(self) -> None:
        """From here on the lines belong to the next row."""
        self.taken: list[str] = []
        self.skipped = 0  # characters

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = end = self.text.readline(LIMIT)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        while len(line) == LIMIT and end[-1:] not in ("\r", "\n", "") and (end := self.text.readline(CHUNK)):
            self.skipped += len(end)
        if self.skipped:
            raise csv.Error("too long")  # makes the reader begin again at the next line
        return line


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, decompressed if its name ends in .gz or .zst.

    Raises:
        UserError: Here and while reading: it cannot be read, is damaged or ends in the middle.
    """
    try:
        with _open(path) as handle:
            yield handle
    except EOFError as error:
        raise UserError(f"{path} ends in the middle: it was cut short.", "Copy or download it again.") from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise UserError(f"{path} is damaged ({error}).", "Copy or download it again.") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, zstd.open(path, "rb"))
    return path.open("rb")


def cannot_read(path: Path, error: OSError | ValueError) -> UserError:
    """The message for a file that is missing, that may not be read, and the like."""
    return UserError(
        f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.", "Check the path and who may read it."
    )


def check_encoding(name: str, start: bytes) -> None:
    """Refuse a file whose byte order mark says UTF-16 or UTF-32: its lines cannot even be told apart."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise UserError(f"{name} is UTF-16 or UTF-32, not UTF-8.", "Save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")


def _whole(line: bytes) -> bool:
    """Whether a first line is a JSON value by itself; one that is too long is taken for the whole of the file."""
    return len(line) <= LIMIT and parse(line)[1] is None


def _undecoded(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


_LIST = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*\[\s*[\[{]')  # a member of an object that is a list of records
_MARK = re.compile(rb'\\.?|["\[\]{},]', re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}
