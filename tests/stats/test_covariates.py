"""What remains of an effect with covariates held equal: against a regression by hand, and against the truth."""

import numpy as np
import pytest

from personavec.stats.covariates import adjusted_difference
from personavec.stats.numbers import Floats

ARMS = np.tile([-2.0, 0.0, 2.0], 20)
QUESTIONS = np.repeat(np.arange(20), 3).tolist()


def drawn(seed: int, direct: float = 0.0, through: float = 10.0) -> tuple[Floats, Floats]:
    """Values whose arms act by themselves and through the first of three covariates."""
    rng = np.random.default_rng(seed)
    covariates = rng.standard_normal((60, 3))
    covariates[:, 0] += ARMS
    values = direct * ARMS + through * covariates[:, 0] + np.repeat(rng.normal(0, 20, 20), 3) + rng.normal(0, 8, 60)
    return values, covariates


def test_the_figure_is_that_of_least_squares_with_intercepts() -> None:
    values, covariates = drawn(0, direct=3)
    found = adjusted_difference(values, ARMS, covariates, QUESTIONS, (2, -2))
    questions, arms = np.eye(20)[QUESTIONS], (ARMS[:, None] == [0, 2]).astype(float)
    design = np.column_stack([questions, arms, covariates])
    by_hand = np.linalg.lstsq(design, values, rcond=None)[0][21]
    assert found is not None and found.mean == pytest.approx(by_hand, rel=1e-9) and found.n == 20


def test_an_effect_through_a_covariate_alone_is_gone_and_another_stays() -> None:
    held, kept, covered = 0, 0, 0
    for seed in range(40):
        values, covariates = drawn(seed)
        gone = adjusted_difference(values, ARMS, covariates, QUESTIONS, (2, -2), seed, draws=400)
        stays = adjusted_difference(values + 8 * ARMS, ARMS, covariates, QUESTIONS, (2, -2), seed, draws=400)
        assert gone is not None and stays is not None
        held += gone.low <= 0 <= gone.high
        covered += stays.low <= 32 <= stays.high
        kept += stays.low > 0
    assert held >= 36 and covered >= 36 and kept >= 36


def test_arms_that_covariates_tell_entirely_have_no_figure() -> None:
    values, _ = drawn(0)
    assert adjusted_difference(values, ARMS, (ARMS == 2)[:, None], QUESTIONS, (2, -2)) is None
    assert adjusted_difference(values, ARMS, ARMS[:, None], QUESTIONS, (2, 3)) is None, "no question has the arm 3"


def test_questions_without_both_arms_and_what_does_not_vary_do_not_count() -> None:
    values, covariates = drawn(0)
    lacking = np.ones(60, bool)
    lacking[2] = False  # the first question's arm 2
    wider = np.column_stack([covariates, np.ones(60)])
    whole = adjusted_difference(values[3:], ARMS[3:], covariates[3:], QUESTIONS[3:], (2, -2))
    found = adjusted_difference(
        values[lacking],
        ARMS[lacking],
        wider[lacking],
        [q for q, k in zip(QUESTIONS, lacking, strict=True) if k],
        (2, -2),
    )
    assert found is not None and whole is not None
    assert (found.mean, found.low, found.n) == pytest.approx((whole.mean, whole.low, 19))
    with pytest.raises(ValueError, match="59 arms"):
        adjusted_difference(values, ARMS[1:], covariates, QUESTIONS, (2, -2))
