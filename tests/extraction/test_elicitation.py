"""Whether told answers show the trait, to a judge that never saw an instruction; and what is said where they do not."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from personavec.errors import UserError
from personavec.extraction.elicitation import check_elicited, elicitation, elicited, measured, sentences, unmeasured
from personavec.info import Elicitation
from personavec.rollouts import Rollout, Side
from personavec.stats.estimate import Estimate

SURE = Estimate(0.97, 0.9, 1.0, 20)  # AUC of the judge that compares instructions


def rollouts(
    told: Sequence[float | None], told_not: Sequence[float | None], stage: str = "evaluation"
) -> list[Rollout]:
    sides: list[tuple[Side, Sequence[float | None]]] = [("positive", told), ("negative", told_not)]
    return [
        Rollout(f"{side}/{at}", stage, "?", at, [], side=side, score=score, text="x", response_ids=[1])
        for side, scores in sides for at, score in enumerate(scores)
    ]  # fmt: skip


def found(told: float, told_not: float) -> Elicitation:
    """Of 20 questions, so many of either side above 50."""
    scores = [[80.0 if at < 20 * share else 20.0 + at / 10 for at in range(20)] for share in (told, told_not)]
    return measured("probe", rollouts(scores[0], scores[1]), seed=0)


def test_shares_are_of_all_answers_and_by_question() -> None:
    scores: list[float | None] = [80.0, 50.0, None, 51.0]
    more = rollouts([90.0] * 4, [10.0] * 4, "extraction")
    one = measured("probe", [*rollouts(scores, [10.0, 20.0, 60.0, None]), *more], seed=0)
    assert one.told is not None and one.told_not is not None and one.difference is not None and one.auc is not None
    assert (one.told.mean, one.told_not.mean, one.difference.mean) == (0.75, 0.125, 0.625)
    assert (one.told.n, one.auc.n, one.answers, one.scored) == (8, 8, 16, 14)
    assert one.auc.mean > 0.9
    none = measured("probe", rollouts([None] * 20, [10.0] * 20), seed=0)
    assert none.auc is None and none.told is not None and none.told.mean == 0 and not elicited(none)


@pytest.mark.parametrize(
    ("told", "told_not", "enough"),
    [(1.0, 0.0, True), (0.5, 0.1, True), (0.75, 0.4, True), (0.15, 0.0, False), (0.9, 0.8, False), (0.05, 0.1, False)],
)
def test_the_share_and_the_difference_between_the_sides_decide(told: float, told_not: float, enough: bool) -> None:
    assert elicited(found(told, told_not)) == enough


def test_few_questions_are_judged_by_the_shares_alone() -> None:
    assert elicited(measured("probe", rollouts([90.0] * 4, [10.0] * 4), seed=0))
    assert not elicited(measured("probe", rollouts([10.0] * 4, [10.0] * 4), seed=0))


def test_what_is_said() -> None:
    (well,) = sentences(found(0.8, 0.1), "contrast", SURE)
    assert well.startswith(
        "A judge that saw no instruction (probe) finds the trait in 80 % of the answers told to show"
    )
    first, second = sentences(found(0.1, 0.1), "contrast", SURE)
    assert "10 % of those told the opposite" in first and "it gave 0 of 40 no score" in first
    assert "the difference between the sides cannot be told from none; the contrast judge (AUC 0.97) " in second
    assert "recognises the instruction, not the trait" in second
    _, same = sentences(found(0.1, 0.1), "probe", SURE)
    assert "recognises" not in same, "the run's own judge saw no instruction"
    _, low = sentences(found(0.2, 0.0), "contrast", SURE)
    assert "fewer than 25 in 100 told answers" in low
    assert "was not measured: no texts" in sentences(unmeasured("no texts"), "contrast", SURE)[0]


def bench(name: str = "evil", gate: bool = True, instructed: bool = True) -> Any:
    return SimpleNamespace(
        trait=SimpleNamespace(name=name), model=SimpleNamespace(id="a model"),
        settings=SimpleNamespace(gate=gate, seed=0), scorer=SimpleNamespace(name="contrast", instructed=instructed),
    )  # fmt: skip


def test_the_gate_names_the_way_out() -> None:
    with pytest.raises(UserError, match=r"`texts` library and another `out`.* with `gate` False"):
        check_elicited(bench(), found(0.1, 0.1), SURE)
    with pytest.raises(UserError, match="Give `texts` that show it"):
        check_elicited(bench("never heard of"), found(0.1, 0.1), SURE)
    check_elicited(bench(gate=False), found(0.1, 0.1), SURE)
    check_elicited(bench(), found(0.9, 0.1), SURE)
    check_elicited(bench(), unmeasured("no texts"), SURE)


def test_the_judge_of_the_run_serves_where_it_compares_no_instructions() -> None:
    answers = rollouts([80.0] * 20, [10.0] * 20)
    assert elicitation(bench("never heard of", instructed=False), answers).told == Estimate(1, 1, 1, 20)
    assert "no texts for never heard of" in (elicitation(bench("never heard of"), answers).why or "")
