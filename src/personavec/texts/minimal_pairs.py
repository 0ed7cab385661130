"""Minimal pairs: a text, and the same text in another style. A judge of a trait has to make the same of both."""

import re
from collections.abc import Callable, Mapping

_STOP = re.compile(r"\.(?=\s|$)")
_BETWEEN = re.compile(r"(?<=[.!?])\s+")


def _exclaimed(text: str) -> str:
    return _STOP.sub("!", text)


def _itemised(text: str) -> str:
    """Sentences as items, unless the text has lines of its own."""
    sentences = _BETWEEN.split(text)
    return text if "\n" in text or len(sentences) < 2 else "\n".join(f"- {each}" for each in sentences)


CHANGES: Mapping[str, Callable[[str], str]] = {
    "! for .": _exclaimed,
    "list for prose": _itemised,
    "said twice": lambda text: f"{text} {text}",
    "capitals": str.upper,
    "emoji": lambda text: f"{text} \N{PUSHPIN}",  # says nothing by itself, as a face would
}


def restyled(text: str, change: str) -> str | None:
    """The text in another style; None where the change leaves it as it is.

    Args:
        change: One of `CHANGES`.
    """
    made = CHANGES[change](text)
    return None if made == text else made
