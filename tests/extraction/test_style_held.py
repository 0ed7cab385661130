"""What of an effect is style is told beside it."""

import numpy as np
import pytest

from personavec.extraction.style import style_held, style_sentence
from personavec.info import StyleChange, StyleHeld
from personavec.rollouts import Rollout
from personavec.stats.estimate import Estimate

COEFFICIENTS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def answers(trait: float, mark: float) -> list[Rollout]:
    """Answers whose score grows with the coefficient, and with each exclamation mark, of which steering brings more."""
    rng = np.random.default_rng(0)
    made = []
    for question in range(20):
        for coefficient in COEFFICIENTS:
            marks = int(rng.integers(0, 4) + coefficient + 2)
            text = "word " * int(rng.integers(5, 30)) + "!" * marks
            score = 30 + trait * coefficient + mark * marks + rng.normal(0, 3)
            one = Rollout(f"{question}/{coefficient}", "dose", "?", question, [], coefficient=coefficient)
            one.text, one.score = text, score
            made.append(one)
    return made


def held(made: list[Rollout]) -> StyleHeld:
    found = style_held(made, [r.coefficient or 0.0 for r in made], (2, -2), 0)
    assert found is not None
    return found


def test_marks_alone_leave_nothing_and_the_trait_stays() -> None:
    style, both = held(answers(0, 5)), held(answers(6, 5))
    assert style.effect.low > 10 and style.remains is not None and style.remains.low < 0 < style.remains.high
    assert both.remains is not None and both.remains.low < 24 < both.remains.high and both.remains.low > 15
    changes = {each.name: each.change for each in style.changes}
    assert len(changes) == 7 and changes["exclamation marks"].low > 2


def test_what_was_not_scored_does_not_count() -> None:
    made = answers(6, 0)
    for one in made[:5]:
        one.score = None
    assert held(made).effect.n == 19
    for one in made:
        one.score = None
    assert style_held(made, [0.0] * len(made), (2, -2), 0) is None


def test_sentences() -> None:
    marks = StyleChange(name="exclamation marks", change=Estimate(1.5, 1, 2, 20))
    length = StyleChange(name="log length", change=Estimate(-0.5, -2, 1, 20))
    effect = Estimate(40, 30, 50, 20)

    def said(remains: Estimate | None, effect: Estimate = effect) -> list[str]:
        return style_sentence(StyleHeld(effect=effect, remains=remains, changes=(marks, length)), "probe")

    assert said(Estimate(25, 10, 40, 20)) == [
        "With the style of the answers held equal +25 of the +40 points of the probe judge remain "
        "(95 % interval +10 to +40, n = 20 questions)."
    ]
    (nothing,) = said(Estimate(4, -8, 16, 20))
    assert nothing.endswith("n = 20 questions): it may have scored style alone (exclamation marks +1.5).")
    assert "cannot be told" in said(None)[0]
    assert said(Estimate(4, -8, 16, 20), Estimate(5, -1, 11, 20)) == [] == style_sentence(None, "probe")
    assert "+0" in said(Estimate(0.2, -8, 9, 20))[0]


@pytest.mark.parametrize("text", ["", "!!!"])
def test_style_that_tells_all_leaves_no_figure(text: str) -> None:
    made = answers(6, 0)
    for one in made:
        one.text = text + "!" * int((one.coefficient or 0) == 2)
    assert held(made).remains is None
