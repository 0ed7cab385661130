"""Where personavec keeps what it fetched, unpacked or read once: models, own answers, references, judges' scores."""

import os
from pathlib import Path

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
