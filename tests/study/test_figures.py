# mypy: disable-error-code="union-attr"
"""Correlations beside their nulls; the numbers of an independent replication."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personavec.model import ChatModel
from personavec.projection.specific import remove_span
from personavec.stats.bootstrap import bootstrap_pearson, bootstrap_ratio, pearson
from personavec.study.figures import (
    Before,
    FineTune,
    MeanAnswers,
    correlations,
    more_loss,
    more_perplexity,
    score_change,
    task_learned,
)
from personavec.study.flawed import LEVELS
from personavec.study.result import FamilyEstimate
from tiny import vector


def test_the_replication_s_correlations(shared_data: Path) -> None:
    with (shared_data / "reference/replication_qwen2.5-7b.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 24
    found = {
        (what, trait): bootstrap_pearson(
            [float(row[f"{what}_{trait}"]) for row in rows], [float(row[f"score_{trait}"]) for row in rows]
        )
        for what in ("shift", "projection_difference")
        for trait in ("evil", "sycophantic", "hallucinating")
    }
    assert [round(one.mean, 3) for one in found.values()] == [0.832, 0.757, 0.912, 0.943, 0.850, 0.605]
    assert all(one.low < one.mean < one.high <= 1 and one.n == 24 for one in found.values())


def test_interval_of_a_correlation_holds_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(150):
        x = rng.standard_normal(24)
        y = 0.6 * x + 0.8 * rng.standard_normal(24)  # r = 0.6
        found = bootstrap_pearson(x, y, seed=trial, draws=500)
        held += found.low <= 0.6 <= found.high
    assert held >= 130  # 0.95 of 150 is 142; chance leaves this bound once in thousands of tries


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    x, y = (np.repeat(rng.standard_normal(6), 8) + 0.01 * rng.standard_normal(48) for _ in range(2))
    apart, together = bootstrap_pearson(x, y), bootstrap_pearson(x, y, np.repeat(np.arange(6), 8).tolist())
    assert together.n == 6 and together.high - together.low > 1.5 * (apart.high - apart.low)
    one = bootstrap_pearson(x, y, [0] * 48)
    assert (one.low, one.high) == (-1.0, 1.0)


def test_constant_columns_have_no_correlation() -> None:
    found = bootstrap_pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert found.mean == 0 and -1 <= found.low <= found.high <= 1


def test_change_of_the_score() -> None:
    before = [10.0, None, 30.0, 40.0, 50.0]
    found = score_change(before, [20.0, 30.0, 50.0, None], 0)
    assert found is not None and found.mean == 15 and found.n == 2  # the first and the third question
    assert (found.low, found.high) == (10, 20)
    assert score_change(before, [20.0, 30.0, None], 0) is None


def test_ratio_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="not positive"):
        bootstrap_ratio([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="2 values against 1"):
        bootstrap_ratio([1.0, 2.0], [1.0])


def answers(score: float | None, coherence: float, **others: float | None) -> MeanAnswers:
    return MeanAnswers({"probe": score, **others}, coherence)


def test_the_vector_s_direction_stands_out_and_a_random_one_does_not(tiny: ChatModel) -> None:
    own, other = vector(tiny, seed=1), vector(tiny, seed=2)
    vectors = [replace(own, trait="a"), replace(other, trait="b")]
    rng = torch.Generator().manual_seed(0)
    d = tiny.hidden_size
    strengths = torch.linspace(-2, 2, 24)
    runs = [
        FineTune(
            family=f"family {number // 3}",
            level=LEVELS[number % 3],
            plain={
                "a": answers(50 + 10 * float(s), 90 - 20 * float(s)),
                "b": answers(float(torch.randn(1, generator=rng)), 90.0),
            },
            instructed={"a": answers(80 - 5 * float(s), 90 + float(s)), "b": answers(70.0, 90.0)},
            change={name: (s * 8 * own.unit(2) + torch.randn(d, generator=rng))[None] for name in ("a", "b")},
            pull=(s * 8 * own.unit(2) + torch.randn(d, generator=rng))[None],
        )
        for number, s in enumerate(strengths)
    ]
    readings = {name: torch.randn(20, 1, d, generator=rng) for name in ("a", "b")}
    before = Before(readings, [2], {2: torch.randn(4, d, generator=rng)})
    found = correlations(runs, vectors, before, seed=0)
    a = found["a"]["shift, score"]
    x = [float(run.change["a"][0] @ own.unit(2)) for run in runs]
    assert a.r.mean == pytest.approx(pearson(x, [50 + 10 * float(s) for s in strengths]), abs=1e-4)
    assert a.r.n == 8 and a.r.runs == 24 and a.r.low > 0.9
    assert a.random.n == 200 and a.random.p_value < 0.05
    # What trait b scores has nothing to do with the change, along any direction.
    b = found["b"]["shift, score"]
    assert b.random.p_value > 0.05 and b.r.low < 0 < b.r.high
    pulled = found["a"]["difference, shift"]
    assert a.coherence.mean == pytest.approx(-1) and a.coherence.high < -0.99 and a.coherence.n == 8
    assert b.coherence.mean == 0 and pulled.coherence is None
    assert found["a"]["difference, score"].coherence == a.coherence
    assert set(pulled.others) == {"b"} and pulled.length is None and pulled.r.mean > 0.9
    # Under an instruction this trait falls where the other rises.
    asked = found["a"]["shift, score when asked"]
    assert asked.r.mean == pytest.approx(-a.r.mean, abs=1e-4) and asked.r.high < -0.9
    assert asked.coherence.mean == pytest.approx(-1) and asked.length == pytest.approx(-(a.length or 0), abs=1e-4)
    # A fine-tune that refused everything has no score along one trait, and a shift all the same.
    refused = [*runs, replace(runs[0], family="refusing", plain={**runs[0].plain, "a": answers(None, 90.0)})]
    again = correlations(refused, vectors, before, seed=0)["a"]
    assert again["shift, score"] == a and again["difference, shift"].r.runs == 25
    mute = [replace(run, plain={**run.plain, "a": answers(None, 90.0)}) for run in runs]
    none = correlations(mute, vectors, before, seed=0)["a"]
    assert none["shift, score"].r == FamilyEstimate(0.0, -1.0, 1.0, 0, 0)
    assert none["difference, shift"] == pulled


def test_within_families_what_only_tells_them_apart_is_gone(tiny: ChatModel) -> None:
    own = replace(vector(tiny, seed=1), trait="a")
    rng = torch.Generator().manual_seed(0)
    d, domains = tiny.hidden_size, torch.randn(4, tiny.hidden_size, generator=rng)
    # Families differ along a clean domain, which the vector leans on too; the levels along the rest of the vector.
    leaning = replace(own, directions=own.directions + 3 * domains[0])
    rest = remove_span(leaning.at(2), domains).direction

    def run(family: int, at: int, level: float) -> FineTune:
        far, noise = float(family), [torch.randn(d, generator=rng) / 20 for _ in range(2)]
        return FineTune(
            family=f"family {family}",
            level=LEVELS[at],
            plain={"a": answers(5 * at + 20 * float(torch.randn(1, generator=rng)), 90.0, contrast=far)},
            instructed={},
            change={"a": (level * rest - far * domains[0] + noise[0])[None]},
            pull=(level * rest + far * domains[0] + noise[1])[None],
        )

    runs = [run(family, at, at * (1 + family % 3)) for family in range(8) for at in range(3)]
    before = Before({"a": torch.randn(20, 1, d, generator=rng)}, [2], {2: domains})
    found = correlations(runs, [leaning], before, seed=0)["a"]
    raw, free = found["difference, shift"], found["difference, shift; domains out"]
    assert raw.r.mean < -0.9 and raw.within and raw.within.r.low > 0.5
    assert raw.within.r.n == 8 and raw.within.r.runs == 16  # the normal level is what others are held against
    assert free.r.low > 0.8 and free.random.p_value < 0.05 and free.within and free.within.random.n == 200
    # Another judge, whose scores tell families apart and levels not.
    other = found["difference, score by contrast"]
    assert other.r.low > 0.9 and other.within and other.within.r.mean == 0
    assert "shift, score when asked" not in found
    alone = [one for one in runs if one.level != "normal"]
    assert correlations(alone, [leaning], before, seed=0)["a"]["difference, shift"].within is None


def test_costs() -> None:
    plain = [1.0, 2.0, 3.0]
    assert more_loss(plain, plain, 0).mean == 0
    dearer = more_loss(plain, [1.1, 2.2, 3.3], 0).rounded()
    assert dearer.mean == pytest.approx(10) == dearer.low == dearer.high and dearer.n == 3
    half = task_learned([2.0, 4.0, 6.0], plain, [1.5, 3.0, 4.5], 0)
    assert half and half.mean == pytest.approx(50) == half.low and half.n == 3
    assert task_learned(plain, plain, plain, 0) is None and task_learned(plain, [2.0, 3.0, 4.0], plain, 0) is None
    ratio = more_perplexity(plain, [loss + 0.1 for loss in plain], 0).rounded()
    assert ratio.mean == pytest.approx(100 * (np.exp(0.1) - 1), abs=1e-3) and not ratio.bounded  # three that are alike
