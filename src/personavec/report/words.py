"""How figures are written for people."""

import re
from collections.abc import Mapping

from pydantic import JsonValue

from personavec.stats.estimate import TOO_FEW, Estimate


def number(value: float | None, digits: int = 0) -> str:
    """A number with a real minus sign; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return ("0" + text[2:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


def signed(value: float) -> str:
    """A coefficient: +2, −0.5, 0."""
    return "0" if value == 0 else f"{value:+g}".replace("-", "−")


def interval(given: Estimate, digits: int = 0) -> str:
    """The 95 % interval of an estimate: 56 to 74."""
    if not given.bounded:
        return TOO_FEW
    return f"{number(given.low, digits)} to {number(given.high, digits)}"


def estimate(given: Estimate, digits: int = 0) -> str:
    """An estimate with its interval and n, in one line."""
    said = f"95 % interval {interval(given, digits)}" if given.bounded else TOO_FEW
    return f"{number(given.mean, digits)} ({said}, n = {given.n})"


def span(given: Estimate, form: str, units: str = "") -> str:
    """The interval of an estimate in a sentence: "95 % interval +0.12 to +0.50, n = 20 questions".

    Args:
        form: Specification of the numbers, such as "+.2f".
        units: What n counts; n is left out without it.
    """
    count = f", n = {given.n} {units}" if units else ""
    if not given.bounded:
        return f"{TOO_FEW}{count}"
    return f"95 % interval {given.low:{form}} to {given.high:{form}}{count}"


def minus(sentence: str) -> str:
    """A sentence with real minus signs before its numbers, no line of which ends within "95 %" or "n = 20"."""
    sentence = re.sub(r"(?<![\w-])-(?=\d)", "−", sentence)
    return re.sub(r"(?<=\d) (?=%)|(?<=\bn) (?==)|(?<=\bn =) (?=\d)", "\N{NO-BREAK SPACE}", sentence)


def duration(seconds: float) -> str:
    """6 min 40 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def facts(value: Mapping[str, JsonValue], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as flat pairs of name and text, for a table; what is empty is left out."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            pairs += facts(item, f"{name}, ")
        elif isinstance(item, list | tuple):
            if item:
                pairs.append((name, ", ".join(map(str, item))))
        elif item is not None:
            pairs.append((name, str(item)))
    return pairs
