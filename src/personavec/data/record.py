"""One raw record of a source, and what makes bytes no record."""

import base64
import datetime
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

LIMIT = 10_000_000  # bytes of one record; longer ones are refused without being held in memory
SHOWN = 1_000  # bytes kept of a record that is too long


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in its source.

    Attributes:
        line: Counted from 1 in its source: where the record begins in a JSONL or CSV file (blank lines and the header
            are no records but are counted), the row of anything else.
        source: The file, folder or hub id as the user wrote it.
        raw: JSONL: the line's bytes exactly, with its newline if it has one. Others: the record as one line of JSON. A
            record that could not be taken apart: its bytes as found; one over `LIMIT` bytes: its first `SHOWN` bytes.
        value: What the record holds; None where it could not be parsed.
        reason: Why it is no record; None where it is one.
    """

    line: int
    source: str
    raw: bytes
    value: Any
    reason: str | None


def parse(raw: bytes) -> tuple[Any, str | None]:
    """The JSON value that `raw` holds and None, or None and why it holds none.

    A key that stands twice in one object is refused: readers differ in which of the two they take. NaN and Infinity,
    which Python and others write, are taken.
    """
    try:
        return _DECODER.decode(raw.decode()), None
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}"
    except _TwiceError as error:
        return None, str(error)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:  # an integer of more digits than Python converts
        return None, f"not readable: {error}"


def too_long(length: int) -> str:
    """The reason for a record of `length` bytes."""
    return f"longer than {LIMIT // 1_000_000} MB ({length / 1e6:.1f} MB); only its beginning is kept here"


def row_record(line: int, source: str, row: Mapping[str, Any]) -> Record:
    """The record of one row of a table, a mapping from columns to values."""
    value = {name: plain(cell) for name, cell in row.items()}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        raw = text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: escaped, it can be written
        raw = json.dumps(value, allow_nan=False).encode() + b"\n"
    if len(raw) > LIMIT:
        return Record(line, source, raw[:SHOWN], None, too_long(len(raw)))
    return Record(line, source, raw, value, None)


def plain(value: Any) -> Any:
    """A table's cell as JSON can say it: dates as ISO 8601, bytes in base64, numbers that are not finite as null.

    Empty fields inside a cell are left out: columns that hold objects give every object the fields of all, so a null
    there says no more than a missing field.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal | datetime.timedelta):
        return str(value)
    return str(value)


class _TwiceError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _TwiceError(f"the key {json.dumps(key)[:80]} stands twice in one object")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
