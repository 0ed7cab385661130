"""What a screening found, in sentences for somebody who decides whether the data may be used."""

from typing import Any


def verdict(summary: dict[str, Any]) -> list[str]:
    """A sentence or two per trait, the largest shift first, and what the figures stand on."""
    traits = sorted(summary["traits"].items(), key=lambda item: -abs(item[1]["shift"]["mean"]))
    given = summary["arguments"]
    expected = None if given["threshold"] is not None or given["judge_all"] else given["false_alarm_rate"]
    sentences = [_trait(name, found, expected) for name, found in traits]
    sentences += [_place(name, found["references"]) for name, found in traits if found.get("references")]
    rate = given["false_alarm_rate"]
    unspecific = [
        name for name, found in traits if not found["specific"] and found["flagged"] > 2 * rate * found["shift"]["n"]
    ]
    if unspecific:
        sentences.append(
            f"Do not read what is flagged by {', '.join(unspecific)} as showing that: these samples are unlike clean "
            "ones, "
            "but other directions say so as well. Try --specific span, and clean data of the same kind (--reference)."
        )
    if given["threshold"] is None:
        sentences.append(
            f"Thresholds are set so that each trait flags about {100 * rate:g} in 100 samples like the "
            f"{summary['clean']['samples']} of the clean reference; of other harmless data it can be more or fewer."
        )
        sentences += _roughness(traits, rate, summary["baseline"])
    if summary["clean"]["bundled"]:
        sentences.append(
            "The clean reference is the small set that comes with personavec. Samples you trust, of the same kind as "
            "the data, are a better one (--reference)."
        )
    return sentences


def _trait(name: str, found: dict[str, Any], expected: float | None) -> str:
    """`expected`: share of clean samples that are flagged, None where it is not known."""
    shift = found["shift"]
    size = (
        f"{shift['mean']:+.2f} deviations of clean samples, 95 % interval {shift['low']:+.2f} to {shift['high']:+.2f}, "
        f"n = {shift['n']}"
    )
    if shift["low"] <= 0 <= shift["high"]:
        said = f"No push of the data as a whole along {name} can be told from none ({size})."
        flagged, n = found["flagged"], shift["n"]
        if expected is None or flagged <= 2 * expected * n:
            return said
        return (
            f"{said} Of single samples {flagged} are flagged all the same, of {n} clean ones about {expected * n:.0f}."
        )
    way = "more" if shift["low"] > 0 else "less"
    if found["specific"]:
        return (
            f"The method predicts that fine-tuning on these data makes the model {way} {name} ({size}). "
            f"{found['sentences'][0]}"
        )
    return f"The data lie on the side of {way} {name} ({size}). {found['sentences'][0]}"


def _roughness(traits: list[tuple[str, dict[str, Any]]], rate: float, baseline: str) -> list[str]:
    """A sentence on how far a predicted baseline lets the rate stray, where that is far."""
    name, (low, high) = max(((name, found["false_alarms"]) for name, found in traits), key=lambda item: item[1][1])
    if baseline != "hybrid" or high <= 2 * rate:
        return []
    return [
        f"Baselines are predicted here, for the data and for the reference: along {name} the rate may lie anywhere "
        f"from {100 * low:.0f} to {100 * high:.0f} in 100. --baseline exact keeps it closer."
    ]


def _place(name: str, references: list[dict[str, Any]]) -> str:
    above = [one["name"] for one in references if one["above"]["low"] > 0]
    below = [one["name"] for one in references if one["above"]["high"] < 0]
    level = [one["name"] for one in references if one["name"] not in (*above, *below)]
    parts = [
        f"{words} {', '.join(names)}"
        for words, names in (("above", above), ("below", below), ("not to be told from", level))
        if names
    ]
    count = len(references)
    return f"Among {count} further reference set{'s' * (count > 1)} the data stand, along {name}, {'; '.join(parts)}."
