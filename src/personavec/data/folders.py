"""The files of a folder, of the folders in it and of those that links in it lead to, each of them once."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from personavec.data.text import cannot_read
from personavec.files import is_run_folder, printable

NAMED = 5  # of what was left out, by each reason


class Folder:
    """What a folder holds for a reader; names that begin with a dot are passed over.

    Links are followed after all that stands in the folder itself, so that what is reached in two ways is read under
    its own name, once. A link to a folder that it stands in leads round in a circle and is left out.

    Args:
        path: The folder.
        wanted: Whether a file is to be read, from its name.

    Attributes:
        files: Those wanted, in the order of their names.
        notes: Sentences on what was left out, a reason each.
        homes: The folders that the files stand in, up to `path`, links resolved.

    Raises:
        UserError: One of the folders cannot be read.
    """

    def __init__(self, path: Path, wanted: Callable[[Path], bool]) -> None:
        self.path, self._wanted = path, wanted
        self.files: list[Path] = []
        self._left: dict[str, list[Path]] = {}
        self._met: set[Path] = set()  # real paths of folders and of files
        self._links: deque[tuple[Path, tuple[Path, ...]]] = deque()  # with the real folders that led to each
        self._enter(path, path.resolve(), ())
        while self._links:
            self._follow(*self._links.popleft())
        self.files.sort(key=lambda file: file.relative_to(path).parts)
        above = {folder for file in self.files for folder in file.parents if folder.is_relative_to(path)}
        self.homes = {folder.resolve() for folder in above}

    @property
    def notes(self) -> list[str]:
        """What was left out, and why, in sentences for the user."""
        notes = []
        for why, paths in sorted(self._left.items()):
            names = sorted(str(one.relative_to(self.path)) for one in paths)
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            notes.append(printable(f"Left out in {self.path}, {why}: {', '.join(names[:NAMED])}{more}."))
        return notes

    def _enter(self, folder: Path, real: Path, led: tuple[Path, ...]) -> None:
        """Take the files of a folder and of those in it, and remember its links."""
        waiting = [(folder, real)]
        while waiting:
            folder, real = waiting.pop()
            if folder != self.path and is_run_folder(real):
                self._leave(folder, "folders of runs")
                continue
            self._met.add(real)
            try:
                with os.scandir(real) as found:
                    entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
            except OSError as error:
                raise cannot_read(folder, error) from error
            for entry in entries:
                inside, behind = folder / entry.name, real / entry.name
                if entry.is_symlink():
                    self._links.append((inside, (*led, real)))
                elif not entry.is_dir():
                    self._take(inside, behind)
                elif behind not in self._met:
                    waiting.append((inside, behind))

    def _follow(self, link: Path, led: tuple[Path, ...]) -> None:
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError):  # the latter: links that lead to each other
            self._leave(link, "links that lead nowhere")
            return
        if not real.is_dir():
            self._take(link, real)
        elif any(folder.is_relative_to(real) for folder in led):
            self._leave(link, "links to folders that they stand in")
        elif real in self._met:
            self._leave(link, "read already under another name")
        else:
            self._enter(link, real, led)

    def _take(self, file: Path, real: Path) -> None:
        if not self._wanted(file):
            self._leave(file, "not a kind that is read")
        elif not real.is_file():
            self._leave(file, "not plain files")
        elif real in self._met:
            self._leave(file, "read already under another name")
        else:
            self._met.add(real)
            self.files.append(file)

    def _leave(self, path: Path, why: str) -> None:
        self._left.setdefault(why, []).append(path)
