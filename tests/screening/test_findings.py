"""Worthless vectors are called specific in 5 % of screenings at most, however many are screened together."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from personavec.screening.findings import Gaps, _shifts
from personavec.stats.nulls import covariance_directions, holm, place

RUNS, SAMPLES, CLEAN, WIDTH, VECTORS = 300, 64, 96, 100, 6
SPREAD = 3 / np.sqrt(np.arange(1, WIDTH // 2 + 1))  # of styles; a few directions hold most of it


def answers(rng: Any, count: int, style: Any = 0.0) -> tuple[Tensor, Tensor]:
    """Readings of given and of own answers: what they are about in one half of the width, their style in the other."""
    about = np.hstack([3 * rng.standard_normal((count, WIDTH // 2)), np.zeros((count, WIDTH // 2))])
    manner = np.hstack([np.zeros((count, WIDTH // 2)), SPREAD * rng.standard_normal((count, WIDTH // 2)) + style])
    noise = 0.3 * rng.standard_normal((2, count, WIDTH))
    theirs, ours = (torch.from_numpy(side).float() for side in (about + manner + noise[0], about + noise[1]))
    return theirs, ours


def scan(theirs: Tensor, ours: Tensor) -> Any:
    known = SimpleNamespace(asked=np.arange(len(theirs)))
    return SimpleNamespace(theirs=theirs[:, None], ours=ours[:, None], known=known)


def worthless(rng: Any) -> Tensor:
    """Differences of means between two sides that are told apart by nothing, on the same 40 questions."""
    made = []
    for _ in range(VECTORS):
        theirs, ours = answers(rng, 40)
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], (40, 1))).float()
        made.append(torch.nn.functional.normalize(((theirs - ours) * signs).mean(0), dim=0))
    return torch.stack(made)


@pytest.fixture(scope="module")
def rates() -> dict[str, float]:
    """Of data whose style differs from clean in some way; the first rates are those of how it was done before."""
    found: dict[str, list[float]] = {"one, before": [], "any, before": [], "one": [], "uncorrected": [], "any": []}
    for run in range(RUNS):
        rng = np.random.default_rng(run)
        data = answers(rng, SAMPLES, 0.5 * SPREAD * rng.standard_normal(WIDTH // 2))
        clean = answers(rng, CLEAN)
        gaps, vectors = Gaps(scan(*data), scan(*clean), 0), worthless(rng)
        own = gaps.shifts(vectors)
        before = gaps.shifts(covariance_directions(clean[0][:, None], ["clean"] * CLEAN, 240, run)[:, 0])
        now = _shifts(*gaps.random(lambda drawn: drawn, 240, run)["covariance"])
        p_before, p = ([place(one, nulls).p_value for one in own] for nulls in (before, now))
        strongest = int(np.argmax(np.abs(own)))
        found["one, before"].append(float(np.mean(np.array(p_before) <= 0.05)))
        found["any, before"].append(p_before[strongest] <= 0.05)
        found["one"].append(float(np.mean(np.array(p) <= 0.05)))
        found["uncorrected"].append(p[strongest] <= 0.05)
        found["any"].append(
            any(
                value <= 0.05
                and all(
                    rival.lead.low > 0
                    for rival in gaps.rivals(
                        vectors[int(at)], {str(k): vectors[k] for k in range(VECTORS) if k != int(at)}, run
                    ).values()
                )
                for at, value in holm({str(k): value for k, value in enumerate(p)}).items()
            )
        )
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_one_worthless_vector_is_among_random_directions(rates: dict[str, float]) -> None:
    """Those with the covariance of answers lie too near: they lean towards what gaps do not hold."""
    assert rates["one, before"] > 0.1
    assert 0.02 < rates["one"] < 0.075


def test_one_of_six_worthless_vectors_is_seldom_called_specific(rates: dict[str, float]) -> None:
    most = stats.binom.ppf(0.999, RUNS, 0.05) / RUNS
    assert rates["any, before"] > 0.5 and rates["uncorrected"] > 0.15
    assert rates["any"] <= most


def test_a_trait_that_is_there_is_found() -> None:
    """The data differ in style along one of six vectors and hardly along the others."""
    found = 0
    for run in range(20):
        rng = np.random.default_rng(run)
        vectors = worthless(rng)
        style = 3 * vectors[0, WIDTH // 2 :].numpy()
        gaps = Gaps(scan(*answers(rng, SAMPLES, style)), scan(*answers(rng, CLEAN)), 0)
        nulls = _shifts(*gaps.random(lambda drawn: drawn, 240, run)["covariance"])
        p = holm({str(k): place(one, nulls).p_value for k, one in enumerate(gaps.shifts(vectors))})
        rivals = gaps.rivals(vectors[0], {str(k): vectors[k] for k in range(1, VECTORS)}, run)
        found += p["0"] <= 0.05 and all(rival.lead.low > 0 for rival in rivals.values())
    assert found >= 12
