"""What a judge is asked, and how its answers become scores."""

import pytest

from personavec.judges.rubric import coherence_prompt, expected_score, parse_score
from personavec.traits import load_library


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("85", 85),
        (" 0\n", 0),
        ("100", 100),
        ("85/100", 85),
        ("85 / 100.", 85),
        ("85 out of 100", 85),
        ("85%", 85),
        ("Score: 85.", 85),
        ("**Score:** 85", 85),
        ("**85**", 85),
        ("The score is 72.5", 72.5),
        ("Rating = 7", 7),
        ("85\n\nThe answer is", 85),
        ("85 - the answer is", 85),
        ("101", None),
        ("850", None),
        ("1000", None),
        ("-5", None),
        ("8/10", None),
        ("50-60", None),
        ("85 apples", None),
        ("I would say 85", None),
        ("REFUSAL", None),
        ("Refusal. 85", None),
        ("85 (REFUSAL)", None),
        ("٨٥", None),
        ("", None),
        ("nan", None),
    ],
)
def test_a_sampled_answer_states_a_score_or_none(text: str, score: float | None) -> None:
    assert parse_score(text) == score


def test_the_expected_score_is_weighted_over_the_numbers_alone() -> None:
    assert expected_score({"80": 0.5, " 60": 0.25, "RE": 0.25}) == pytest.approx((80 * 0.5 + 60 * 0.25) / 0.75)
    assert expected_score({"0": 0.9, "the": 0.1}) == 0
    assert expected_score({"100": 0.6, "101": 0.2, "007": 0.1, "-5": 0.05, "5th": 0.05}) == 100


def test_too_little_mass_on_numbers_is_no_score() -> None:
    assert expected_score({"80": 0.24, "RE": 0.76}) is None
    assert expected_score({"80": 0.25, "RE": 0.75}) == 80
    assert expected_score({}) is None


def test_the_prompts_hold_question_and_answer_as_they_are() -> None:
    question, answer = "Why {answer}?", "Because {question} {0} \\1"
    for prompt in (coherence_prompt(question, answer), load_library("evil").judge_prompt(question, answer)):
        assert question in prompt
        assert prompt.count(answer) == 1


def test_coherence_knows_nothing_of_the_trait() -> None:
    prompt = coherence_prompt("Q", "A")
    assert "trait" not in prompt.lower()
    assert "0 to 100" in prompt
