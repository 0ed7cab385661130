# mypy: disable-error-code="union-attr"
"""Agreement between judges: the figures, and the command on a finished run."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import Serve, fails, prompt_of, says
from scipy import stats

from personavec.cli.app import app
from personavec.errors import UserError
from personavec.judges.agreement import _spearman_of_draws, agreement
from personavec.rollouts import Rollout
from personavec.stats.estimate import Estimate
from personavec.traits import load_library


def scores(n: int, noise: float, seed: int = 0) -> tuple[Any, Any, list[str], list[str]]:
    """Two judges' scores of answers to n questions, positive and negative twice each."""
    rng = np.random.default_rng(seed)
    sides = ["positive", "negative"] * (2 * n)
    questions = [f"Question {i // 4}" for i in range(4 * n)]
    truth = np.where(np.array(sides) == "positive", 60.0, 40.0) + 10 * rng.standard_normal(4 * n)
    return truth, truth + noise * rng.standard_normal(4 * n), questions, sides


def test_figures_equal_their_definitions() -> None:
    a, b, questions, sides = scores(15, 12.0)
    found = agreement(a, b, questions, sides)
    assert found.n == 60
    assert found.spearman.mean == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-4)
    assert found.mean_absolute_difference.mean == pytest.approx(np.abs(a - b).mean(), abs=1e-4)
    positive = [i for i in range(60) if sides[i] == "positive"]
    negative = [i for i in range(60) if sides[i] == "negative"]
    pairs = list(product(positive, negative))
    assert found.same_order.mean == pytest.approx(np.mean([(a[i] > a[j]) == (b[i] > b[j]) for i, j in pairs]), abs=1e-4)
    for name, x in (("first", a), ("second", b)):
        assert getattr(found.auc, name).mean == pytest.approx(np.mean([x[i] > x[j] for i, j in pairs]), abs=1e-4)
    for estimate in (
        found.spearman,
        found.mean_absolute_difference,
        found.same_order,
        found.auc.first,
        found.auc.second,
    ):
        assert estimate.low < estimate.mean < estimate.high
        assert estimate.n == 15


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personavec.judges.agreement.DRAWS", 500)
    a, b, _, _ = scores(5000, 12.0, seed=1)
    truth = stats.spearmanr(a, b).statistic
    covered = 0
    for seed in range(120):
        a, b, questions, _ = scores(20, 12.0, seed=100 + seed)
        e = agreement(a, b, questions).spearman  # the sides have no part in it
        covered += e.low <= truth <= e.high
    assert 105 <= covered <= 119


def test_rank_correlations_of_samples_equal_those_of_the_samples_written_out() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 30).astype(float), rng.integers(0, 8, 30).astype(float)
    drawn = rng.integers(0, 4, (50, 30)).astype(float)
    found = _spearman_of_draws(a, b, drawn)
    for value, counts in zip(found, drawn.astype(int), strict=True):
        assert value == pytest.approx(stats.spearmanr(np.repeat(a, counts), np.repeat(b, counts)).statistic)


def test_perfect_agreement_and_none() -> None:
    a, _, questions, sides = scores(10, 0.0)
    same = agreement(a, a, questions, sides)
    assert same.spearman == Estimate(1.0, 1.0, 1.0, 10)
    assert same.same_order.mean == 1
    assert same.mean_absolute_difference.mean == 0 and not same.mean_absolute_difference.bounded  # ten that are alike
    assert agreement(a, -a, questions, sides).spearman.mean == -1
    constant = agreement(a, [50.0] * 40, questions, sides)
    assert constant.spearman.mean == 0
    assert constant.auc.second.mean == 0.5
    assert constant.same_order.mean == 0


def test_without_sides_there_is_no_order_between_them() -> None:
    a, b, questions, _ = scores(5, 1.0)
    for sides in (None, [None] * 20, ["positive"] * 20):
        found = agreement(a, b, questions, sides)
        assert found.same_order is None
        assert found.auc is None


