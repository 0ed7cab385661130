"""What a shift says, in plain words, beside what chance gives."""

from collections.abc import Mapping
from typing import Any


def verdict(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence or two per trait, the surest first."""
    return [sentence(name, found[name]) for name in ranked(found)]


def ranked(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the traits, those first whose shift the fewest random directions reach."""
    return sorted(found, key=lambda name: _p(found[name]))


def _p(found: Mapping[str, Any]) -> float:
    return max(float(null["p_value"]) for null in found["nulls"].values())


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """What `compare` found along a trait, beside its nulls, and where a system prompt brings out more of it."""
    return " ".join([_plain(name, found), *_hidden(found)])


def _plain(name: str, found: Mapping[str, Any]) -> str:
    e = found["shift"]
    size = f"{e['mean']:+.2f}, 95 % interval {e['low']:+.2f} to {e['high']:+.2f}, n = {e['n']} questions"
    if e["low"] <= 0 <= e["high"]:
        return f"No move along {name} can be told from none ({size})."
    way = "more" if e["mean"] > 0 else "less"
    if _p(found) > 0.05:
        return f"The model moved toward {way} {name} ({size}), but no farther than along random directions."
    larger = [other for other, value in found["others"].items() if abs(value) >= abs(e["mean"])]
    if larger:
        return f"The model moved toward {way} {name} ({size}); along {', '.join(larger)} it moved as far or farther."
    return f"The model moved toward {way} {name} ({size}), farther than along random directions and other traits."


def _hidden(found: Mapping[str, Any]) -> list[str]:
    """Sentences about system prompts under which the shift is clearly larger."""
    plain, sentences = found["shift"], []
    for row in found["systems"]:
        e = row["shift"]
        apart = e["low"] > plain["high"] or e["high"] < plain["low"]
        if apart and abs(e["mean"]) > abs(plain["mean"]):
            sentences.append(
                f"Under the system prompt {shortened(row['system'])} it moved farther: {e['mean']:+.2f}, 95 % interval "
                f"{e['low']:+.2f} to {e['high']:+.2f}."
            )
    return sentences


def shortened(system: str, most: int = 60) -> str:
    """A system prompt in quotes, on one line and not too long."""
    text = " ".join(system.split())
    return f'"{text}"' if len(text) <= most else f'"{text[: most - 1]}…"'
