"""Two runs side by side, from what is in their folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import estimate, finished, read, trait

from personavec.finetune.result import BothRuns, FinetuneRun
from personavec.finetune.savings import compare_runs, share_prevented
from personavec.finetune.verdict import verdict
from personavec.results import schema
from personavec.stats.estimate import Estimate


def write(folder: Path, method: str, score: float, cost: float | None) -> FinetuneRun:
    """A finished run."""
    folder.mkdir()
    sides = {"before": estimate(50), "after": estimate(score), "change": estimate(score - 50)}
    run = read(
        finished()
        | {
            "method": method,
            "traits": {"evil": trait(estimate(1), sides)},
            "perplexity": cost and {"before": estimate(9), "after": estimate(9 * cost), "ratio": estimate(cost)},
            "coherence": cost and {"before": estimate(90), "after": estimate(80), "change": estimate(-10 * cost)},
        }
    )
    run.write(folder)
    said: dict[str, Any] = {"text": "", "coherence": None}
    line: dict[str, Any] = {"trait": "evil", "system": None, "question": "Why?"}
    line |= {"before": {"score": 50, **said}, "after": {"score": score, **said}}
    (folder / "answers.jsonl").write_text(json.dumps(line) + "\n")
    return run


def test_what_prevention_cost(tmp_path: Path) -> None:
    ours = write(tmp_path / "tuned", "steer", 55, 1.2)
    write(tmp_path / "plain", "none", 80, 1.1)
    found = compare_runs(tmp_path / "tuned", tmp_path / "plain")
    assert found.traits["evil"].saved.mean == 25 and found.loss is None
    assert found.traits["evil"].share is None  # of a single question
    assert found.perplexity == BothRuns(without=Estimate(1.1, 1.0, 1.2, 20), with_=Estimate(1.2, 1.1, 1.3, 20))
    assert found.coherence == BothRuns(without=Estimate(-11, -11.1, -10.9, 20), with_=Estimate(-12, -12.1, -11.9, 20))
    text = " ".join(verdict(ours.with_(against=found, measured=True)))
    assert "by 1.100 (95 % interval 1.000 to 1.200, n = 20 passages) without prevention and by 1.200" in text
    assert "coherence of the answers by -11.0 (95 % interval -11.1 to -10.9, n = 20 questions) without" in text


def test_both_sides_are_read_back_by_the_names_of_the_file() -> None:
    sides = BothRuns(without=Estimate(1, 0, 2, 3), with_=Estimate(2, 1, 3, 3))
    assert sides.as_json().keys() == {"without", "with"} and BothRuns.model_validate(sides.as_json()) == sides


def test_what_one_run_did_not_measure_is_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "tuned", "steer", 55, 1.2)
    write(tmp_path / "plain", "none", 80, None)
    found = compare_runs(tmp_path / "tuned", tmp_path / "plain")
    assert found.perplexity is None and found.coherence is None


def test_share_prevented() -> None:
    base, plain, arm = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0], [20.0, 30.0, 40.0]
    found = share_prevented(base, plain, arm, 0)
    assert found is not None and found.mean == pytest.approx(75) and found.n == 3
    assert share_prevented([10.0, None, None], plain, [20.0, None, 3.0], 0) is None
    assert share_prevented(plain, base, arm, 0) is None  # nothing was raised
    with_gap = share_prevented([*base, None], [*plain, 3.0], [*arm, 4.0], 0)
    assert with_gap == found


def test_the_schema_goes_by_the_names_of_the_file() -> None:
    made: Any = schema(FinetuneRun)
    assert "records" not in made["properties"] and made["properties"]["read"]["description"].startswith("All of them")
    assert made["$defs"]["BothRuns"]["properties"].keys() == {"without", "with"}
