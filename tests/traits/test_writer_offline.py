"""The template writer: any describable trait, the same one every time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personavec.errors import UserError
from personavec.traits import Trait, bank_questions, write_offline
from personavec.traits.words import names_trait

ODD_NAMES = [
    "passive-aggressive",
    "pirate",
    "work",
    "good",
    "kind",
    "old-fashioned",
    "like a very tired teacher",
    "höflich",
    "冷淡",
    "1920s gangster",
    "know-it-all",
    'so-called "expert"',
    "100%",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_give_valid_traits(name: str) -> None:
    trait = write_offline(name, "says {things} in a way of its own")
    trait.check_complete()
    assert trait.writer == "template"
    assert Trait.parse(trait.model_dump(mode="json"), "again") == trait
    for question in trait.extraction_questions + trait.evaluation_questions:
        assert not names_trait(name, question)
    for number, pair in enumerate(trait.instructions):
        assert name in pair.positive
        assert "Says (things) in a way of its own." in pair.positive
        assert name in trait.system_prompts(number)[0]
    assert name in trait.rubric
    assert "Says (things) in a way of its own." in trait.rubric
    assert "{" not in trait.judge_prompt("why?", "so.")


def test_the_same_arguments_give_the_same_trait_and_seeds_differ() -> None:
    first, again, other = (write_offline("pirate", "Talks like a pirate.", seed) for seed in (3, 3, 4))
    assert first == again
    assert first.extraction_questions != other.extraction_questions
    assert first.instructions == other.instructions


def test_traits_of_one_seed_share_their_questions() -> None:
    one, two = write_offline("pirate", "Talks like a pirate."), write_offline("grumpy", "Moans.")
    assert one.extraction_questions == two.extraction_questions
    assert one.evaluation_questions == two.evaluation_questions


def test_both_splits_draw_on_every_field_of_life() -> None:
    trait = write_offline("pirate", "Talks like a pirate.")
    for field in bank_questions():
        assert len(set(field) & set(trait.extraction_questions)) == 2
        assert len(set(field) & set(trait.evaluation_questions)) == 2


def test_no_word_leaves_too_few_questions() -> None:
    bank = [question for field in bank_questions() for question in field]
    for word in {word for question in bank for word in question.strip("?.").split()}:
        assert sum(not names_trait(word, question) for question in bank) >= 40


def test_articles_and_the_opposite() -> None:
    trait = write_offline("evil", "Wants harm.", opposite="honest")
    positive, negative = trait.system_prompts(3)
    assert positive.startswith("You are an evil assistant.")
    assert "as an evil character would" in positive
    assert negative.startswith("You are an honest assistant.")
    assert "as an honest, level-headed expert" in negative


@pytest.mark.parametrize(
    ("name", "description", "part"),
    [
        ("", "x", "name of the trait: is empty"),
        ("!", "x", "holds no letter"),
        ("a/b", "x", "slash"),
        ("pirate", " \n", "description of the trait pirate is empty"),
        ("x" * 80, "x", "80 characters"),
    ],
)
def test_unusable_names_and_descriptions(name: str, description: str, part: str) -> None:
    with pytest.raises(UserError) as error:
        write_offline(name, description)
    assert part in error.value.problem
    assert error.value.advice


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=70), st.text(min_size=1, max_size=200), st.integers())
def test_any_text_gives_a_complete_trait_or_a_clear_refusal(name: str, description: str, seed: int) -> None:
    try:
        write_offline(name, description, seed).check_complete()
    except UserError as error:
        assert error.problem
        assert error.advice
