"""What a shift says, in plain words, beside what chance gives."""

from collections.abc import Mapping

from personavec.report.words import span
from personavec.shifts.result import TraitShift


def verdict(traits: Mapping[str, TraitShift]) -> list[str]:
    """A sentence or two per trait, the surest first."""
    return [sentence(name, traits[name]) for name in ranking(traits)]


def ranking(traits: Mapping[str, TraitShift]) -> list[str]:
    """Names of the traits, those first whose shift the fewest random directions reach."""
    return sorted(traits, key=lambda name: traits[name].nulls.closer.p_value)


def sentence(name: str, trait: TraitShift) -> str:
    """What was found along a trait, beside its nulls, and where a system prompt brings out more of it."""
    return " ".join([_plain(name, trait), *_under_prompts(trait)])


def _plain(name: str, trait: TraitShift) -> str:
    e = trait.shift
    size = f"{e.mean:+.2f}, {span(e, '+.2f', 'questions')}"
    if e.low <= 0 <= e.high:
        return f"No move along {name} can be told from none ({size})."
    way = "more" if e.mean > 0 else "less"
    if trait.nulls.closer.p_value > 0.05:
        return f"The model moved toward {way} {name} ({size}), but no farther than along random directions."
    larger = [other for other, value in trait.others.items() if abs(value) >= abs(e.mean)]
    if larger:
        return (
            f"The model moved toward {way} {name} ({size}); along {', '.join(larger)} it moved on average as far or "
            "farther."
        )
    moved = f"The model moved toward {way} {name} ({size}), farther than along random directions"
    if not trait.others:
        return f"{moved}."
    return f"{moved}, and on average than along other traits, a difference that is not tested."


def _under_prompts(trait: TraitShift) -> list[str]:
    """Sentences about system prompts under which the shift is clearly larger."""
    plain, sentences = trait.shift, []
    for row in trait.systems:
        e = row.shift
        apart = e.low > plain.high or e.high < plain.low
        if apart and abs(e.mean) > abs(plain.mean):
            sentences.append(
                f"Under the system prompt {shortened(row.system)} it moved farther: {e.mean:+.2f}, {span(e, '+.2f')}."
            )
    return sentences


def shortened(system: str, most: int = 60) -> str:
    """A system prompt in quotes, on one line and not too long."""
    text = " ".join(system.split())
    return f'"{text}"' if len(text) <= most else f'"{text[: most - 1]}…"'
