"""Where personavec keeps what it fetched, unpacked or read once: models, own answers, references, judges' scores."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where personavec keeps what it fetched: `$PERSONAVEC_CACHE`, or `~/.cache/personavec`."""
    return Path(os.environ.get("PERSONAVEC_CACHE") or "~/.cache/personavec").expanduser()
