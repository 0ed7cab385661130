"""The library's texts keep every rule, and are ours."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from personavec.errors import UserError
from personavec.traits import Trait, bank_questions, library_names, load_library, load_trait
from personavec.traits.words import names_trait

PAPER = ["apathetic", "evil", "hallucinating", "humorous", "impolite", "optimistic", "sycophantic"]


def test_the_library_holds_the_seven_traits_of_the_paper() -> None:
    assert library_names() == PAPER


@pytest.mark.parametrize("name", PAPER)
def test_a_library_trait_is_complete_and_usable(name: str) -> None:
    trait = load_library(name)
    trait.check_complete()
    assert (trait.name, trait.writer) == (name, "library")
    assert trait.opposite != "helpful"
    assert not names_trait(name, trait.opposite)
    texts = [text for pair in trait.instructions for text in (pair.positive, pair.negative)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert 1 <= len(re.findall(r"[.!?](?=\s|\"|$)", text)) <= 4
        assert len(text.split()) <= 40, "too long for a very small model"
    assert trait.description in trait.rubric
    assert "REFUSAL" in trait.rubric
    assert "0 to 100" in trait.rubric


def test_no_two_traits_share_a_question() -> None:
    questions = [q for n in PAPER for t in [load_library(n)] for q in t.extraction_questions + t.evaluation_questions]
    bank = [question for field in bank_questions() for question in field]
    assert len({question.casefold() for question in questions + bank}) == len(questions) + len(bank) == 7 * 40 + 120


def test_names_are_found_whatever_their_case_and_before_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil").write_text("not a trait")
    assert load_trait(" Evil ") == load_library("evil") == load_trait("evil")


@pytest.mark.parametrize(
    ("name", "guess"), [("humourous", "humorous"), ("sycophancy", "sycophantic"), ("optimism", "optimistic")]
)
def test_an_unknown_name_gets_close_matches(name: str, guess: str) -> None:
    with pytest.raises(UserError) as error:
        load_trait(name)
    assert f"Did you mean {guess}" in error.value.problem
    assert all(known in error.value.advice for known in PAPER)


@pytest.mark.parametrize("name", ["zzzz", "", "x" * 5000])
def test_a_name_like_nothing_gets_the_list(name: str) -> None:
    with pytest.raises(UserError) as error:
        load_trait(name)
    assert "Did you mean" not in error.value.problem
    assert "hallucinating" in error.value.advice


def test_the_texts_are_not_those_of_the_public_code(shared_data: Path) -> None:
    def words(text: str) -> list[str]:
        return re.findall(r"[\w']+", text.casefold())

    def phrases(text: str) -> set[tuple[str, ...]]:
        return {tuple(words(text)[at : at + 6]) for at in range(len(words(text)) - 5)}

    theirs: set[tuple[str, ...]] = set()
    questions: set[str] = set()
    for path in (shared_data / "reference").glob("traits_*/*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        instructions = [text for pair in value["instruction"] for text in pair.values()]
        theirs.update(*(phrases(text) for text in [*value["questions"], *instructions, value["eval_prompt"]]))
        questions.update(" ".join(words(question)) for question in value["questions"])
    for trait in map(load_library, PAPER):
        ours = [*trait.extraction_questions, *trait.evaluation_questions]
        assert not questions & {" ".join(words(question)) for question in ours}
        instructions = [text for pair in trait.instructions for text in (pair.positive, pair.negative)]
        for text in [*instructions, trait.rubric, trait.description]:
            assert not theirs & phrases(text)


def test_the_public_code_s_questions_keep_our_rules(shared_data: Path) -> None:
    for extract in sorted((shared_data / "reference" / "traits_extract").glob("*.json")):
        evaluate = shared_data / "reference" / "traits_eval" / extract.name
        first, second = (json.loads(path.read_text(encoding="utf-8")) for path in (extract, evaluate))
        trait = Trait.parse(
            {
                "name": extract.stem,
                "description": "imported",
                "instructions": [{"positive": p["pos"], "negative": p["neg"]} for p in first["instruction"]],
                "extraction_questions": first["questions"],
                "evaluation_questions": second["questions"],
                "rubric": first["eval_prompt"],
            },
            extract.name,
        )
        trait.check_complete()


def test_importing_traits_loads_nothing_heavy() -> None:
    code = "import sys, personavec.traits; print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
