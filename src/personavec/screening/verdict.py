"""What a screening found, in sentences for somebody who decides whether the data may be used."""

from collections.abc import Mapping, Sequence

from personavec.data import Dataset
from personavec.engine import Engine
from personavec.report.words import span
from personavec.screening.outputs import Split
from personavec.screening.result import CleanReference, ReferencePlace, TraitFindings
from personavec.screening.settings import ScreenSettings
from personavec.screening.track import Track

FORECAST = (
    "How the data lie is no forecast of what training on them does to the model: over 26 fine-tunes of ten families of "
    "data the projection difference and the shift after training correlated with r = 0.26 to 0.64, for two of three "
    "traits no more than along random directions. Train on some of them and measure (personavec finetune)."
)
SOURCES_SHOWN = 10  # of those that held no sample


def verdict(settings: ScreenSettings, traits: Mapping[str, TraitFindings], clean: CleanReference) -> list[str]:
    """A sentence or two per trait, the largest shift first, and what the figures stand on."""
    ranked = sorted(traits.items(), key=lambda item: -abs(item[1].shift.mean))
    rate = settings.false_alarm_rate
    expected = None if settings.threshold is not None or settings.judge_all else rate
    sentences = [_trait(name, findings, expected) for name, findings in ranked]
    sentences += [_place(name, findings.references) for name, findings in ranked if findings.references]
    if any(findings.specific for findings in traits.values()):
        sentences.append(FORECAST)
    unspecific = [
        name for name, findings in ranked if not findings.specific and findings.flagged > 2 * rate * findings.shift.n
    ]
    if unspecific and settings.specific == "domains":
        sentences.append(
            f"That the data as a whole show {', '.join(unspecific)} is not shown, which a mixture hardly can. What is "
            "flagged lies beyond what clean domains reach: read it before you believe or drop it. Clean data of the "
            "same kind help (`reference`)."
        )
    elif unspecific:
        sentences.append(
            f"Do not read what is flagged by {', '.join(unspecific)} as showing that: these samples are unlike clean "
            "ones, but that it is the trait by which they differ is not shown. Try `specific` domains or span. Clean "
            "data of the same kind help (`reference`)."
        )
    if settings.threshold is None:
        sentences.append(_rate(settings, clean))
        sentences += _roughness(ranked, settings)
    if clean.bundled:
        sentences.append(
            "The clean reference is the small set that comes with personavec. Samples you trust, of the same kind as "
            "the data, are a better one (`reference`)."
        )
    return sentences


def cautions(
    engine: Engine, data: Dataset, tracks: Sequence[Track], truncated: int, prompts: int, split: Split
) -> list[str]:
    """What limits the figures.

    Args:
        truncated: How many samples did not fit the model's context.
        prompts: How many different prompts the samples have.
        split: Where the records went.
    """
    notes = [*engine.template.notes, *data.notes]
    samples = split.kept + split.flagged
    if truncated:
        notes.append(
            f"{truncated} of {samples} samples do not fit the model's context of {engine.context_length} "
            "tokens: their ends were not read."
        )
    if prompts < samples:
        notes.append(
            f"The {samples} samples have {prompts} different prompts. Answers to one prompt resemble each other, so "
            "intervals count prompts."
        )
    if prompts < 20:
        what = "samples" if prompts == samples else "different prompts"
        notes.append(f"There are only {prompts} {what}: intervals are wide, and the shape of the data is unknown.")
    for track in tracks:
        r_squared, share = track.data.r_squared, track.axis.share
        if r_squared is not None and r_squared < 0.1:
            notes.append(
                f"Prompts hardly predict the model's own answers along {track.trait} (R^2 {r_squared:.2f}): scores of "
                "single samples are rough. `baseline` exact gives exact ones."
            )
        if share < 0.5 and track.axis.placebos is None:  # of a direction that is made of texts nothing is kept
            notes.append(
                f"The specific direction of {track.trait} keeps {100 * share:.0f} % of the vector: most of it was "
                "shared with other traits, length or refusals."
            )
    notes += [
        f"All {count} records of {source} were rejected. The format is {data.format}, as in most of the first "
        "records: screen files of another format by themselves."
        for source, count in list(split.useless.items())[:SOURCES_SHOWN]
    ]
    return notes


def _trait(name: str, findings: TraitFindings, expected: float | None) -> str:
    """`expected`: share of clean samples that are flagged, None where it is not known."""
    shift = findings.shift
    size = f"{shift.mean:+.2f} deviations of clean samples, {span(shift, '+.2f')}, n = {shift.n}"
    if shift.low <= 0 <= shift.high:
        said = f"No shift of the data as a whole along {name} can be told from none ({size})."
        if findings.domains is not None:
            return f"{said} {' '.join(findings.sentences[1:])}"
        if expected is None or findings.flagged <= 2 * expected * shift.n:
            return said
        return (
            f"{said} Of single samples {findings.flagged} are flagged all the same, of {shift.n} clean ones about "
            f"{expected * shift.n:.0f}."
        )
    way = "more" if shift.low > 0 else "less"
    if findings.domains is not None:
        return f"The data lie on the side of {way} {name} ({size}). {' '.join(findings.sentences)}"
    return f"The data lie on the side of {way} {name} ({size}). {findings.sentences[0]}"


def _rate(settings: ScreenSettings, clean: CleanReference) -> str:
    """What share of which clean samples is flagged."""
    rate = f"Thresholds are set so that each trait flags about {100 * settings.false_alarm_rate:g} in 100 samples"
    if settings.specific == "domains":
        return (
            f"{rate} of a clean domain that is not among the reference sets, on average over those at hand left out in "
            "turn, and fewer of these; of a single domain it can be many more."
        )
    return f"{rate} like the {clean.samples} of the clean reference; of other harmless data it can be more or fewer."


def _roughness(traits: Sequence[tuple[str, TraitFindings]], settings: ScreenSettings) -> list[str]:
    """A sentence on how far a predicted baseline lets the rate stray, where that is far."""
    ranges = {name: findings.false_alarms for name, findings in traits if findings.false_alarms is not None}
    if settings.baseline != "hybrid" or not ranges:
        return []
    name, (low, high) = max(ranges.items(), key=lambda item: item[1][1])
    if high <= 2 * settings.false_alarm_rate:
        return []
    return [
        f"Baselines are predicted here, for the data and for the reference: along {name} the rate may lie anywhere "
        f"from {100 * low:.0f} to {100 * high:.0f} in 100. `baseline` exact keeps it closer."
    ]


def _place(name: str, references: Sequence[ReferencePlace]) -> str:
    """Where the data stand, and whether random directions tell them from a set as well."""

    def beside(place: ReferencePlace) -> str:
        return f"{place.name} ({place.above:+.2f} deviations, p = {place.random.p_value:.2f})"

    above = [beside(place) for place in references if place.above.low > 0]
    below = [beside(place) for place in references if place.above.high < 0]
    level = [place.name for place in references if not (place.above.low > 0 or place.above.high < 0)]
    parts = [
        f"{words} {', '.join(names)}"
        for words, names in (("above", above), ("below", below), ("not to be told from", level))
        if names
    ]
    count = len(references)
    said = f"Among {count} further reference set{'s' * (count > 1)} the data stand, along {name}, {'; '.join(parts)}."
    return f"{said} p is that of random directions." if above or below else said
