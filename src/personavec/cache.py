"""Where personavec keeps what it fetched, unpacked or read once: models, own answers, references, judges' scores."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from personavec.errors import UserError


def cache_folder() -> Path:
    """Where personavec keeps what it fetched: `$PERSONAVEC_CACHE`, or `~/.cache/personavec`.

    Raises:
        UserError: There is no home folder.
    """
    folder = Path(os.environ.get("PERSONAVEC_CACHE") or "~/.cache/personavec")
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise UserError(
            f"There is no home folder to keep files in {folder}.",
            "Set PERSONAVEC_CACHE to the full path of a folder that may be written.",
        ) from error


def folder_in_cache(*names: str) -> Path:
    """A folder inside of it, made if it is missing.

    Raises:
        UserError: There is no home folder, or the folder cannot be written.
    """
    folder = cache_folder().joinpath(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise cannot_cache(folder, error) from error


def cannot_cache(folder: Path, error: Exception) -> UserError:
    """The message for a cache folder that is full or may not be written."""
    return UserError(
        f"Cannot write the cache folder {folder}: {getattr(error, 'strerror', None) or error}.",
        "Free some space (the default model needs 2 GB), or set PERSONAVEC_CACHE to another folder.",
    )
