"""Articles and the stem rule."""

import pytest

from personavec.traits.words import article, names_trait, share_stem


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("evil", "an"),
        ("kind", "a"),
        ("honest", "an"),
        ("hourly", "an"),
        ("humorous", "a"),
        ("hostile", "a"),
        ("unimpressed", "an"),
        ("uninterested", "an"),
        ("unicorn-loving", "a"),
        ("universal", "a"),
        ("useless", "a"),
        ("utopian", "a"),
        ("upbeat", "an"),
        ("ugly", "an"),
        ("European", "a"),
        ("one-sided", "a"),
        ("opinionated", "an"),
        ("NPC-like", "an"),
        ("UFO-crazy", "a"),
        ("X-rated", "an"),
        ("ängstlich", "an"),
        ("冷淡", "a"),
        ("'evil'", "an"),
        ("", "a"),
    ],
)
def test_article_follows_the_sound(phrase: str, expected: str) -> None:
    assert article(phrase) == expected


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("evil", "Evil"),
        ("evil", "evilness"),
        ("sycophantic", "sycophants"),
        ("sycophantic", "sycophancy"),
        ("hallucinating", "hallucinations"),
        ("hallucinating", "hallucinate"),
        ("optimistic", "optimism"),
        ("optimistic", "optimistically"),
        ("impolite", "impoliteness"),
        ("apathetic", "apathy"),
        ("humorous", "humour"),
        ("humorous", "humor"),
        ("lazy", "laziness"),
        ("pirate", "piracy"),
        ("sarcastic", "sarcasm"),
        ("arrogant", "arrogance"),
        ("aggressive", "aggression"),
        ("annoying", "annoyed"),
        ("generous", "generosity"),
        ("brave", "bravery"),
    ],
)
def test_inflections_share_a_stem(name: str, word: str) -> None:
    assert share_stem(name, word)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("impolite", "polite"),
        ("friendly", "friend"),
        ("caring", "car"),
        ("helpful", "help"),
        ("passive", "passion"),
        ("childish", "child"),
        ("formal", "form"),
        ("humane", "human"),
        ("optimistic", "optician"),
        ("willing", "will"),
    ],
)
def test_strangers_share_none(name: str, word: str) -> None:
    assert not share_stem(name, word)


def test_a_name_of_several_words_needs_them_all() -> None:
    assert not names_trait("passive-aggressive", "What do I do about an aggressive dog?")
    assert names_trait("passive-aggressive", "Why was my aunt so aggressively passive?")
    assert names_trait("like a pirate", "What do pirates eat?")
    assert not names_trait("like a pirate", "What is it like to be a sailor?")


def test_scripts_without_spaces_are_searched_as_they_are() -> None:
    assert names_trait("冷淡", "你为什么这么冷淡？")
    assert not names_trait("冷淡", "今天天气怎么样？")
