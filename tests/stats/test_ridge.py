"""Predictions of single baselines: leaving out is exact, errors are honest, useless features do no harm."""

import numpy as np
import pytest

from personavec.stats import ridge
from personavec.stats.moments import Moments
from personavec.stats.ridge import calibrate, fit_subset


def data(n: int = 300, k: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) * ([1.0, 100.0, 0.01][:k] + [1.0] * (k - 3)) + 5
    return x, 2 * x[:, 0] + 0.02 * x[:, min(1, k - 1)] + noise * rng.standard_normal(n)


@pytest.mark.parametrize("penalty", [1e-6, 0.1, 3.0, np.inf])
def test_leaving_out_by_the_hat_matrix_is_leaving_out(penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    subset = np.arange(40)
    monkeypatch.setattr(ridge, "PENALTIES", (penalty,))
    whole = calibrate(x, subset, y[:40])
    monkeypatch.setattr(ridge, "PENALTIES", (penalty * 40 / 39,))  # which are in units of the number of rows
    for i in (0, 17, 39):
        others = np.delete(subset, i)
        alone = calibrate(x, others, y[others])
        assert whole.predictions[i] == pytest.approx(alone.predictions[i])


def test_without_a_penalty_it_is_least_squares() -> None:
    x, y = data(noise=0.3)
    found = calibrate(x, np.arange(100), y[:100])
    design = np.hstack([np.ones((300, 1)), x])
    slopes = np.linalg.lstsq(design[:100], y[:100], rcond=None)[0]
    assert found.predictions[100:] == pytest.approx(design[100:] @ slopes, abs=0.15)
    assert found.fit.effective[0] == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize(("n", "noise"), [(24, 1.0), (100, 1.0), (100, 0.01)])
def test_errors_are_those_of_the_predictions(n: int, noise: float) -> None:
    """In units of their standard error, the errors of seen and of unseen rows have variance 1."""
    seen, unseen = [], []
    for seed in range(150):
        x, y = data(n + 50, noise=noise, seed=seed)
        found = calibrate(x, np.arange(n), y[:n])
        standard = (y - found.predictions) / found.errors
        seen.append(standard[:n] ** 2)
        unseen.append(standard[n:] ** 2)
    assert np.mean(seen) == pytest.approx(1, abs=0.08) and np.mean(unseen) == pytest.approx(1, abs=0.12)


def test_rows_far_from_the_subset_are_less_certain() -> None:
    x, y = data()
    x[-1, 0] = 50.0
    found = calibrate(x, np.arange(60), y[:60])
    assert found.errors[-1] > 3 * np.median(found.errors)


def test_r_squared_is_that_of_unseen_rows() -> None:
    x, y = data(5000, noise=2.0)
    found = calibrate(x, np.arange(200), y[:200])
    unseen = 1 - ((y - found.predictions)[200:] ** 2).mean() / y[200:].var()
    assert found.r_squared == pytest.approx(unseen, abs=0.1)
    rng = np.random.default_rng(0)
    useless = [calibrate(rng.standard_normal((60, 14)), np.arange(50), rng.standard_normal(50)) for _ in range(100)]
    assert 0 <= np.mean([c.r_squared for c in useless]) < 0.08


@pytest.mark.parametrize("n", [2, 7])
def test_a_tiny_subset_gives_its_mean(n: int) -> None:
    x, y = data(noise=0.0)
    found = calibrate(x, np.arange(n), y[:n])
    assert found.predictions[n:] == pytest.approx(y[:n].mean()) and found.r_squared == 0
    assert found.predictions[0] == pytest.approx(y[1:n].mean())
    assert found.errors[n] == pytest.approx(y[:n].std(ddof=1) * np.sqrt(1 + 1 / n))


def test_more_features_than_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 60))
    y = x[:, 0] + 0.1 * rng.standard_normal(500)
    found = calibrate(x, np.arange(30), y[:30])
    assert found.fit.effective[0] <= 10 and np.isfinite(found.predictions).all()


def test_constant_and_collinear_features() -> None:
    x, y = data()
    odd = np.hstack([x, x[:, :1], np.full((300, 1), 7.0), np.full((300, 1), 0.1)])
    subset = np.arange(50)
    plain, found = calibrate(x, subset, y[:50]), calibrate(odd, subset, y[:50])
    assert found.predictions == pytest.approx(plain.predictions, abs=0.05)
    assert found.errors == pytest.approx(plain.errors, rel=0.1)


def test_a_constant_baseline_is_certain() -> None:
    found = calibrate(data()[0], np.arange(20), np.full(20, 0.1))
    assert found.predictions == pytest.approx(0.1) and found.errors == pytest.approx(0, abs=1e-12)
    assert found.r_squared == 0


def test_several_traits_are_each_as_alone() -> None:
    x, y = data()
    both = np.stack([y, -3 * x[:, 2] ** 2], 1)
    found = calibrate(x, np.arange(50), both[:50])
    assert found.predictions.shape == found.errors.shape == (300, 2) and found.r_squared.shape == (2,)
    for i in range(2):
        alone = calibrate(x, np.arange(50), both[:50, i])
        assert found.predictions[:, i] == pytest.approx(alone.predictions)
        assert found.errors[:, i] == pytest.approx(alone.errors)


def test_a_stream_is_predicted_the_same() -> None:
    x, y = data()
    whole = calibrate(x, np.arange(50), y[:50])
    fit = fit_subset(Moments.of(x), x[:50], y[:50, None])
    predictions, errors = fit.predict(x[50:])
    assert predictions[:, 0] == pytest.approx(whole.predictions[50:]) and errors[:, 0] == pytest.approx(
        whole.errors[50:]
    )
    assert fit.left_out[:, 0] == pytest.approx(whole.predictions[:50])


def test_what_is_refused() -> None:
    x, y = data()
    for rows, values in (([0, 0], y[:2]), ([0, 300], y[:2]), ([0], y[:1]), ([0, 1], y[:3]), ([0, 1], [1.0, np.nan])):
        with pytest.raises(ValueError):
            calibrate(x, rows, values)
    with pytest.raises(ValueError):
        calibrate(x[:, 0], [0, 1], y[:2])


def test_r_squared_does_not_depend_on_the_unit() -> None:
    x, y = data()
    plain, small = (calibrate(x, np.arange(50), unit * y[:50]).r_squared for unit in (1, 1e-4))
    assert small == pytest.approx(plain) and plain > 0.5
    exactly = calibrate(x, np.arange(20), np.full(20, 0.5)).r_squared  # the errors are zero, not only small
    assert exactly == 0 and exactly.dtype == np.float64


def test_a_fit_wants_tables_and_says_which_indices_it_was_given() -> None:
    x, y = data()
    for features, baseline in ((x[:50, 0], y[:50, None]), (x[:50], y[:50])):
        with pytest.raises(ValueError, match="values of shape"):
            fit_subset(Moments.of(x), features, baseline)
    with pytest.raises(ValueError, match=r"indices of shape \(2,\) and type float64"):
        calibrate(x, [0.0, 1.0], y[:2])
    with pytest.raises(ValueError, match="and a population of 2"):
        fit_subset(Moments.of(x[:, :2]), x[:50], y[:50, None])
    with pytest.raises(ValueError, match="values of shape"):
        fit_subset(Moments.of(x), x[:50], y[:50, None]).predict(x[0])
    with pytest.raises(ValueError, match="out of range for 300 samples, or given twice"):
        calibrate(x, [0, 0], y[:2])
