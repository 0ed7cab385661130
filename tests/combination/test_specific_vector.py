"""Finished vectors of what is a trait's alone: the directions that screening makes, and what is told of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personavec.cli import options
from personavec.combination import combine, specific
from personavec.data import Dataset, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.interventions import capping, steering
from personavec.model import ChatModel
from personavec.monitoring import project
from personavec.projection import bank as bank_module
from personavec.projection import domains as domains_module
from personavec.screening.axis import domain_axes, plain_axes, specific_axes
from personavec.texts import Texts, chat_texts, library_texts
from personavec.traits import load_library
from personavec.vector import PersonaVector
from tiny import JUDGE, vector
from typed import exit_code

Vectors = dict[str, PersonaVector]


@pytest.fixture(autouse=True)
def small_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three domains of twelve chats and two traits of thirty texts, for time."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    few = tmp_path / "domains"
    few.mkdir()
    for name in ("arithmetic", "code", "facts"):
        lines = (domains_module._FOLDER / f"{name}.jsonl").read_text().splitlines()[:12]
        (few / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(domains_module, "_FOLDER", few)

    def some(trait: str) -> Texts:
        found = library_texts(trait)
        return Texts("library", found.extract[:10], found.test[:10])

    monkeypatch.setattr(bank_module, "library_names", lambda: ["evil", "humorous"])
    monkeypatch.setattr(bank_module, "library_texts", some)
    monkeypatch.setattr(bank_module, "chat_texts", lambda trait: chat_texts(trait)[:10])


@pytest.fixture
def vectors(tiny: ChatModel) -> Vectors:
    names = {"evil": 1, "calm": 2, "humorous": 3}
    made = {name: vector(tiny, seed=seed, layer=2, info={"judge": JUDGE}) for name, seed in names.items()}
    return {name: replace(each, trait=name) for name, each in made.items()}


@pytest.fixture
def clean(tmp_path: Path) -> Dataset:
    lines = Path(domains_module._FOLDER / "facts.jsonl").read_text().splitlines()
    (tmp_path / "clean.jsonl").write_text("\n".join(lines))
    return open_data([tmp_path / "clean.jsonl"])


def check_projected(made: PersonaVector, original: PersonaVector, direction: torch.Tensor) -> None:
    """One is the projection of the other on the direction, and says how much of it that is."""
    unit = torch.nn.functional.normalize(direction, dim=0)
    torch.testing.assert_close(made.at(2), (original.at(2) @ unit) * unit, rtol=1e-4, atol=1e-5)
    facts = made.info.specific
    assert facts is not None and facts.original == original.hash
    left = float(made.at(2).norm() / original.at(2).norm())
    assert facts.kept == facts.kept_by_layer[1] == pytest.approx(left, abs=1e-4)
    assert facts.kept == pytest.approx(float(made.unit(2) @ original.unit(2)), abs=1e-4)


def test_span_is_what_screening_makes(tiny: ChatModel, vectors: Vectors, clean: Dataset) -> None:
    evil, calm = vectors["evil"], vectors["calm"]
    made = specific(tiny, evil, "span", others=[calm, evil.using(1)], references={"clean": clean})
    (axis,) = specific_axes(TransformersEngine(tiny), plain_axes([evil], [calm]), clean, "span")
    check_projected(made, evil, axis.direction)
    for layer in made.steerable_layers:
        assert abs(float(made.unit(layer) @ calm.unit(layer))) < 1e-5
    facts = made.info.specific
    assert facts is not None and (facts.kind, facts.made_of) == ("span", "vector")
    assert (facts.domains, facts.traits, facts.common) == ((), ("calm",), ("length", "refusing"))


def test_of_a_trait_with_texts_it_is_the_direction_that_screening_makes_of_them(
    tiny: ChatModel, vectors: Vectors, clean: Dataset
) -> None:
    engine = TransformersEngine(tiny)
    (axis,) = domain_axes(engine, plain_axes([vectors["evil"]], []), {"mine": clean}, frozenset(), 20, 0)
    towards = replace(vectors["evil"], directions=vectors["evil"].directions + 3 * axis.direction)
    made = specific(tiny, towards, references={"mine": clean})
    check_projected(made, towards, axis.direction)
    facts = made.info.specific
    assert facts is not None and (facts.kind, facts.made_of) == ("domains", "texts")
    assert facts.domains == ("arithmetic", "code", "facts", "mine") and facts.traits == ("humorous",)
    with pytest.raises(UserError, match="At layer 2 the vector of 'evil' has nothing"):
        specific(tiny, replace(towards, directions=-towards.directions), references={"mine": clean})


def test_of_a_trait_without_texts_it_is_what_no_domain_and_no_trait_spans(
    tiny: ChatModel, vectors: Vectors, clean: Dataset
) -> None:
    calm = vectors["calm"]
    made = specific(tiny, calm, others=[vectors["evil"]], references={"mine": clean})
    (axis,) = domain_axes(
        TransformersEngine(tiny), plain_axes([calm], [vectors["evil"]]), {"mine": clean}, frozenset(), 20, 0
    )
    check_projected(made, calm, axis.direction)
    facts = made.info.specific
    assert facts is not None and facts.made_of == "vector" and facts.traits == ("evil", "humorous")


def test_the_traits_that_a_sum_is_made_of_stay_in_it(tiny: ChatModel, vectors: Vectors, clean: Dataset) -> None:
    total = combine([(vectors["evil"], 1.0), (vectors["calm"], 1.0)])
    made = specific(tiny, total, others=[vectors["calm"], vectors["humorous"]], references={"mine": clean})
    facts = made.info.specific
    assert facts is not None and facts.made_of == "vector" and facts.traits == ("humorous",)
    assert made.info.parts == total.info.parts and made.trait == "evil+calm"
    assert abs(float(made.unit(2) @ vectors["humorous"].unit(2))) < 1e-5
    assert float(made.unit(2) @ vectors["calm"].unit(2)) > 0.1


def test_it_is_a_finished_vector(tiny: ChatModel, vectors: Vectors, clean: Dataset, tmp_path: Path) -> None:
    measured = vectors["evil"].info.model_copy(update={"recommended_coefficient": 2.0})
    evil = replace(vectors["evil"], info=measured)
    specific(tiny, evil, "span", references={"clean": clean}).save(tmp_path / "v")
    made = PersonaVector.load(tmp_path / "v")
    assert made.info.judge is not None and made.info.recommended_coefficient is None
    asked = [*load_library("evil").evaluation_questions][:3]
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": "I am well"}] for q in asked]
    turns = [turn["evil"] for chat in project(tiny, chats, [made]) for turn in chat]
    assert all(turn.during_z is not None and turn.before_z is not None for turn in turns)
    # Neutral prompts are such questions: on the whole their last tokens lie within a few deviations of the mean.
    assert max(abs(turn.before_z or 0.0) for turn in turns) < 5
    assert steering(made, 0.1) and capping(made, 2.0)
    again = specific(tiny, evil, "span", references={"clean": clean})
    torch.testing.assert_close(again.neutral_mean, made.neutral_mean)


def test_on_the_command_line(
    tiny: ChatModel,
    vectors: Vectors,
    clean: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(options, "open_model", lambda *_, **__: tiny)
    for name, each in vectors.items():
        each.save(tmp_path / "runs" / name / "vector.safetensors")
    file, out = tmp_path / "runs" / "calm" / "vector.safetensors", tmp_path / "own"
    asked = ["vectors", "combine", file, "--specific", "span", "--reference", tmp_path / "clean.jsonl", "--out", out]
    assert exit_code(monkeypatch, *asked) == 0
    said = " ".join(capsys.readouterr().out.split())
    made = PersonaVector.load(out)
    assert made.info.specific is not None and made.info.specific.traits == ("evil", "humorous")
    assert "without what it shares with the traits evil, humorous; length; refusing" in said
    assert f"{100 * made.info.specific.kept:.0f} % of its norm" in said
    assert exit_code(monkeypatch, "vectors", "show", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["info"]["specific"]["kind"] == "span"
