"""The nulls are what they claim to be: a planted direction beats them, the absence of one does not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from personavec.stats.bootstrap import auc
from personavec.stats.nulls import (
    DIRECTIONS,
    Null,
    Place,
    covariance_directions,
    isotropic_directions,
    null_summary,
    place,
    separation,
    separation_nulls,
    shuffled_directions,
)


def draw(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def covariance(rows: Tensor) -> Tensor:
    """Second moment (d, d) of rows (n, d), whose mean is meant to be zero."""
    return rows.T @ rows / len(rows)


def test_covariance_directions_have_the_covariance_within_sides() -> None:
    """Over both layers at once: a draw mixes the same rollouts at each, so the layers stay related as they are."""
    noise, n, layers, d = draw(0), 400, 2, 3
    within = noise(n, layers * d) @ noise(layers * d, layers * d)
    sides = ["positive", "negative"] * (n // 2)
    shift = torch.tensor([50.0 if side == "positive" else -50.0 for side in sides])
    readings = (within + shift[:, None]).view(n, layers, d)
    before = readings.clone()
    drawn = covariance_directions(readings, sides, 20_000, seed=1)
    assert drawn.shape == (20_000, layers, d) and torch.equal(readings, before)

    flat = readings.view(n, -1)
    centred = torch.cat([side - side.mean(0) for side in (flat[::2], flat[1::2])])
    expected = covariance(centred)
    found = covariance(drawn.view(len(drawn), -1))
    assert (found - expected).norm() < 0.04 * expected.norm()
    assert drawn.mean(0).norm() < 0.05 * expected.trace() ** 0.5
    assert expected.trace() < 0.05 * covariance(flat).trace()  # the sides' own difference is most of what there is


def test_covariance_directions_do_not_favour_the_trait() -> None:
    """All noise along one axis and the trait along another: draws lie along the first."""
    readings = torch.zeros(200, 1, 2)
    readings[:, 0, 0] = draw(0)(200)
    readings[:100, 0, 1] = 10.0
    drawn = covariance_directions(readings, ["positive"] * 100 + ["negative"] * 100, 50, seed=0)
    assert torch.allclose(drawn[:, 0, 1], torch.zeros(50), atol=1e-4) and float(drawn[:, 0, 0].std()) > 0.5


def test_isotropic_directions_favour_none() -> None:
    drawn = isotropic_directions((2, 3), 20_000, seed=0)
    assert drawn.shape == (20_000, 2, 3) and drawn.dtype == torch.float32
    assert (covariance(drawn.reshape(len(drawn), -1)) - torch.eye(6)).abs().max() < 0.03


def test_draws_come_from_their_seed() -> None:
    readings, sides = draw(0)(8, 2, 3), ["positive", "negative"] * 4
    for one, same, other in (
        [isotropic_directions((2, 3), 5, seed) for seed in (1, 1, 2)],
        [covariance_directions(readings, sides, 5, seed) for seed in (1, 1, 2)],
    ):
        assert torch.equal(one, same) and not torch.equal(one, other)


Sides = tuple[Tensor, Tensor]


def readings(seed: int, gaps: list[float], n: int = 60, d: int = 8) -> Sides:
    """Both sides (n, layers, d): noise, and at each layer a gap of so many deviations along the first axis."""
    noise = draw(seed)
    positive, negative = noise(n, len(gaps), d), noise(n, len(gaps), d)
    positive[:, :, 0] += torch.tensor(gaps)
    return positive, negative


def first_axis(layers: int, sign: float = 1.0, d: int = 8) -> Tensor:
    direction = torch.zeros(1, layers, d)
    direction[:, :, 0] = sign
    return direction


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_separation_chooses_on_one_set_and_reports_on_the_other(sign: float) -> None:
    """Layer 2 is best where the choice is made; elsewhere layer 1 would be better, and is not reported."""
    chosen, reported = readings(0, [9.0, 0.5, 2.0]), readings(1, [9.0, 5.0, 1.0])
    expected = auc(reported[0][:, 2, 0].numpy(), reported[1][:, 2, 0].numpy())
    assert separation(first_axis(3, sign), chosen, reported, [1, 2]) == pytest.approx([expected])
    assert 0.6 < expected < 0.9
    assert separation(first_axis(3, sign), chosen, reported, [0, 1, 2]) == [1.0]


def test_separation_keeps_the_sign_it_chose() -> None:
    """A direction that turns round between the sets is reported as wrong, not as right."""
    chosen, reported = readings(0, [3.0]), readings(1, [-3.0])
    assert separation(first_axis(1), chosen, reported, [0])[0] < 0.1
    assert separation(first_axis(1, -1.0), chosen, reported, [0])[0] < 0.1


def test_each_direction_chooses_for_itself() -> None:
    chosen, reported = readings(0, [3.0, 0.0]), readings(1, [3.0, 0.0])
    chosen[0][:, 1, 1] -= 4
    reported[0][:, 1, 1] -= 4
    directions = torch.zeros(2, 2, 8)
    directions[0, :, 0] = directions[1, :, 1] = 1.0
    together = separation(directions, chosen, reported, [0, 1])
    alone = [separation(direction[None], chosen, reported, [0, 1])[0] for direction in directions]
    assert together == alone and min(together) > 0.95


def difference(sides: Sides) -> Tensor:
    return (sides[0].mean(0) - sides[1].mean(0))[None]


def test_a_planted_direction_beats_the_nulls() -> None:
    gaps = [0.0, 1.0, 2.0]
    extraction, evaluation = readings(0, gaps, n=100, d=32), readings(1, gaps, n=40, d=32)
    found = separation(difference(extraction), extraction, evaluation, [1, 2])[0]
    asked = list(range(100)), list(range(100))
    nulls = separation_nulls(extraction, evaluation, [1, 2], asked, seed=0)
    assert nulls.keys() == {"isotropic", "shuffled"}
    for null in nulls.values():
        assert null.n == DIRECTIONS
        assert found > null.max >= null.p95 >= null.mean > 0.5
    assert nulls == separation_nulls(extraction, evaluation, [1, 2], asked, seed=0)
    assert nulls != separation_nulls(extraction, evaluation, [1, 2], asked, seed=5)


def test_without_a_planted_direction_nothing_beats_the_nulls() -> None:
    """The difference of means separates the rollouts it was made of, but no others."""
    asked = list(range(30)), list(range(30))
    trials, found, seen, means, above = 40, [], [], [], {"isotropic": 0, "shuffled": 0}
    for seed in range(trials):
        extraction = readings(2 * seed, [0.0, 0.0], n=30, d=32)
        evaluation = readings(2 * seed + 1, [0.0, 0.0], n=30, d=32)
        vector = difference(extraction)
        found += separation(vector, extraction, evaluation, [0, 1])
        seen += separation(vector, extraction, extraction, [0, 1])
        for name, null in separation_nulls(extraction, evaluation, [0, 1], asked, seed).items():
            means.append(null.mean)
            above[name] += found[-1] > null.p95
    assert min(seen) > 0.75
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)
    assert np.mean(means) == pytest.approx(0.5, abs=0.02)
    assert max(above.values()) <= 6  # of 40, where 2 are expected: 7 or more have a chance of 0.3 %


def sides_alike(seed: int, questions: int, repeats: int, d: int = 48) -> tuple[Sides, tuple[list[int], list[int]]]:
    """Answers (n, 1, d) of both sides to the same questions, told apart by nothing.

    The question decides the first half of the width, and what happens to be said the second.
    """
    rng = np.random.default_rng(seed)
    asked = np.tile(np.arange(questions), repeats)
    about = 5 * rng.standard_normal((questions, d // 2))
    sides = []
    for _ in range(2):
        said = rng.standard_normal((len(asked), d // 2)) * 2 / np.sqrt(np.arange(1, d // 2 + 1))
        sides.append(torch.from_numpy(np.hstack([about[asked], said])).float()[:, None])
    return (sides[0], sides[1]), (asked.tolist(), asked.tolist())


def test_the_null_is_made_as_the_vector_is() -> None:
    """A worthless vector leans towards what differs between answers to one question: 5 in 100 must pass the null.

    Directions with the covariance of all answers lean towards what they are about, which both sides share: along them
    no AUC strays from 1/2, and a worthless vector seems to separate.
    """
    runs, passed = 200, {"shuffled": 0, "covariance": 0}
    for run in range(runs):
        (made, asked), (unseen, _) = sides_alike(2 * run, 10, 4), sides_alike(2 * run + 1, 20, 1)
        both, names = torch.cat(made), ["positive"] * 40 + ["negative"] * 40
        found = separation(difference(made), made, unseen, [0])[0]
        for kind, drawn in (
            ("shuffled", shuffled_directions(both, names, [*asked[0], *asked[1]], 100, run)),
            ("covariance", covariance_directions(both, names, 100, run)),
        ):
            passed[kind] += found > null_summary(separation(drawn, made, unseen, [0])).p95
    assert passed["covariance"] > 0.1 * runs
    assert passed["shuffled"] <= 18  # of 200, where 10 are expected: 19 or more have a chance of 0.6 %


def test_shuffled_sides_do_not_favour_the_trait() -> None:
    """A gap as large as all else: without centring every shuffled difference would hold some of it."""
    (positive, negative), asked = sides_alike(0, 20, 1)
    positive[:, 0, 0] += 100
    drawn = shuffled_directions(
        torch.cat([positive, negative]), ["positive"] * 20 + ["negative"] * 20, [*asked[0], *asked[1]], 50, 0
    )
    assert drawn.shape == (50, 1, 48) and float(drawn[:, 0, 0].abs().max()) < 5
    assert float(drawn[:, 0, :24].norm(dim=1).mean()) < 1e-3 + float(drawn[:, 0, 24:].norm(dim=1).mean())


def test_place_counts_by_size() -> None:
    nulls = [-3.0, 0.1, 0.2, 0.3, 1.0, -0.5, 0.6, 0.7, 0.8]
    found = place(-1.0, nulls)
    assert found.p_value == pytest.approx(3 / 10) and found.n == 9
    assert found.percentile == pytest.approx(100 * 7 / 9)
    assert place(4.0, nulls).p_value == pytest.approx(1 / 10) and place(0.0, nulls).p_value == 1
    assert found.p95 == pytest.approx(np.percentile(np.abs(nulls), 95))
    with pytest.raises(ValueError):
        place(1.0, [])
    with pytest.raises(ValueError):
        place(np.nan, nulls)


def test_a_direction_among_its_likes_is_found_seldom() -> None:
    rng = np.random.default_rng(0)
    values = [place(row[0], row[1:]).p_value <= 0.05 for row in rng.standard_normal((2000, 40))]
    assert np.mean(values) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_null_summary() -> None:
    assert null_summary(range(101)) == Null(mean=50, p95=95, max=100, n=101)
    for values in ([], [1.0, np.nan], [[1.0, 2.0]]):
        with pytest.raises(ValueError):
            null_summary(values)


def test_figures_in_files_have_four_digits() -> None:
    assert null_summary([1 / 3, 1 / 3]) == Null(mean=0.3333, p95=0.3333, max=0.3333, n=2)
    assert Place(12.345678, 0.123456, 1.234567, 7).rounded() == Place(12.3457, 0.1235, 1.2346, 7)
    with pytest.raises(ValueError, match="values of shape"):
        place(1.0, [[1.0, 2.0]])


def test_a_choice_that_tells_nothing_keeps_the_direction_as_it_is() -> None:
    same = torch.zeros(4, 1, 8)
    positive, negative = torch.zeros(4, 1, 8), torch.zeros(4, 1, 8)
    positive[:, 0, 0] = torch.tensor([1.0, 1, 1, -1])
    assert separation(first_axis(1), (same, same), (positive, negative), [0]) == [(3 + 0) / 4]


def test_nulls_are_drawn_for_any_number_of_layers() -> None:
    sides = readings(0, [0.0, 0.0, 2.0], d=2), readings(1, [0.0, 0.0, 2.0], d=2)
    asked = list(range(60)), list(range(60))
    nulls = separation_nulls(sides[0], sides[1], [2], asked, seed=0)
    assert nulls["isotropic"].n == nulls["shuffled"].n == DIRECTIONS
