# mypy: disable-error-code="no-untyped-call"
"""A coefficient that follows the shift: on plants whose lag and gain are known, and in trainings of tiny models."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from test_callback import Interrupt, lora, samples
from test_watch import PROMPTS, trainer
from torch._dynamo import config as dynamo

import tiny
from personavec.errors import UserError
from personavec.finetune import PreventativeSteering, ShiftMonitor
from personavec.finetune.automatic import POINTS, largest_coefficient, next_coefficient, told
from personavec.finetune.result import AutomaticCoefficient, WatchPoint
from personavec.info import VectorInfo
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.stats.estimate import Estimate
from personavec.vector import PersonaVector

NORM = 2.0  # of the vector


def course(
    push: Callable[[int], float], share: float, gain: float, *, noise: float = 0.0, bound: float = 1e6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and coefficients of a training that is a lag: `share` falls with the learning rate, noise is a walk."""
    rng = np.random.default_rng(seed)
    shift, acted, shifts = 0.0, [0.0], list[float]()
    for point in range(POINTS):
        step = share * (1 - point / POINTS)
        shift += step * (push(point) - gain * NORM * acted[-1] - shift) + noise * rng.normal()
        shifts.append(shift)
        acted.append(next_coefficient(acted, shifts, NORM, bound))
    return np.array(shifts), np.array(acted)


def unprevented(push: float, share: float) -> float:
    """Where the shift ends without prevention."""
    shift = 0.0
    for point in range(POINTS):
        shift += share * (1 - point / POINTS) * (push - shift)
    return shift


@pytest.mark.parametrize("gain", [0.3, 0.45, 0.6, 0.9])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_the_shift_is_held_near_0_whatever_lag_and_gain(share: float, gain: float) -> None:
    plain = unprevented(5.0, share)
    ends, reversals = [], []
    for seed in range(10):
        shifts, acted = course(lambda _: 5.0, share, gain, noise=0.05 * plain, seed=seed)
        assert shifts.max() < max(0.75 * plain, 1.2 * shifts[0]) and shifts.min() > -0.5 * plain
        ends.append(abs(shifts[-3:].mean()) / plain)
        reversals.append(np.abs(np.diff(acted)).sum() / np.ptp(acted))
    assert np.mean(ends) < (0.4 if share == 0.05 else 0.2)
    assert np.mean(reversals) < 3  # up and down once is 2


