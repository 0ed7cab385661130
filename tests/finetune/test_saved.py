"""Two runs side by side, from what is in their folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from personavec.finetune.saved import compare_runs, prevented
from personavec.finetune.verdict import verdict


def estimate(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 8}


def write(folder: Path, method: str, score: float, cost: float | None) -> dict[str, Any]:
    """A finished run, as far as it is read."""
    folder.mkdir()
    sides = {"before": estimate(50), "after": estimate(score), "change": estimate(score - 50)}
    run = {
        "command": "finetune",
        "method": method,
        "arguments": {"seed": 0},
        "traits": {"evil": {"score": sides, "shift": estimate(1)}},
        "held_out_loss": None,
        "perplexity": cost and {"before": estimate(9), "after": estimate(9 * cost), "ratio": estimate(cost)},
        "coherence": cost and {"before": estimate(90), "after": estimate(80), "change": estimate(-10 * cost)},
    }
    (folder / "run.json").write_text(json.dumps(run))
    line = {"trait": "evil", "question": "Why?", "before": {"score": 50}, "after": {"score": score}}
    (folder / "answers.jsonl").write_text(json.dumps(line) + "\n")
    return run


def test_what_prevention_cost(tmp_path: Path) -> None:
    ours = write(tmp_path / "tuned", "steer", 55, 1.2)
    write(tmp_path / "plain", "none", 80, 1.1)
    found = compare_runs(tmp_path / "tuned", tmp_path / "plain")
    assert found["traits"]["evil"]["saved"]["mean"] == 25 and found["loss"] is None
    assert found["traits"]["evil"]["share"] is None  # of a single question
    assert found["perplexity"] == {"without": estimate(1.1), "with": estimate(1.2)}
    assert found["coherence"] == {"without": estimate(-11), "with": estimate(-12)}
    more: dict[str, Any] = {"measured": False, "prevented": [], "lm_eval": None}
    text = " ".join(verdict({**ours, **more, "against": found, "perplexity": None, "coherence": None}))
    assert "by 1.100 (95 % interval 1.000 to 1.200, n = 8 passages) without prevention and by 1.200" in text
    assert "coherence of the answers by -11.0 (95 % interval -11.1 to -10.9, n = 8 questions) without" in text


def test_what_one_run_did_not_measure_is_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "tuned", "steer", 55, 1.2)
    write(tmp_path / "plain", "none", 80, None)
    found = compare_runs(tmp_path / "tuned", tmp_path / "plain")
    assert found["perplexity"] is None and found["coherence"] is None


def test_share_prevented() -> None:
    base, plain, arm = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0], [20.0, 30.0, 40.0]
    found = prevented(base, plain, arm, 0)
    assert found is not None and found["mean"] == pytest.approx(75) and found["n"] == 3
    assert prevented([10.0, None, None], plain, [20.0, None, 3.0], 0) is None
    assert prevented(plain, base, arm, 0) is None  # nothing was raised
    with_gap = prevented([*base, None], [*plain, 3.0], [*arm, 4.0], 0)
    assert with_gap == found
