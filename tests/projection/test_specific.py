"""Directions keep what is their own, less of what varies anyway, and are never made of nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.projection.specific import Whitening, length_direction, refusal_direction, remove_span
from personavec.screening.threshold import threshold


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_remains_is_orthogonal_to_the_others() -> None:
    direction, others = normal(896), 20 * normal(6, 896, seed=1)
    found = remove_span(direction, others)
    assert found.direction.dtype == torch.float32 and float(found.direction.norm()) == pytest.approx(1, abs=1e-6)
    assert float((torch.nn.functional.normalize(others) @ found.direction).abs().max()) < 1e-6
    assert found.kept == pytest.approx(float(found.direction @ direction / direction.norm()), abs=1e-5)
    assert remove_span(5 * direction, others[:, :] * 0.01).kept == pytest.approx(found.kept)


def test_what_remains_is_the_least_squares_residual() -> None:
    direction, others = normal(50).double(), normal(4, 50, seed=1).double()
    fitted = torch.linalg.lstsq(others.T, direction[:, None]).solution[:, 0]
    rest = direction - others.T @ fitted
    found = remove_span(direction, others)
    assert torch.allclose(found.direction.double(), rest / rest.norm(), atol=1e-6)
    assert found.kept == pytest.approx(float(rest.norm() / direction.norm()))


def test_dependent_others_take_nothing_more() -> None:
    direction, others = normal(64), normal(3, 64, seed=1)
    more = torch.cat(
        [others, others[:1] * 7, others.sum(0, keepdim=True), others[1:2] * (1 + 1e-7), torch.zeros(2, 64)]
    )
    once, again = remove_span(direction, others), remove_span(direction, more)
    assert torch.allclose(once.direction, again.direction, atol=1e-5) and once.kept == pytest.approx(again.kept)
    assert remove_span(direction, torch.zeros(0, 64)).kept == pytest.approx(1)
    assert remove_span(direction, torch.zeros(2, 64)).kept == pytest.approx(1)


def test_more_others_than_dimensions_leave_nothing() -> None:
    with pytest.raises(UserError, match=r"100\.00 % of the direction lies in the span of the 20 others"):
        remove_span(normal(8), normal(20, 8, seed=1))


def test_a_direction_that_is_nearly_another_is_refused_with_the_share() -> None:
    other = normal(64)
    apart = remove_span(normal(64, seed=1), other[None]).direction
    near = torch.nn.functional.normalize(other, dim=0) + 0.005 * apart
    with pytest.raises(UserError, match=r"99\.99 % of the direction"):
        remove_span(near, other[None])
    further = torch.nn.functional.normalize(other, dim=0) + 0.05 * apart
    found = remove_span(further, other[None])
    assert found.kept == pytest.approx(0.05, rel=0.01)
    assert float(found.direction @ apart) == pytest.approx(1, abs=1e-4)


def stretched(n: int, d: int, seed: int = 0) -> Tensor:
    """Readings with ten times the deviation along the first axis, and a mean that must not matter."""
    rows = normal(n, d, seed=seed)
    rows[:, 0] *= 10
    return rows + 100


@pytest.mark.parametrize(("n", "d"), [(40, 200), (1000, 20)])
def test_whitening_is_the_inverse_of_the_shrunk_covariance(n: int, d: int) -> None:
    """Against the formula of Ledoit and Wolf written out with all d x d numbers."""
    readings, direction = stretched(n, d), normal(d, seed=1)
    x = readings.double() - readings.double().mean(0)
    sample = x.T @ x / n
    level = sample.trace() / d
    identity = torch.eye(d, dtype=torch.double)
    distance = ((sample - level * identity) ** 2).sum() / d
    error = sum(((row[:, None] * row - sample) ** 2).sum() / d for row in x) / n**2
    share = min(float(error / distance), 1.0)
    white = torch.linalg.solve(share * level * identity + (1 - share) * sample, direction.double())
    found = Whitening(readings)(direction)
    assert torch.allclose(found.direction.double(), white / white.norm(), atol=1e-5)
    assert found.kept == pytest.approx(float(white @ direction.double() / white.norm() / direction.norm()), abs=1e-6)


def test_whitening_turns_away_from_what_varies_anyway() -> None:
    direction = torch.tensor([1.0, 1.0] + [0.0] * 28)
    found = Whitening(stretched(2000, 30))(direction)
    assert float(found.direction[0]) < 0.05 and float(found.direction[1]) > 0.98
    assert found.kept == pytest.approx(0.71, abs=0.05)


def test_whitening_separates_better_in_new_readings() -> None:
    shift = torch.zeros(100)
    shift[0], shift[1] = 3.0, 1.5
    clean, new = stretched(400, 100, seed=1), stretched(400, 100, seed=2)

    def standardised(direction: Tensor) -> float:
        return float(shift @ direction / (new @ direction).std())

    assert standardised(Whitening(clean)(shift).direction) > 3 * standardised(shift / shift.norm())


def test_a_whitened_threshold_holds_for_readings_that_made_no_direction() -> None:
    rates: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(30):
        clean, new = normal(100, 300, seed=seed), normal(500, 300, seed=100 + seed)
        direction = normal(300, seed=200 + seed)
        for parted in rates:
            made = Whitening(clean[::2] if parted else clean)(direction).direction
            level = threshold((clean[1::2] if parted else clean) @ made, 0.05).value
            rates[parted].append(float((new @ made > level).float().mean()))
    assert sum(rates[True]) / 30 < 0.06  # at most 5 %, and chance
    assert sum(rates[False]) > 1.5 * sum(rates[True])


def test_round_readings_leave_a_direction_as_it_is() -> None:
    assert Whitening(normal(50, 300, seed=1))(normal(300)).kept > 0.95
    assert Whitening(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))(
        torch.tensor([1.0, 2.0])
    ).kept == pytest.approx(1)


def test_whitening_needs_readings_that_differ() -> None:
    with pytest.raises(UserError, match="at least two"):
        Whitening(normal(1, 5))
    with pytest.raises(UserError, match="all the same"):
        Whitening(torch.full((4, 5), 0.1))


def test_the_length_direction_is_the_slope() -> None:
    lengths, slope = normal(500) + 5, normal(20, seed=1)
    readings = lengths[:, None] * slope + 0.1 * normal(500, 20, seed=2) + 30
    found = length_direction(readings, lengths)
    assert float(found @ slope / slope.norm()) > 0.999 and float(found.norm()) == pytest.approx(1, abs=1e-6)
    centred = lengths - lengths.mean()
    off = readings - readings @ found[:, None] * found
    assert float((centred @ (off - off.mean(0))).abs().max()) < 0.01 * float((centred @ readings).norm())
    with pytest.raises(UserError, match="one length"):
        length_direction(readings, torch.full((500,), 3.3))
    with pytest.raises(UserError, match="do not change with length"):
        length_direction(torch.ones(500, 20), lengths)


def test_the_refusal_direction_is_the_difference_of_means() -> None:
    refusing, answering = normal(30, 10) + 1, normal(50, 10, seed=1)
    found = refusal_direction(refusing, answering)
    assert torch.allclose(found, torch.nn.functional.normalize(refusing.mean(0) - answering.mean(0), dim=0), atol=1e-6)
    with pytest.raises(UserError, match="0 refusals and 50 answers"):
        refusal_direction(refusing[:0], answering)
    with pytest.raises(UserError, match="do not change with refusing"):
        refusal_direction(torch.ones(3, 10), torch.ones(4, 10))


def test_what_is_refused() -> None:
    good, nan = normal(5), torch.full((5,), float("nan"))
    calls: list[Any] = [
        lambda: remove_span(nan, good[None]),
        lambda: remove_span(torch.zeros(5), good[None]),
        lambda: remove_span(good, nan[None]),
        lambda: remove_span(good, good),
        lambda: remove_span(good, normal(2, 4)),
        lambda: remove_span(normal(2, 5), good[None]),
        lambda: Whitening(torch.stack([good, nan])),
        lambda: length_direction(normal(4, 5), normal(3)),
        lambda: length_direction(normal(5, 5), nan),
        lambda: refusal_direction(normal(4, 5), normal(4, 6)),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
