"""What of a text is style: it may differ between the sides of a trait without being the trait."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from personavec.stats.numbers import Floats, finite

_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)")
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55]")


class Style(NamedTuple):
    """Of one text.

    Attributes:
        log_length: Logarithm of its number of words.
        sentences: How many end in it.
        exclamation_marks, question_marks, emoji: How many there are.
        list_lines: Lines that begin as items of a list do.
        capitals: Share of its letters, 0..1.
    """

    log_length: float
    sentences: float
    exclamation_marks: float
    question_marks: float
    list_lines: float
    capitals: float
    emoji: float


def features(text: str) -> Style:
    """The style of a text."""
    letters = [character for character in text if character.isalpha()]
    return Style(
        log_length=math.log(max(1, len(text.split()))),
        sentences=len(_SENTENCE_END.findall(text)),
        exclamation_marks=text.count("!"),
        question_marks=text.count("?"),
        list_lines=len(_LIST_LINE.findall(text)),
        capitals=sum(letter.isupper() for letter in letters) / max(1, len(letters)),
        emoji=len(_EMOJI.findall(text)),
    )


def table(texts: Sequence[str]) -> Floats:
    """Features (n, k), a row for each text."""
    return np.array([features(text) for text in texts], np.float64)


def held_equal(values: ArrayLike, styles: Floats) -> Floats:
    """What of values (n,) the styles (n, k) of their texts do not tell, by least squares."""
    wanted = finite(values, 1)
    deviation = styles.std(0)
    scaled = (styles - styles.mean(0))[:, deviation > 0] / deviation[deviation > 0]
    design = np.column_stack([np.ones(len(wanted)), scaled])
    rest: Floats = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return rest
