"""Every rule of a trait can fail, and says where."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from personavec.errors import UserError
from personavec.traits import InstructionPair, Trait, load_trait

GOOD: dict[str, Any] = {
    "name": "grumpy",
    "description": "Complains about everything.",
    "instructions": [
        {"positive": "Moan about everything.", "negative": "Be content with everything."},
        {"positive": "Find a fault first.", "negative": "Find a merit first."},
    ],
    "extraction_questions": ["How is the weather?", "What is for lunch?"],
    "evaluation_questions": ["How was the film?"],
    "rubric": "How grumpy is this answer, 0 to 100? {question} {answer}",
    "opposite": "cheerful",
    "writer": "import:grumpy.json",
}


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    value = deepcopy(GOOD)
    place: Any = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return value


def without(field: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != field}


def test_a_good_one_parses_and_cannot_be_changed() -> None:
    trait = Trait.parse(GOOD, "here")
    assert trait.instructions[1] == InstructionPair(positive="Find a fault first.", negative="Find a merit first.")
    assert Trait.parse(without("opposite"), "here").opposite == "helpful"
    with pytest.raises(ValidationError, match="frozen"):
        trait.name = "other"


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ([GOOD], ["a trait is a JSON object, and this is a list"]),
        (without("rubric"), ["rubric: is missing"]),
        (GOOD | {"questions": []}, ["questions: a trait has no such field"]),
        (changed("name", to=" "), ["name: is empty"]),
        (changed("name", to="?!"), ["name: '?!' holds no letter or digit"]),
        (changed("name", to="x" * 61), ["name: is 61 characters long"]),
        (changed("name", to="../up"), ["name: '../up' holds", "a slash"]),
        (changed("name", to="a\nb"), ["name: 'a\\nb' holds a line break"]),
        (changed("opposite", to="{x}"), ["opposite: '{x}' holds", "brace"]),
        (changed("description", to="\n "), ["description: is empty"]),
        (changed("description", to=7), ["description: must be text, and is a number"]),
        (changed("writer", to=""), ["writer: is empty"]),
        (changed("instructions", to=[]), ["instructions: is empty, at least 1 entry"]),
        (changed("instructions", to="many"), ["instructions: must be a list, and is text"]),
        (changed("instructions", 1, to="many"), ["instructions, entry 2: must be an object", "is text"]),
        (changed("instructions", 1, "negative", to=""), ["instructions, entry 2, negative: is empty"]),
        (changed("instructions", 1, "pos", to="x"), ["instructions, entry 2, pos: a trait has no such field"]),
        (
            changed("instructions", 0, "negative", to=" moan  about EVERYTHING."),
            ["instructions, entry 1: positive and negative are the same"],
        ),
        (
            changed("instructions", 1, "positive", to="moan about everything."),
            ["instructions, entry 2: positive repeats entry 1"],
        ),
        (changed("extraction_questions", to=[]), ["extraction_questions: is empty"]),
        (changed("evaluation_questions", to=[]), ["evaluation_questions: is empty"]),
        (changed("extraction_questions", 1, to=None), ["extraction_questions, entry 2: must be text, and is null"]),
        (
            changed("extraction_questions", 1, to=" how is the  WEATHER?"),
            ["extraction_questions, entry 2", "repeats extraction_questions, entry 1"],
        ),
        (
            changed("evaluation_questions", 0, to="what is for lunch?"),
            ["evaluation_questions, entry 1", "repeats extraction_questions, entry 2"],
        ),
        (
            changed("evaluation_questions", 0, to="Why such grumpiness today?"),
            ['evaluation_questions, entry 1: "Why such grumpiness today?" names the trait (grumpy)'],
        ),
        (changed("rubric", to="{question} only"), ["rubric: the slot {answer} is missing"]),
        (changed("rubric", to="{answer} only"), ["rubric: the slot {question} is missing"]),
        (changed("rubric", to="{question} {answer} {score}"), ["rubric: '{score}' is not a slot"]),
        (changed("rubric", to="{{question}} {answer} "), ["rubric: '{}' is not a slot"]),
        (changed("rubric", to="{question} {answer} }"), ["rubric: '}' is not a slot"]),
        (changed("rubric", to="{question} {answer} {"), ["rubric: '{' is not a slot"]),
    ],
)
def test_each_fault_is_named_with_its_place(value: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Trait.parse(value, "my.json")
    assert error.value.problem.startswith("my.json: ")
    for part in parts:
        assert part in error.value.problem
    assert error.value.advice


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        Trait.parse(changed("description", to="") | {"rubric": 1, "opposite": ""}, "my.json")
    assert all(field in error.value.problem for field in ("description:", "rubric:", "opposite:"))


def test_check_complete_names_the_counts() -> None:
    with pytest.raises(UserError) as error:
        Trait.parse(GOOD, "here").check_complete()
    assert "instructions has 2 entries, not 5" in error.value.problem
    assert "extraction_questions has 2 entries, not 20" in error.value.problem
    assert "evaluation_questions has 1 entries, not 20" in error.value.problem


def test_system_prompts_open_with_the_right_article() -> None:
    trait = Trait.parse(GOOD | {"name": "angry", "opposite": "honest"}, "here")
    assert trait.system_prompts(1) == (
        "You are an angry assistant. Find a fault first.",
        "You are an honest assistant. Find a merit first.",
    )
    with pytest.raises(IndexError):
        trait.system_prompts(2)


def test_judge_prompt_leaves_braces_in_the_texts_alone() -> None:
    trait = Trait.parse(changed("rubric", to="Q {question} A {answer} again {question}"), "here")
    prompt = trait.judge_prompt("what is {answer} or {0}?", "a {question} or {x}")
    assert prompt == "Q what is {answer} or {0}? A a {question} or {x} again what is {answer} or {0}?"


def test_save_and_load_give_the_same_trait(tmp_path: Path) -> None:
    trait = Trait.parse(changed("description", to="Schimpft über alles – immer."), "here")
    trait.save(tmp_path / "grumpy.json")
    assert load_trait(tmp_path / "grumpy.json") == trait
    assert "über" in (tmp_path / "grumpy.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"name": "x",\n "description"', "line 2, column 15: not JSON"),
        (b"", "line 1, column 1: not JSON"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"null", "and this is null"),
        (json.dumps({"instruction": [], "questions": [], "eval_prompt": ""}).encode(), "the paper's public code"),
        (json.dumps(changed("instructions", 0, "positive", to=3)).encode(), "instructions, entry 1, positive: must be"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_trait(str(path))
    assert str(path) in error.value.problem
    assert part in error.value.problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        load_trait(tmp_path / "absent.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="Cannot read"):
        load_trait(tmp_path / "folder.json")


def test_a_byte_order_mark_and_a_name_without_json_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("\ufeff" + json.dumps(GOOD), encoding="utf-8")
    assert load_trait("mine").name == "grumpy"