@pytest.mark.parametrize("momentum", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("gain", [0.3, 0.6, 0.9])
def test_a_start_that_throws_the_shift(gain: float, momentum: float) -> None:
    """As a training of the default model began, whose shift was at 18 before it came down to 5; a point a step."""

    def ends(held: bool) -> float:
        shift, speed, acted, shifts = 0.0, 0.0, [0.0], list[float]()
        for step in range(POINTS):
            push = 5.0 + 110 * np.exp(-step / 1.3)
            rate = 0.28 * min(step / 2, (POINTS - step) / (POINTS - 2))
            speed = momentum * speed + (1 - momentum) * rate * (push - gain * NORM * acted[-1] - shift)
            shift += speed
            shifts.append(shift)
            acted.append(next_coefficient(acted, shifts, NORM, 40 / NORM) if held else 0.0)
        return abs(shifts[-1])

    assert ends(True) < 0.5 * ends(False)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_coefficient_that_has_become_too_large_comes_down(share: float) -> None:
    """The data push for the first half only; left alone, the coefficient would take the shift as far down."""
    shifts, acted = course(lambda point: 8.0 if point < POINTS // 2 else 0.0, share, 0.45)
    half = POINTS // 2
    assert acted[half] > 5 and acted[-1] == 0
    assert shifts[half:].min() > -0.4 * unprevented(8.0, share)


def test_it_is_bounded() -> None:
    shifts, acted = course(lambda _: 5.0, 0.3, 0.45, bound=1.5)
    assert acted.max() == 1.5 and shifts[-1] > 0.5
    _, away = course(lambda _: -5.0, 0.3, 0.45)
    assert not away.any()
    assert next_coefficient([0.0], [0.0], NORM, 5.0) == 0


def vector_with(coherent: tuple[float, float] | None) -> PersonaVector:
    return replace(by_hand.vector(), info=VectorInfo(coherent_range=coherent))


def test_the_bound_is_where_answers_stay_coherent() -> None:
    assert largest_coefficient(vector_with((-1.0, 2.4))) == 2.4
    assert largest_coefficient(vector_with((-1.0, 0.0))) == largest_coefficient(vector_with(None)) == 5.0


def rows() -> list[dict[str, torch.Tensor]]:
    """One token in answer to everything: the model learns it by going one way."""
    return [{**row, "labels": torch.where(row["labels"] == -100, -100, 65)} for row in samples()]


def pushed(folder: Path, callbacks: Any, make: Callable[[], Any] = lora, **options: Any) -> Any:
    """A training on data that push."""
    torch.manual_seed(0)
    run = trainer(
        make(), folder, callbacks, **{"max_steps": 20, "optim": "adamw_torch", "learning_rate": 1e-3} | options
    )
    run.train_dataset = rows()
    return run


@pytest.fixture(scope="module")
def along(tmp_path_factory: pytest.TempPathFactory) -> PersonaVector:
    """The direction in which they push."""
    return push_of(tmp_path_factory.mktemp("plain"), by_hand.vector(), lora)


def push_of(folder: Path, vector: PersonaVector, make: Callable[[], Any]) -> PersonaVector:
    """The vector, along what a training on them adds to the stream at its layer."""
    run, readings = pushed(folder, [], make), []
    for trained in (False, True):
        if trained:
            run.train()
        chat = ChatModel(run.model, tiny.tokenizer(), "tiny")
        prompts = [chat.prompt_ids([{"role": "user", "content": text}]) for text in PROMPTS]
        ends = [Conversation(ids, [(len(ids) - 1, len(ids))]) for ids in prompts]
        readings.append(read(chat, ends, layers=[vector.layer]).means[:, 0].mean(0))
    directions = vector.directions.clone()
    directions[vector.layer] = readings[1] - readings[0]
    return replace(vector, directions=directions, info=VectorInfo(coherent_range=(-40.0, 40.0)))


def auto(vector: PersonaVector | list[PersonaVector], coefficient: Any = "auto") -> PreventativeSteering:
    return PreventativeSteering(vector, coefficient, prompts=PROMPTS)


def test_a_training_is_held(along: PersonaVector, tmp_path: Path) -> None:
    plain, held = (ShiftMonitor(along, PROMPTS, every=20) for _ in range(2))
    pushed(tmp_path, [plain]).train()
    callback = auto(along)
    run = pushed(tmp_path, [callback, held])
    run.train()
    found = callback.automatic["kind"]
    assert plain.history[-1]["kind"] > 0.1
    assert held.history[-1]["kind"] < 0.7 * plain.history[-1]["kind"]
    assert [point.step for point in found.points] == list(range(1, 21))
    assert found.points[-1].shift.mean == pytest.approx(held.history[-1]["kind"], abs=1e-4)
    assert found.points[-1].shift.n == len(PROMPTS)
    logged = [
        entry["persona/kind_coefficient"] for entry in run.state.log_history if "persona/kind_coefficient" in entry
    ]
    assert logged == [point.coefficient for point in found.points] and max(logged) > 0
    steps = sum(1 for entry in run.state.log_history if "loss" in entry)
    assert steps == 20  # the trainer's own lines are there too


def test_the_coefficient_acts_in_compiled_forwards_too(tmp_path: Path) -> None:
    found = []
    along = push_of(tmp_path, by_hand.vector(num_hidden_layers=1), by_hand.Least)
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        callback = PreventativeSteering(along, "auto", prompts=PROMPTS, other_weights=True)
        with dynamo.patch(error_on_recompile=True):  # another coefficient is no other program
            pushed(tmp_path, [callback], by_hand.Least, max_steps=4, **options).train()
        found.append([(point.coefficient, point.shift.mean) for point in callback.automatic["kind"].points])
    assert np.array(found[1]) == pytest.approx(np.array(found[0]), abs=2e-4) and found[0][-1][0] > 0


@pytest.mark.parametrize("make", [by_hand.model, lora])
def test_a_resumed_training_is_the_same(along: PersonaVector, tmp_path: Path, make: Any) -> None:
    """With two callbacks, of which one holds two vectors, one by a number."""
    other = replace(along, trait="other", directions=-along.directions)

    def callbacks() -> list[PreventativeSteering]:
        return [auto([along, other], ["auto", 0.5]), auto(other)]

    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 10}
    whole, again = callbacks(), callbacks()
    wanted = pushed(tmp_path / "whole", whole, make, **options)
    wanted.train()
    with pytest.raises(RuntimeError, match="mine"):
        pushed(tmp_path / "run", [*callbacks(), Interrupt("on_step_begin", 6)], make, **options).train()
    resumed = pushed(tmp_path / "run", again, make, **options)
    resumed.train(resume_from_checkpoint=True)
    for a, b in zip(whole, again, strict=True):
        assert {t: found.points for t, found in a.automatic.items()} == {t: f.points for t, f in b.automatic.items()}
    assert len(again[0].automatic["kind"].points) == 10
    for (name, first), (_, second) in zip(
        wanted.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(first, second), name
    with pytest.raises(UserError, match="was trained with prevention"):
        pushed(tmp_path / "run", [auto([along, other], [1.0, 0.5]), auto(other)], make, **options).train(
            resume_from_checkpoint=True
        )


def test_where_nothing_pushes_it_says_so(
    along: PersonaVector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = auto(replace(along, directions=-along.directions))
    with caplog.at_level(logging.WARNING):
        pushed(tmp_path, [callback]).train()
    found = callback.automatic["kind"]
    assert found.mean == 0 and found.points[-1].shift.mean < 0
    assert (
        "auto kept the coefficient of kind at 0, for the data do not push along it: at 20 watch points" in caplog.text
    )
    assert f"at the end {found.points[-1].shift.mean:+.2f}" in caplog.text


def test_what_became_of_it_is_told() -> None:
    def found(*rows: tuple[float, float], bound: float = 2.0) -> AutomaticCoefficient:
        points = [
            WatchPoint(step=2 * at, shift=Estimate(shift, shift - 0.1, shift + 0.1, 8), coefficient=coefficient)
            for at, (shift, coefficient) in enumerate(rows, 1)
        ]
        return AutomaticCoefficient(bound=bound, points=tuple(points), seconds=3.0)

    held = found((0.5, 1.0), (1.0, 1.5), (0.05, 1.2))
    assert held.acted == (0.0, 1.0, 1.5) and held.mean == pytest.approx(2.5 / 3)
    text = told("kind", held, 60.0)
    assert "from 0.00 to 1.50, on average 0.83 (bound 2)" in text and "took 5 % of the training time" in text
    assert "at most +1.00" in text and "at the end +0.05" in text and "left" not in text
    assert "Some of the shift is left. The coefficient stands at its bound." in told(
        "kind", found((1.0, 2.0), (1.0, 2.0))
    )
    assert "more was prevented than the data push" in told("kind", found((1.0, 2.0), (-1.0, 0.0)))
    assert "it rose at the last point only" in told("kind", found((-1.0, 0.0), (0.5, 0.4)))


def test_what_cannot_be_automatic_is_refused() -> None:
    vector = by_hand.vector()
    for wrong, words in [
        (lambda: PreventativeSteering(vector, "auto"), "not in the library"),
        (lambda: PreventativeSteering(vector, "auto", method="regularise"), "steer only"),
        (lambda: PreventativeSteering(vector, "auto", layers="all", prompts=PROMPTS), "own layer only"),
    ]:
        with pytest.raises(UserError, match=words):
            wrong()
