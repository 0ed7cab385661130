"""Sums of vectors: the arithmetic, what is kept of the parts, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personavec.combination import combine
from personavec.errors import UserError
from personavec.interventions import steering
from personavec.model import ChatModel
from personavec.monitoring import project
from personavec.vector import PersonaVector
from tiny import JUDGE, vector
from typed import exit_code

STATISTICS = ("neutral_mean", "neutral_prompt_mean", "neutral_token_mean")
INFO: dict[str, Any] = {"judge": JUDGE, "trait": {"name": "kind"}, "recommended_coefficient": 2.0}


@pytest.fixture
def kind(tiny: ChatModel) -> PersonaVector:
    numbers = torch.arange(11.0, 15.0)
    means: dict[str, Any] = {name: numbers + at for at, name in enumerate(STATISTICS)}
    spreads: dict[str, Any] = {
        name.replace("mean", "deviation"): numbers + 10 + at for at, name in enumerate(STATISTICS)
    }
    last = {"prompt_last": torch.ones(4, 32)}
    return vector(tiny, seed=1, info=INFO, residual_norm=numbers, alternatives=last, **means, **spreads)


@pytest.fixture
def calm(tiny: ChatModel) -> PersonaVector:
    return replace(vector(tiny, seed=2, layer=1), trait="calm")


def test_a_sum_is_the_sum_at_every_layer(kind: PersonaVector, calm: PersonaVector, tiny: ChatModel) -> None:
    made = combine([(kind, 1.0), (calm, -0.5)])
    torch.testing.assert_close(made.directions, kind.directions - 0.5 * calm.directions)
    assert (made.trait, made.layer, made.model) == ("kind-calm", 2, kind.model)
    assert made.alternatives == {} and made.neutral_mean is None and made.residual_norm is kind.residual_norm
    assert (made.info.recommended_coefficient, made.info.judge, made.info.trait) == (None, None, None)
    made.check(tiny)
    (edit,) = steering(made, 0.5)
    torch.testing.assert_close(edit.direction, 0.5 * kind.directions[2] - 0.25 * calm.directions[2])
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "I am well"}]
    (((along,),),) = ([list(turn.values()) for turn in turns] for turns in project(tiny, [chat], [made]))
    parts = [project(tiny, [chat], [part.using(2)])[0][0][part.trait].during for part in (kind, calm)]
    whole = parts[0] * kind.at(2).norm() - 0.5 * parts[1] * calm.at(2).norm()
    assert along.during == pytest.approx(float(whole / made.at(2).norm()), rel=1e-4) and along.during_z is None


def test_what_went_in_is_told(kind: PersonaVector, calm: PersonaVector, tmp_path: Path) -> None:
    combine([(kind, 1.0), (calm, -0.5)], "a name").save(tmp_path / "sum")
    again = PersonaVector.load(tmp_path / "sum")
    assert again.trait == "a name" and again.info.written is not None
    first, second = again.info.parts or ()
    assert (first.trait, first.layer, first.directions, first.coefficient) == ("kind", 2, kind.hash, 1.0)
    assert (second.trait, second.layer, second.directions, second.coefficient) == ("calm", 1, calm.hash, -0.5)


def test_a_multiple_of_one_vector_keeps_its_scale(kind: PersonaVector) -> None:
    for coefficient in (3.0, -2.0):
        made = combine([(kind, coefficient)])
        sign = math.copysign(1.0, coefficient)
        for name in STATISTICS:
            torch.testing.assert_close(getattr(made, name), sign * getattr(kind, name))
            spread = name.replace("mean", "deviation")
            assert getattr(made, spread) is getattr(kind, spread)
        torch.testing.assert_close(made.alternatives["prompt_last"], coefficient * torch.ones(4, 32))
        assert made.trait == "kind" and made.info.judge == kind.info.judge and made.info.trait == kind.info.trait


def test_vectors_of_one_trait_keep_its_judge_under_its_name_only(kind: PersonaVector) -> None:
    other = replace(kind, directions=kind.directions.flip(1))
    assert combine([(kind, 0.5), (other, 0.5)]).info.judge is not None
    assert combine([(kind, 0.5), (other, 0.5)], "mean").info.judge is None


@pytest.mark.parametrize("coefficient", [0.0, math.nan, math.inf])
def test_coefficients_that_make_no_vector(kind: PersonaVector, coefficient: float) -> None:
    with pytest.raises(UserError, match="makes no vector"):
        combine([(kind, coefficient)])


def test_what_cannot_be_summed_is_refused(kind: PersonaVector, calm: PersonaVector) -> None:
    with pytest.raises(UserError, match="No vector was given"):
        combine([])
    with pytest.raises(UserError, match="cancel each other at layer 2"):
        combine([(kind, 1.0), (calm, 1.0), (kind, -1.0), (calm, -1.0)])
    with pytest.raises(UserError, match="holds no letter"):
        combine([(kind, 1.0)], "+")
    for model in ({**calm.model, "weights": "others"}, {"id": "unknown"}):
        with pytest.raises(UserError, match="belong to different models"):
            combine([(kind, 1.0), (replace(calm, model=model), 1.0)])
    imported = [replace(each, model={"id": "somewhere/model"}) for each in (kind, calm)]
    assert combine([(each, 1.0) for each in imported]).model == {"id": "somewhere/model"}
    narrow = PersonaVector("narrow", torch.ones(4, 16), 1, {"id": "somewhere/model"})
    with pytest.raises(UserError, match="belong to different models"):
        combine([(imported[0], 1.0), (narrow, 1.0)])


def test_on_the_command_line(
    kind: PersonaVector,
    calm: PersonaVector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind.save(tmp_path / "kind")
    calm.save(tmp_path / "calm")
    words = ["vectors", "combine", tmp_path / "kind", f"{tmp_path / 'calm'}=-0.5", "--out", tmp_path / "sum"]
    assert exit_code(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "kind-calm, layer 2" in said and f"-0.5 times calm, directions {calm.hash}" in said and "monitor" in said
    made = PersonaVector.load(tmp_path / "sum")
    torch.testing.assert_close(made.directions, kind.directions - 0.5 * calm.directions)
    assert exit_code(monkeypatch, *words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["directions"] == made.hash and told["info"]["parts"][1]["coefficient"] == -0.5
    assert exit_code(monkeypatch, "vectors", "show", tmp_path / "sum") == 0
    assert "-0.5 times calm" in capsys.readouterr().out
    assert exit_code(monkeypatch, *words, "--model", "default") == 2
    assert "go with --specific only" in capsys.readouterr().err
    assert exit_code(monkeypatch, "vectors", "combine", f"{tmp_path / 'kind'}=much", "--out", tmp_path / "sum") == 2
    assert "is not FILE=NUMBER" in capsys.readouterr().err
