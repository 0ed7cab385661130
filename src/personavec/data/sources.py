"""From what the user names to the sources that are read: files, folders, saved data sets, hub ids."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from personavec.data.folders import Folder
from personavec.data.record import Record
from personavec.data.tables import Parquet, hub, saved_dataset
from personavec.data.text import Csv, File, Json, Jsonl, cannot_read
from personavec.errors import UserError
from personavec.files import is_run_folder

KINDS = {
    ".jsonl": Jsonl, ".ndjson": Jsonl, ".json": Json, ".csv": Csv, ".tsv": Csv, ".parquet": Parquet,
}  # fmt: skip
PACKED = (".gz", ".zst")
ENDINGS = ".jsonl, .ndjson, .json, .csv, .tsv (each also with .gz or .zst) and .parquet"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


class Source(Protocol):
    """Something that holds records, in an order of its own that never changes."""

    name: str
    size: int | None

    @property
    def identity(self) -> str:
        """What tells it from others, for a digest of the data."""
        ...

    def records(self) -> Iterator[Record]:
        """All records, in order."""
        ...

    def count(self) -> int | None:
        """How many records there are; None where that is not known before they are read."""
        ...

    def check_unchanged(self) -> None:
        """Refuse a source that is another one than when it was opened."""
        ...


@dataclass(frozen=True)
class Found:
    """What names stand for.

    Attributes:
        sources: In the order of the names.
        notes: Sentences on what was left out.
        folders: Those that hold some of it, up to the ones that were named, links resolved.
    """

    sources: list[Source]
    notes: list[str]
    folders: frozenset[Path]


def find_sources(names: Sequence[str | Path], split: str | None) -> Found:
    """The sources of the given names.

    Raises:
        UserError: One is missing, cannot be read, holds nothing that can be read or is named twice.
    """
    sources: list[Source] = []
    notes: list[str] = []
    folders: set[Path] = set()
    seen: set[Path] = set()
    splits = False
    for name in names:
        path = Path(name)
        try:
            path.stat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise cannot_read(path, error) from error
        if path.is_dir() and any((path / mark).exists() for mark in ("state.json", "dataset_dict.json")):
            found: list[Source] = [saved_dataset(path, split)]
            folders.add(path.resolve())
            splits = True
        elif path.is_dir():
            inside = _inside(path)
            found = [_file(file, split) for file in inside.files]
            notes += inside.notes
            folders |= inside.homes
        elif path.exists() or path.is_symlink() or not _may_be_hub_id(name):
            found = [_file(path, split)]
            folders |= {path.parent.resolve(), path.resolve().parent}  # of a link and of what it leads to
        else:
            found = [hub(str(name), split)]
            splits = True
        for source in found:
            splits |= isinstance(source, Json) and source.has_lists
            if isinstance(source, File):
                if source.path.resolve() in seen:
                    raise UserError(f"{source.name} is named twice.", "Name every file once.")
                seen.add(source.path.resolve())
        sources += found
    if not sources:
        raise UserError("No data was named.", "Name a file, a folder or a data set on the hub.")
    if split is not None and not splits:
        raise UserError(f"There are no splits in {sources[0].name}: {split!r} cannot be taken.", "Leave `split` out.")
    return Found(sources, notes, frozenset(folders))


def _inside(path: Path) -> Folder:
    """What can be read in a folder and in the folders in it."""
    if is_run_folder(path):
        raise UserError(f"{path} is the folder of a run, not of data.", "Name the file in it that is meant.")
    inside = Folder(path, lambda file: _kind(file) is not None)
    if not inside.files:
        left = "".join(f" {note}" for note in inside.notes)
        raise UserError(
            f"Nothing in {path} can be read as data.{left}",
            f"Files of these kinds are read: {ENDINGS}.",
        )
    return inside


def _kind(path: Path) -> str | None:
    """The ending that says what a file is, without that of its compression."""
    name = path.name.lower()
    plain = next((name.removesuffix(packed) for packed in PACKED if name.endswith(packed)), name)
    kind = Path(plain).suffix
    return kind if kind in KINDS and (plain == name or kind != ".parquet") else None


def _file(path: Path, split: str | None) -> File:
    if not path.exists():
        raise UserError(
            f"{path} does not exist.",
            "Check the path. A data set on the hub is written owner/name.",
        )
    if not path.is_file():
        raise UserError(f"{path} is not a plain file, and data is read more than once.", "Save it as a file first.")
    kind = _kind(path)
    if kind is None:
        raise UserError(f"{path} is not a kind of file that is read.", f"Files of these kinds are read: {ENDINGS}.")
    return Json(path, split) if kind == ".json" else KINDS[kind](path)


def _may_be_hub_id(name: str | Path) -> bool:
    text = str(name)
    return (
        isinstance(name, str) and bool(_HUB_ID.fullmatch(text)) and not text.startswith(".") and not _kind(Path(text))
    )
