"""Running moments equal those of the whole, in any cut and order, and do not lose digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personavec.stats.moments import Moments


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 100))
def test_any_cut_gives_the_same(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((size, 3)) * [1, 100, 1e-3] for size in cuts]
    whole = np.concatenate(parts)
    moments = Moments(3)
    for part in parts:
        moments.update(part)
    assert moments.count == len(whole)
    if len(whole):
        assert moments.mean == pytest.approx(whole.mean(0), abs=1e-12)
    if len(whole) > 1:
        assert moments.variance == pytest.approx(whole.var(0, ddof=1), rel=1e-9)


def test_a_large_mean_does_not_eat_the_variance() -> None:
    """The sum of squares minus the square of the sum would give noise here."""
    rows = 1e9 + np.random.default_rng(0).standard_normal((10_000, 2))
    moments = Moments(2)
    for start in range(0, 10_000, 100):
        moments.update(rows[start : start + 100])
    assert moments.variance == pytest.approx(rows.var(0, ddof=1), rel=1e-6)


def test_they_go_to_arrays_and_back() -> None:
    moments = Moments.of(np.arange(12.0).reshape(4, 3))
    back = Moments.from_arrays(moments.to_arrays())
    back.update([[1.0, 2.0, 3.0]])
    moments.update([[1.0, 2.0, 3.0]])
    assert back.count == moments.count == 5
    assert np.array_equal(back.mean, moments.mean) and np.array_equal(back.variance, moments.variance)


def test_what_is_refused() -> None:
    moments = Moments(2)
    with pytest.raises(ValueError, match="no variance"):
        _ = moments.variance
    for rows, said in (
        ([[1.0]], r"\(1, 1\) for 2 columns"), ([1.0, 2.0], r"\(2,\) for 2 columns"),
        ([[1.0, np.nan]], "not finite"), ([[np.inf, 1.0]], "not finite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            moments.update(rows)
    with pytest.raises(ValueError, match="rows of shape"):
        moments.update([["1", "2", "3"]])
    with pytest.raises(ValueError):
        Moments.from_arrays({"count": 1, "mean": [0.0], "squares": [0.0, 1.0]})
    assert moments.count == 0


def test_a_list_is_one_column_of_floats() -> None:
    moments = Moments.of([1, 2, 6])
    assert (moments.count, moments.mean.tolist(), moments.variance.tolist()) == (3, [3.0], [7.0])
    nothing = Moments.from_arrays(Moments(2).to_arrays())
    nothing.update([[1, 2]])
    assert nothing.count == 1 and nothing.mean.tolist() == [1.0, 2.0]
    assert Moments.from_arrays({"count": 0, "mean": [0], "squares": [0]}).mean.dtype == np.float64
    with pytest.raises(ValueError, match="over -1 rows"):
        Moments.from_arrays({"count": -1, "mean": [0.0], "squares": [0.0]})


def test_float32_rows_are_summed_in_float64() -> None:
    rows = (1e4 + np.random.default_rng(0).standard_normal((5000, 1))).astype(np.float32)
    moments = Moments(1)
    moments.update(rows)
    assert moments.mean == pytest.approx(rows.astype(float).mean(0), rel=1e-12)
    assert moments.variance == pytest.approx(rows.astype(float).var(0, ddof=1), rel=1e-9)
