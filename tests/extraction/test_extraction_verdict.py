"""What the sentences of an extraction may say of other traits: points of one judge are compared, never of two."""

import numpy as np

from personavec.extraction.result import ExtractionRun, Specificity
from personavec.extraction.verdict import _specificity, brief
from personavec.stats.estimate import Estimate
from samples import estimate, extract_run

NAMES = ("kind", "rude", "dull")


def sentences(effects: list[list[float]], half: float = 2.0) -> list[str]:
    """Of the first trait; rows are vectors, columns scores."""
    table = tuple(tuple(Estimate(e, e - half, e + half, 8) for e in row) for row in effects)
    cosines = ((1.0, 0.1, 0.2), (0.1, 1.0, 0.0), (0.2, 0.0, 1.0))
    return _specificity("kind", Specificity(vectors=NAMES, cosine=cosines, effect=table))


def test_a_judge_that_gives_more_points_makes_no_vector_unspecific() -> None:
    """Each vector does to other traits a third of what it does to its own; the judges' scales differ up to eightfold.

    Compared along the row, which is across judges, other scores seem to move as much as its own in 14 % of cases.
    """
    across, within, runs = 0, 0, 200
    for run in range(runs):
        gains = np.exp(np.random.default_rng(run).uniform(0, np.log(8), 3)) * 10
        effects = (0.33 + 0.67 * np.eye(3)) * gains
        across += int(effects[0, 1:].max() >= effects[0, 0])
        within += any("may move as much" in sentence for sentence in sentences(effects.tolist(), 0.05 * gains.min()))
    assert across > 0.1 * runs and within == 0


def test_the_other_score_is_named_that_moves_most_by_its_own_measure() -> None:
    *_, own, other = sentences([[20, 30, 8], [5, 90, 1], [-4, 2, 10]])
    assert own.startswith("Its own score no other vector moves as much (20 points, 95 % interval 18 to 22")
    assert "moves that of dull most: 8 points" in other and "80 % of 10 points" in other


def test_rivals_are_beaten_by_intervals() -> None:
    _, own, _ = sentences([[20, 30, 8], [5, 90, 1], [-19, 2, 10]])
    assert "may move as much by the vectors of dull (-19 points" in own
    _, own, _ = sentences([[1, 30, 8], [0, 90, 1], [0, 2, 10]])
    assert "rude" in own and "dull" in own


def test_a_terminal_is_told_the_finding_against_chance_the_strength_and_little_else() -> None:
    run = ExtractionRun.model_validate(extract_run())
    assert brief(run) == (
        "Steering by the vector changes how humorous the answers are, more than chance directions did.",
        "Points moved from -2 to +2: contrast +41 [+32, +50] (n = 20; random directions up to 18).",
        "A prompt would do, and better than steering.",
        "Recommended strength: coefficients up to 1. Of those tried, answers stay coherent (at least 80 % of natural) "
        "from -2 to 1.",
    )
    nothing = extract_run() | {"recommended_coefficient": None}
    nothing["steering"] |= {"effect": estimate(3, 9)}
    nothing["elicitation"] |= {"told": estimate(0.1, 0.1)}
    hardly, outcome, *_, strength = brief(ExtractionRun.model_validate(nothing))
    assert "told" in hardly and outcome.startswith("Steering by the vector does not reliably")
    assert strength == "No coefficient is recommended: none was shown to work."