@pytest.mark.parametrize("questions", [[], ["one"], ["one", "one"]])
def test_one_question_is_too_few(questions: list[str]) -> None:
    some = [50.0] * len(questions)
    with pytest.raises(UserError, match="at least 2 are needed"):
        agreement(some, some, questions)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose judge gave every answer the score that stands in it."""
    trait = load_library("humorous")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "arguments.json").write_text(json.dumps({"trait": trait.model_dump(mode="json")}))
    (folder / "run.json").write_text(json.dumps({"judge": {"name": "contrast"}}))
    rollouts = []
    for i, question in enumerate(trait.extraction_questions):
        scored: dict[Any, float] = {"positive": 70.0 + i, "negative": 10.0 + i}
        for side, score in scored.items():
            text = f"Funny as {score:g}."
            rollouts.append(
                Rollout(f"extraction/{side}/{i}", "extraction", question, i, [1], side=side, text=text, score=score,
                        coherence=90.0)
            )  # fmt: skip
        rollouts.append(Rollout(f"null/{i}", "null", question, i, [1], text="Funny as 0.", score=0.0, coherence=1.0))
        rollouts.append(Rollout(f"dose/{i}", "dose", question, i, [1], text="", score=None, coherence=0.0))
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(r.record()) + "\n" for r in rollouts))
    return folder


def command(*arguments: object) -> None:
    app([str(a) for a in ("judges", "compare", *arguments)], standalone_mode=False)


def other_judge(request: dict[str, Any], _: int) -> Any:
    """Ten points less than the run's judge; no score for some; 80 for every coherence."""
    prompt = prompt_of(request)
    found = re.search(r"Funny as ([0-9]+)\.", prompt)
    assert found is not None, prompt
    if "trait" not in prompt:
        return says({"80": 0.9, "99": 1e-9})
    return says("REFUSAL") if found[1] == "10" else says({f"{int(found[1]) - 10}": 0.9, "99": 1e-9})


def test_the_command_compares_a_run_with_another_judge(
    run: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(other_judge)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    command(run, "--judge", "api:judge-1", "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["judges"] == {"first": "contrast", "second": "api:judge-1"}
    assert (result["trait"], result["rollouts"], result["unscored"]) == ("humorous", 40, 1)
    assert result["score"]["n"] == 39
    assert result["score"]["mean_absolute_difference"]["mean"] == 10
    assert result["score"]["spearman"]["mean"] == 1
    assert result["score"]["auc"]["first"]["mean"] == result["score"]["auc"]["second"]["mean"] == 1
    assert result["coherence"]["mean_absolute_difference"]["mean"] == pytest.approx(10)
    assert result["coherence"]["n"] == 40
    paid = len(server.requests)
    command(run, "--judge", "api:judge-1")
    shown = capsys.readouterr().out
    assert "humorous: 40 rollouts" in shown
    assert "gave no score for 1 of them" in shown
    assert re.search(r"rank correlation \(Spearman\) +1\.00 \[1\.00, 1\.00\] n = 20", shown)
    assert re.search(r"mean absolute difference, points +10\.0 \[10\.0, 10\.0\] n = 20", shown)
    assert len(server.requests) == paid


def test_the_sample_is_seeded(
    run: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(other_judge)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    command(run, "--judge", "api:judge-1", "--limit", "12", "--json")
    assert json.loads(capsys.readouterr().out)["rollouts"] == 12
    assert len(server.requests) == 24
    command(run, "--judge", "api:judge-1", "--limit", "12", "--json")
    assert len(server.requests) == 24
    command(run, "--judge", "api:judge-1", "--limit", "12", "--seed", "1", "--json")
    assert len(server.requests) > 24


def test_a_judge_that_cannot_answer(run: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda *_: fails(401))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        command(run, "--judge", "api:judge-1")
    server.behaviour = lambda *_: says("REFUSAL")
    with pytest.raises(UserError, match="answers to 0 questions"):
        command(run, "--judge", "api:judge-1")


@pytest.mark.parametrize("judge", ["contrast", "api", "api:", "local:", "classifier:", "gpt", "gpt:4"])
def test_unknown_judges(run: Path, judge: str) -> None:
    with pytest.raises(UserError, match=r"Choose local:MODEL, api:MODEL or classifier:MODEL#LABEL"):
        command(run, "--judge", judge)


@pytest.mark.parametrize("spoil", ["arguments.json", "run.json", "rollouts.jsonl"])
def test_a_folder_that_is_no_finished_run(run: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    (run / spoil).write_text('{"some": "thing"}\n')
    with pytest.raises(UserError, match=r"no finished run|line 1: not a rollout"):
        command(run, "--judge", "api:m")
    (run / spoil).unlink()
    with pytest.raises(UserError, match=r"no finished run|no scored rollouts"):
        command(run, "--judge", "api:m")
