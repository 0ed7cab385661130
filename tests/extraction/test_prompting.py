"""A prompt is held against steering question by question, and what follows from it is said."""

import pytest

from personavec.extraction.prompting import prompting, sentences
from personavec.info import Prompting
from personavec.rollouts import Rollout


def answers(scores: list[float | None], coefficient: float | None = None, *, coherence: float = 90.0) -> list[Rollout]:
    return [
        Rollout(f"{n}/{coefficient}", "dose", "?", n, [], coefficient=coefficient, score=score, coherence=coherence)
        for n, score in enumerate(scores)
    ]


def found(*judges: tuple[list[float | None], list[float | None]]) -> Prompting:
    """Of judges' scores of prompted and of steered answers."""
    names = ("probe", "contrast")
    prompted = {name: answers(asked) for name, (asked, _) in zip(names, judges, strict=False)}
    dose = {
        name: [*answers([1.0] * len(steered), 0.5), *answers(steered, 2.0, coherence=40.0)]
        for name, (_, steered) in zip(names, judges, strict=False)
    }
    return prompting("Be so.", prompted, dose, 2.0, 0)


LOW: list[float | None] = [10.0, 20.0, 15.0, 12.0, 18.0, 11.0]
HIGH: list[float | None] = [50.0, 70.0, 55.0, 61.0, 58.0, 66.0]
MIXED: list[float | None] = [50.0, 20.0, 60.0, 10.0, 58.0, 11.0]


def test_the_difference_is_by_question_and_leaves_out_what_has_no_score() -> None:
    one = found(([None, 30.0, 40.0, 50.0, 10.0, 20.0], [5.0, 10.0, 10.0, None, 10.0, 10.0]))
    more, score = one.more["probe"], one.score["probe"]
    assert more is not None and more.n == 4 and more.mean == pytest.approx((20 + 30 + 0 + 10) / 4)
    assert score is not None and score.mean == 30 and one.scored == {"probe": 5} and one.answers == 6
    assert one.coherence.mean == 90 and one.steered_coherence.mean == 40


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        ([(HIGH, LOW)], "A prompt would do, and better than steering."),
        ([(LOW, HIGH), (LOW, HIGH)], "A prompt would do less than steering."),
        ([(MIXED, MIXED[::-1])], "it is not shown to do less than steering."),
        ([(HIGH, LOW), (LOW, HIGH)], "in doubt: the judges disagree."),
        ([([None] * 6, HIGH)], "was not shown: no judge scored"),
    ],
)
def test_what_is_said(judges: list[tuple[list[float | None], list[float | None]]], said: str) -> None:
    [sentence] = sentences("kind", found(*judges))
    assert said in sentence
    assert ("where that steering has 40 " in sentence) == ("no judge" not in said)
    assert ("compares instructions" in sentence) == (len(judges) == 2)


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert sentences("kind", None) == []
