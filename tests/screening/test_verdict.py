"""What the sentences of a screening may say."""

from typing import Any

from personavec.screening.result import CleanReference, TraitFindings
from personavec.screening.settings import Baseline, ScreenSettings
from personavec.screening.verdict import verdict
from personavec.stats.estimate import Estimate


def sentences(
    shift: tuple[float, float, float],
    flagged: int,
    threshold: float | None = None,
    specific: bool = True,
    false_alarms: tuple[float, float] = (0.02, 0.09),
    baseline: Baseline = "hybrid",
) -> list[str]:
    mean, low, high = shift
    findings = TraitFindings.model_construct(
        shift=Estimate(mean, low, high, 200), flagged=flagged, specific=specific, references=[],
        sentences=["Nothing else explains it."], false_alarms=None if threshold is not None else false_alarms,
    )  # fmt: skip
    settings = ScreenSettings(baseline=baseline, threshold=threshold)
    return verdict(settings, {"evil": findings}, CleanReference(name="", bundled=False, samples=100, drawn=96))


def first_sentence(*given: Any, **options: Any) -> str:
    return sentences(*given, **options)[0]


def test_a_rate_that_may_stray() -> None:
    shift = (0.5, 0.2, 0.8)
    assert sentences(shift, 30, false_alarms=(0.004, 0.17))[-1].startswith("Baselines are predicted here")
    assert (
        "along evil the rate may lie anywhere from 0 to 17 in 100"
        in sentences(shift, 30, false_alarms=(0.004, 0.17))[-1]
    )
    for quiet in ({}, {"false_alarms": (0.0, 0.17), "baseline": "exact"}, {"threshold": 1.0}):
        assert "may lie anywhere" not in " ".join(sentences(shift, 30, **quiet))


def test_where_the_data_lie() -> None:
    """Where they lie, and no forecast: over the fine-tunes of the study the one hardly told the other."""
    for specific in (True, False):
        said = sentences((0.5, 0.2, 0.8), 30, specific=specific)
        assert said[0].startswith("The data lie on the side of more evil (+0.50")
        assert any("no forecast" in sentence for sentence in said) == specific
    assert "less evil" in first_sentence((-0.5, -0.8, -0.2), 0)


def test_flagged_samples_in_data_that_do_not_shift() -> None:
    """Only more than chance gives is worth a sentence, and an absolute threshold promises no rate."""
    none = (0.1, -0.2, 0.4)
    assert first_sentence(none, 21).endswith(
        "Of single samples 21 are flagged all the same, of 200 clean ones about 10."
    )
    for quiet in (first_sentence(none, 20), first_sentence(none, 90, threshold=1.0)):
        assert quiet.startswith("No shift of the data as a whole") and "all the same" not in quiet
