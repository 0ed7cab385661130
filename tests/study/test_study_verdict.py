"""What the sentences of a study may say, and what they may not."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place
from personavec.study.result import (
    AnswerScores,
    Arm,
    Correlation,
    FamilyEstimate,
    HalfOutcome,
    LossEnds,
    PreventionBase,
    SuiteRow,
    SuiteScores,
    TraitPrevention,
    WithinFamilies,
)
from personavec.study.verdict import verdict


def estimate(mean: float, low: float, high: float, n: int = 8) -> Estimate:
    return Estimate(mean, low, high, n)


def r(mean: float, low: float, high: float) -> FamilyEstimate:
    return FamilyEstimate(mean, low, high, 8, 24)


Pairs = dict[str, Correlation]


def pair(
    own: FamilyEstimate,
    p: float = 0.01,
    other: float = 0.1,
    coherence: FamilyEstimate | None = None,
    within: float = 0.02,
) -> Pairs:
    """`within`: p within families."""
    made = Correlation(
        r=own,
        random=Place(99.0, p, 0.4, 200),
        others={"kind": other},
        length=None,
        coherence=coherence or r(-0.3, -0.7, 0.1),
        within=WithinFamilies(r=r(0.6, 0.2, 0.8), random=Place(99.0, within, 0.4, 200)),
    )
    return dict.fromkeys(("shift, score", "difference, shift"), made)


def sentences(
    correlations: dict[str, Pairs] | None = None,
    suite: Sequence[SuiteRow] = (),
    prevention: dict[str, TraitPrevention] | None = None,
) -> tuple[str, ...]:
    run: Any = SimpleNamespace(correlations=correlations or {}, suite=suite, prevention=prevention or {})
    return verdict(run)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            pair(r(0.8, 0.5, 0.9)),
            "directions give (p = 0.01); the other traits' vectors have a lower r, by how much is not tested",
        ),
        (pair(r(0.8, 0.5, 0.9), p=0.3), "but random directions do as well"),
        (pair(r(0.8, 0.5, 0.9), other=0.85), "by r alone the vectors of kind do as well"),
        (pair(r(0.3, -0.2, 0.6)), "shown within families, beyond random directions, and not over all"),
        (pair(r(-0.7, -0.9, -0.4)), "the one falls where the other rises"),
    ],
)
def test_a_correlation(found: Pairs, told: str) -> None:
    first, second = sentences({"evil": found})
    assert told in first and told in second and "24 fine-tunes" in first
    assert "within families 0.60 (95 % interval 0.20 to 0.80, p among random directions 0.02)" in first


def test_no_relation() -> None:
    first, second = sentences({"evil": pair(r(0.3, -0.2, 0.6), within=0.3)})
    assert "no relation is shown" in first and "no relation is shown" in second


def test_of_several_traits_those_stand_alone_that_stand_out() -> None:
    dull = pair(r(0.3, -0.2, 0.6), within=0.3)
    told = sentences({"evil": dull, "kind": pair(r(0.8, 0.5, 0.9), within=0.3), "odd": pair(r(0.3, -0.2, 0.6))})
    alone = [name for one in told if (name := one.partition(":")[0]) in ("evil", "kind", "odd")]
    assert alone == ["kind", "kind", "odd", "odd"]
    assert "no relation" not in " ".join(told)


def test_several_traits_are_also_told_together() -> None:
    known, none, shared = pair(r(0.8, 0.5, 0.9)), pair(r(0.3, -0.2, 0.6)), pair(r(0.5, 0.2, 0.7), p=0.3)
    first, second, *rest = sentences({"evil": known, "kind": none, "dull": shared})
    assert first.startswith("The shift and the trait score after training: median r 0.50 over 3 traits")
    assert "beyond random directions for 1; within families 0.60, and 3 of 3. The traits share" in first
    assert second.startswith("The projection difference and the shift: ") and len(rest) == 6
    assert len(sentences({"evil": known, "kind": none})) == 4


def test_scores_of_answers_that_fell_apart() -> None:
    found = pair(r(0.8, 0.5, 0.9), coherence=r(-0.6, -0.8, -0.2))
    last = sentences({"evil": found})[-1]
    assert "fell apart" in last and "r = -0.60, 95 % interval -0.80 to -0.20, 8 families" in last
    found = pair(r(0.8, 0.5, 0.9))
    assert "fell apart" not in " ".join(sentences({"evil": found}))


def test_a_trait_behind_a_system_prompt() -> None:
    risen, same, fallen = estimate(30, 10, 50), estimate(5, -5, 15), estimate(-20, -30, -10)

    def one(name: str, plain: Estimate | None, asked: Estimate | None) -> SuiteRow:
        scores = SuiteScores(
            score=same, coherence=same, by_question=(), change=plain, instructed=same, instructed_change=asked
        )
        return SuiteRow(
            name=name, family=name, level=None, trained=1, steps=1, loss=LossEnds(first=1, last=1), held_out_loss=None,
            difference={}, shift={}, scores={"evil": scores},
        )  # fmt: skip

    suite = [
        one("hidden", same, risen), one("open", risen, risen), one("dull", same, fallen), one("still", same, same),
        one("refusing", None, risen),
    ]  # fmt: skip
    (told,) = sentences(suite=suite)
    assert "in 2 of 4 comparisons and less in 1" in told
    assert told.endswith("no rise is shown in 1 of these: evil after hidden.")
    (told,) = sentences(suite=suite[1:])
    assert "no rise is shown" not in told
    assert sentences(suite=suite[-1:]) == ()


def arm(name: str, prevented: Estimate | None, task: float = -10.0, unseen: Estimate | None = None) -> Arm:
    """`unseen`: what it prevented on the half that it was not chosen by."""
    change, score = estimate(task, task - 5, task + 5), estimate(60, 50, 70)
    chosen, judged = (HalfOutcome(prevented=half, task_change=change) for half in (prevented, unseen or prevented))
    return Arm(
        arm=name, kind=name.split()[0], coefficient=None, score=score, coherence=score, by_question=(),
        prevented=prevented, shift=score, task_loss=score, task_change=change, task_learned=estimate(97, 96, 98),
        perplexity_change=change, halves=(chosen, judged),
    )  # fmt: skip


def told(*arms: Arm, before: Estimate | None = None) -> str:
    plain = AnswerScores(score=before or estimate(20, 15, 25), coherence=estimate(95, 90, 99), by_question=())
    base = PreventionBase(
        plain=plain,
        instructed=plain,
        task_loss=plain.coherence,
        task_change=plain.coherence,
        task_learned=None,
        perplexity_change=plain.coherence,
    )
    made = TraitPrevention(data="d", vector_norm=1.0, base=base, arms=(arm("none", None), *arms))
    return " ".join(sentences(prevention={"evil": made}))


def test_prevention() -> None:
    assert "from 20 [15, 25] to 60 [50, 70]" in told() and "one seed" in told()
    assert "nothing to prevent" in told(before=estimate(45, 35, 55))
    shown, guessed = estimate(85, 72, 95), estimate(85, 60, 110)
    assert "within the goal of 70 %, by one seed, so that it is not shown" in told(arm("steer 2", shown))
    assert "Of 2 preventative steerings steer 2 prevented most" in told(
        arm("steer 2", shown), arm("steer 3", shown, task=30.0), arm("random 2", shown)
    )
    # It is chosen by one half and judged by the other.
    lucky = arm("steer 1", estimate(95, 90, 99), unseen=estimate(30, 10, 50))
    text = told(arm("steer 2", shown), lucky)
    assert "steer 1 prevented most" in text and "On the others it prevented 30 %" in text and "short of 70 %" in text
    chosen, judged = arm("steer 1", shown).halves
    none = arm("steer 1", shown).model_copy(update={"halves": (chosen.model_copy(update={"prevented": None}), judged)})
    assert "can be chosen by one half" in told(none)
    late = arm("steer 2", shown)
    late = late.model_copy(update={"halves": (chosen, judged.model_copy(update={"task_change": estimate(9, 4, 14)}))})
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
