"""What the sentences of a study may say, and what they may not."""

from typing import Any

import pytest

from personavec.study.verdict import verdict


def estimate(mean: float, low: float, high: float, n: int = 8) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "n": n, "runs": 24}


def pair(
    r: dict[str, Any], p: float = 0.01, other: float = 0.1, coherence: dict[str, Any] | None = None
) -> dict[str, Any]:
    coherence = coherence or estimate(-0.3, -0.7, 0.1)
    random = {"p95": 0.4, "p_value": p, "n": 200}
    return {
        name: {"r": r, "random": random, "others": {"kind": other}, "coherence": coherence}
        for name in ("shift, score", "difference, shift")
    }


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (pair(estimate(0.8, 0.5, 0.9)), "more than random directions (p = 0.01) and the other traits' vectors give"),
        (pair(estimate(0.8, 0.5, 0.9), p=0.3), "but random directions do as well"),
        (pair(estimate(0.8, 0.5, 0.9), other=0.85), "the vectors of kind do as well"),
        (pair(estimate(0.3, -0.2, 0.6)), "no relation is shown"),
        (pair(estimate(-0.7, -0.9, -0.4)), "the one falls where the other rises"),
    ],
)
def test_a_correlation(found: dict[str, Any], told: str) -> None:
    first, second = verdict({"correlations": {"evil": found}, "suite": [], "prevention": {}})
    assert told in first and told in second and "24 fine-tunes" in first


def test_scores_of_answers_that_fell_apart() -> None:
    found = pair(estimate(0.8, 0.5, 0.9), coherence=estimate(-0.6, -0.8, -0.2))
    last = verdict({"correlations": {"evil": found}, "suite": [], "prevention": {}})[-1]
    assert "fell apart" in last and "r = -0.60, 95 % interval -0.80 to -0.20, 8 families" in last
    found = pair(estimate(0.8, 0.5, 0.9))
    assert "fell apart" not in " ".join(verdict({"correlations": {"evil": found}, "suite": [], "prevention": {}}))


def test_a_trait_behind_a_system_prompt() -> None:
    risen, same, fallen = estimate(30, 10, 50), estimate(5, -5, 15), estimate(-20, -30, -10)

    def one(name: str, plain: dict[str, Any] | None, asked: dict[str, Any] | None) -> dict[str, Any]:
        return {"name": name, "scores": {"evil": {"change": plain, "instructed_change": asked}}}

    suite = [
        one("hidden", same, risen), one("open", risen, risen), one("dull", same, fallen), one("still", same, same),
        one("refusing", None, risen),
    ]  # fmt: skip
    (told,) = verdict({"correlations": {}, "suite": suite, "prevention": {}})
    assert "in 2 of 4 comparisons and less in 1" in told
    assert told.endswith("no rise is shown in 1 of these: evil after hidden.")
    (told,) = verdict({"correlations": {}, "suite": suite[1:], "prevention": {}})
    assert "no rise is shown" not in told
    assert verdict({"correlations": {}, "suite": suite[-1:], "prevention": {}}) == []


def arm(
    name: str, prevented: dict[str, Any] | None, task: float = -10.0, unseen: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`unseen`: what it prevented on the half that it was not chosen by."""
    change = estimate(task, task - 5, task + 5)
    score = estimate(60, 50, 70)
    halves = [{"prevented": half, "task_change": change} for half in (prevented, unseen or prevented)]
    return {
        "arm": name, "kind": name.split()[0], "score": score, "prevented": prevented, "shift": score,
        "task_change": change, "task_learned": estimate(97, 96, 98), "perplexity_change": change, "halves": halves,
    }  # fmt: skip


def told(*arms: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    base = {"plain": {"score": before or estimate(20, 15, 25)}}
    found = {"evil": {"base": base, "arms": [arm("none", None), *arms]}}
    return " ".join(verdict({"correlations": {}, "suite": [], "prevention": found}))


def test_prevention() -> None:
    assert "from 20 [15, 25] to 60 [50, 70]" in told() and "one seed" in told()
    assert "nothing to prevent" in told(before=estimate(45, 35, 55))
    shown, guessed = estimate(85, 72, 95), estimate(85, 60, 110)
    assert "which meets the goal of 70 %" in told(arm("steer 2", shown))
    assert "Of 2 preventative steerings steer 2 prevented most" in told(
        arm("steer 2", shown), arm("steer 3", shown, task=30.0), arm("random 2", shown)
    )
    # It is chosen by one half and judged by the other.
    lucky = arm("steer 1", estimate(95, 90, 99), unseen=estimate(30, 10, 50))
    text = told(arm("steer 2", shown), lucky)
    assert "steer 1 prevented most" in text and "On the others it prevented 30 %" in text and "short of 70 %" in text
    none = arm("steer 1", shown) | {"halves": [{"prevented": None}, {"prevented": shown}]}
    assert "can be chosen by one half" in told(none)
    late = arm("steer 2", shown)
    late["halves"][1]["task_change"] = estimate(9, 4, 14)
    assert "but at more than 5 % more loss on the task" in told(late)
    # Both must be shown: the share, and what it costs.
    for unsure in (arm("steer 2", guessed), arm("steer 2", shown, task=4.0)):
        assert "more than the goal of 70 %, though the intervals do not show" in told(unsure)
    assert "short of 70 %" in told(arm("steer 2", estimate(40, 20, 60)))
    # What costs too much is not the best, however much it prevents.
    text = told(arm("steer 1", estimate(40, 20, 60)), arm("steer 3", shown, task=30.0))
    assert (
        "steer 1 prevented most" in text
        and "it prevented 40 %" in text
        and "short of 70 %" in text
        and "steer 3" not in text
    )
    dear = told(arm("steer 3", shown, task=30.0))
    assert (
        "each of 1 preventative steerings cost more than 5 %" in dear
        and "loss on the task +30.0 %" in dear
        and "so that 97 [96, 98] % of what" in dear
    )
    assert "random 2: 85 % (95 % interval 72 to 95, n = 8 questions) prevented" in told(arm("random 2", shown))
