"""Files that are whole or absent: atomic writes, append-only lines, run folders with one owner."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from personavec.errors import UserError

if TYPE_CHECKING:
    from pydantic import JsonValue

SUMMARY = "run.json"  # the file of every run that holds its result
T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT)  # how the system calls a disk, or a user's share of it, without room
BLOCK = 4096  # bytes; what fills a disk leaves no room for a block


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file so that a reader, now or after a crash, sees the old bytes or the new ones, never a part."""
    path = Path(path)
    blob = printable(data).encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(blob)
                handle.flush()
                os.fsync(handle.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well, for files too large for memory."""
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


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_atomic(path, to_json(value, indent=1) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that is valid UTF-8: what no file takes is written as `printable` shows it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNENCODABLE.sub(lambda found: json.dumps(_spelled_out(found[0]), ensure_ascii=False)[1:-1], text)


def printable(text: str) -> str:
    """A text as every file and report takes it.

    Paths and arguments may hold bytes that are not of the locale's encoding, which Python keeps as single surrogates:
    they are read as UTF-8 where they are UTF-8, else shown as their escapes (caf\\xe9), as other surrogates are.
    """
    return _UNENCODABLE.sub(lambda found: _spelled_out(found[0]), text)


def check_utf8(path: Path | str) -> None:
    """Refuse a path whose bytes are not UTF-8 where safetensors files are read or written, which take no other.

    Raises:
        UserError: It is one.
    """
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"The path {printable(str(path))} is not UTF-8, and no safetensors file can be in it.",
            "Rename the folder or the file.",
        ) from error


def _spelled_out(surrogates: str) -> str:
    try:
        return surrogates.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON may hold it: no byte of anything
        return surrogates.encode("utf-8", "backslashreplace").decode()


_UNENCODABLE = re.compile("[\ud800-\udfff]+")


def once(path: Path, kind: type[T], make: Callable[[], T]) -> T:
    """What a JSON file holds; made and written if it is not there, so that a run that was cut off makes it once.

    Args:
        kind: Type of the value, as pydantic reads and writes it: a model, `list[float]`, ...

    Raises:
        UserError: The file is damaged, or cannot be written.
    """
    from pydantic import TypeAdapter, ValidationError  # which the command line's help has no use for

    adapter = TypeAdapter(kind)
    if not path.exists():
        write_json(path, adapter.dump_python(make(), mode="json"))
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is damaged ({first['msg']}).", "Delete it and give the same command again.") from error


def cannot_write(path: Path, error: OSError) -> UserError:
    """The message for a disk that is full, a folder that may not be written, and their like."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return UserError(f"Cannot write {path}: a file is where a folder should be.", "Choose another with `out`.")
    return UserError(
        f"Cannot write {path}: {error.strerror or error}.",
        "Free some space, or choose another folder with `out`.",
    )


class JsonLines:
    """An append-only file of one JSON object a line; a torn last line (a killed writer) is cut off when it is met.

    Example:
        >>> log = JsonLines("rollouts.jsonl")
        >>> log.append({"id": 1})
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        good = 0
        with self.path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise UserError(
                        f"{self.path}, line {number}: not JSON ({error}).",
                        "The file was changed by hand; delete it or the run folder and start again.",
                    ) from error
                good += len(line)
                yield record
        if good < self.path.stat().st_size:
            with self.path.open("rb+") as handle:
                handle.truncate(good)

    def append(self, *records: dict[str, Any]) -> None:
        """Append records and flush them to the disk."""
        lines = "".join(to_json(record) + "\n" for record in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as handle:
                _cut_torn_line(handle)
                handle.write(lines.encode())
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _cut_torn_line(handle: BinaryIO) -> None:
    """Remove what follows the last newline, so that nothing is glued to half a line."""
    size = end = handle.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        handle.seek(start)
        newline = handle.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        handle.truncate(end)


class RunFolder:
    """A folder that holds one run: its arguments, its data, its report. One process owns it at a time.

    Opening a folder that holds another run (other arguments) is refused, so that resuming never mixes two runs.

    Args:
        path: The folder; made if it is missing.
        arguments: What decides the result (JSON values); compared with what the folder was begun with.

    Raises:
        UserError: The folder is in use, holds a run with other arguments, or cannot be written.
    """

    def __init__(self, path: Path | str, arguments: "Mapping[str, JsonValue]") -> None:
        self.path = Path(path)
        self.arguments: dict[str, JsonValue] = json.loads(to_json(dict(arguments)))
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def finished(self, read: Callable[[Path], T]) -> T | None:
        """The result of the run, by the `read` of its class (such as `ExtractionRun.read`); None: it has none yet.

        Raises:
            UserError: What `read` refuses: a summary that is damaged, or of another version.
        """
        return read(self.path) if (self.path / SUMMARY).exists() else None

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(
                f"Another process is writing {self.path}.", "Wait for it, or choose another folder with `out`."
            ) from error
        except OSError as error:
            raise cannot_write(self.path, error) from error
        begun = self.path / "arguments.json"
        try:
            if begun.exists():
                before = _arguments(begun)
                changed = sorted(
                    key for key in before.keys() | self.arguments.keys() if before.get(key) != self.arguments.get(key)
                )
                if changed:
                    raise UserError(
                        f"{self.path} holds a run with another {', '.join(changed)}.",
                        "Choose another folder with `out`, or delete this one.",
                    )
            else:
                write_json(begun, self.arguments)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, UserError):
                self._check_space(error)
            if kind is not None and not self._holds_work():  # a run that did not begin claims no folder
                (self.path / "arguments.json").unlink(missing_ok=True)
        finally:
            self._lock.release()

    def _check_space(self, error: Exception) -> None:
        """Say so where the disk is full: libraries that write into the folder raise whatever they stumble on then.

        Raises:
            UserError: It is, by what the system told a library, or where it told nothing by the next block.
        """
        if told := _told_full(error):
            raise cannot_write(Path(told.filename or self.path), told) from error
        probe = self.path / ".space"
        try:
            probe.write_bytes(bytes(BLOCK))
        except OSError as full:
            raise cannot_write(self.path, full) from error
        finally:
            probe.unlink(missing_ok=True)

    def _holds_work(self) -> bool:
        told = ("arguments.json", ".lock", "rejected.jsonl")  # why nothing could be begun is no work
        return any(path.is_file() for path in self.path.rglob("*") if path.name not in told)


def _told_full(error: BaseException | None) -> OSError | None:
    """What the system said of a full disk to whatever led to an error; some libraries hand on its words alone."""
    while error is not None:
        for code in FULL:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return OSError(code, os.strerror(code), getattr(error, "filename", None))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_run_folder(path: Path) -> bool:
    """Whether a folder is one that a `RunFolder` has begun, or that holds what a run which ended left of it."""
    if (path / "arguments.json").is_file():
        return any((path / name).is_file() for name in (".lock", SUMMARY, "summary.json"))
    return (path / ".lock").is_file() and (path / "rejected.jsonl").is_file()


def _arguments(path: Path) -> "dict[str, JsonValue]":
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}).", "Delete the run folder and start again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (no JSON object).", "Delete the run folder and start again.")
    return value
