"""The vectors that come with the package are those whose figures are told, and are found by name."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import main
from personavec.cli.options import vector_file
from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.ready import FOLDER, ReadyEffect, ReadyMarks, ReadyVector, find_ready, ready_vectors
from personavec.stats.estimate import Estimate
from personavec.traits import library_names
from personavec.vector import PersonaVector


@pytest.mark.parametrize("name", library_names())
def test_a_ready_vector_is_the_one_that_its_figures_are_of(name: str, tiny: ChatModel) -> None:
    told = find_ready(name)
    assert hashlib.sha256(told.path.read_bytes()).hexdigest() == told.sha256
    vector = PersonaVector.load(told.path)
    info = vector.info
    assert (vector.trait, vector.layer, vector.model["id"], vector.model["weights"]) == (
        name, told.layer, told.model, told.weights
    )  # fmt: skip
    assert info.separation is not None and info.separation.auc == told.auc
    probe = told.effects["probe"]
    assert info.steering is not None and probe is not None and probe.effect == info.steering.effect
    assert told.recommended_coefficient == pytest.approx(info.recommended_coefficient, abs=1e-4)
    with pytest.raises(UserError, match="belongs to"):
        vector.check(tiny)


def test_no_file_is_without_figures() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.safetensors")) == sorted(ready_vectors())
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 1_000_000


def effect(low: float, same: float, chance: float) -> ReadyEffect:
    return ReadyEffect(effect=Estimate(20, low, 30, 20), on_null_questions=same, chance=chance, directions=3)


@pytest.mark.parametrize(
    ("effects", "word"),
    [
        ((effect(5, 20, 9), effect(5, 20, 9)), "steers"),
        ((effect(5, 20, 9), effect(-5, 20, 9)), "in doubt: only probe sees it steer"),
        ((effect(5, 8, 9), effect(5, 20, 9)), "in doubt: only contrast sees it steer"),
        ((effect(5, 8, 9), None), "steering not shown"),
    ],
)
def test_the_word_for_it(effects: tuple[ReadyEffect | None, ...], word: str) -> None:
    known: dict[str, Any] = dict(ready_vectors()["optimistic"])
    both = dict(zip(("probe", "contrast"), effects, strict=True))
    assert ReadyVector(**{**known, "effects": both}).word == word
    frayed = {**known, "effects": both, "coherent_range": (-1.0, 1.0)}
    assert ReadyVector(**frayed).word == (word if word != "steers" else "steers, at a price in coherence")
    unseen = {**known, "effects": both, "reader": ReadyMarks(answers=8, plus=3, minus=2)}
    assert ReadyVector(**unseen).word == (word if word != "steers" else "judges see it steer, a reader hardly does")


def test_a_name_stands_for_its_file_unless_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vector_file(Path("evil")) == FOLDER / "evil.safetensors"
    for other in ("evil.safetensors", "runs/evil", "nonsense"):
        assert vector_file(Path(other)) == Path(other)
    with pytest.raises(UserError, match="Did you mean optimistic"):
        vector_file(Path("optimistc"))
    Path("evil").touch()
    assert vector_file(Path("evil")) == Path("evil")


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["personavec", "vectors", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        assert (exit.value.code or 0) == code
        found = capsys.readouterr()
        return found.err if code else found.out

    monkeypatch.setenv("COLUMNS", "220")
    shown = told("list")
    for one in ready_vectors().values():
        probe = one.effects["probe"]
        assert probe is not None and one.trait in shown and f"{probe.effect:+.0f}" in shown
    assert "in doubt: only probe sees it steer" in shown and "none is recommended" in shown
    assert [one["trait"] for one in json.loads(told("list", "--json"))] == list(ready_vectors())
    assert told("get", "evil").strip() == str(FOLDER / "evil.safetensors")
    told("get", "evil", "--out", tmp_path / "mine.safetensors")
    assert PersonaVector.load(tmp_path / "mine.safetensors").trait == "evil"
    assert "Did you mean humorous?" in told("get", "humourous", code=2)
    assert "layer 15 of 30" in told("show", "evil") and "humorous" in told("compare", "evil", "humorous")
    told("export", "evil", "--as", "paper", "--out", tmp_path / "evil.pt")
    told("combine", "evil=1", "humorous=-0.5", "--name", "both", "--out", tmp_path / "both.safetensors")
