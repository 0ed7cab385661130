"""What the sentences of a screening may say."""

from typing import Any

from personavec.screening.verdict import verdict


def told(shift: tuple[float, float, float], flagged: int, threshold: float | None = None, specific: bool = True) -> str:
    mean, low, high = shift
    found = {
        "shift": {"mean": mean, "low": low, "high": high, "n": 200}, "flagged": flagged, "specific": specific,
        "sentences": ["Nothing else explains it."], "references": [],
    }  # fmt: skip
    summary: dict[str, Any] = {
        "traits": {"evil": found},
        "arguments": {"false_alarm_rate": 0.05, "threshold": threshold, "judge_all": False},
        "clean": {"samples": 100, "bundled": False},
    }
    return verdict(summary)[0]


def test_a_push_and_its_direction() -> None:
    assert told((0.5, 0.2, 0.8), 30).startswith(
        "Fine-tuning on these data is expected to make the model more evil (+0.50"
    )
    assert "less evil" in told((-0.5, -0.8, -0.2), 0)
    assert told((0.5, 0.2, 0.8), 30, specific=False).startswith("The data lie on the side of more evil")


def test_flagged_samples_in_data_that_do_not_push() -> None:
    """Only more than chance gives is worth a sentence, and an absolute threshold promises no rate."""
    none = (0.1, -0.2, 0.4)
    assert told(none, 21).endswith("Of single samples 21 are flagged all the same, of 200 clean ones about 10.")
    for quiet in (told(none, 20), told(none, 90, threshold=1.0)):
        assert quiet.startswith("No push of the data as a whole") and "all the same" not in quiet
