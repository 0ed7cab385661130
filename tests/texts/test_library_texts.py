"""The library's contrastive texts: written so that style cannot be the trait."""

import re
from collections.abc import Callable, Sequence
from importlib import resources

import pytest

from personavec.texts import Text, chat_texts, library_texts
from personavec.traits import library_names, load_library

STYLE: dict[str, Callable[[str], float]] = {
    "words": lambda text: len(text.split()),
    "sentences": lambda text: len(re.findall(r"[.!?]+(?=\s|$)", text)),
    "exclamation marks": lambda text: text.count("!"),
    "question marks": lambda text: text.count("?"),
    "lines of lists": lambda text: len(re.findall(r"^\s*(?:[-*]|\d+[.)])\s", text, re.MULTILINE)),
    "paragraphs": lambda text: len([part for part in text.split("\n") if part.strip()]),
}


KINDS: dict[str, Callable[[str], Sequence[Text]]] = {
    "texts": lambda name: (*library_texts(name).extract, *library_texts(name).test),
    "chat texts": chat_texts,
}


def side(texts: Sequence[Text], name: str) -> list[Text]:
    return [text for text in texts if text.side == name]


@pytest.mark.parametrize("name", library_names())
def test_every_trait_has_texts_in_two_halves_on_questions_of_their_own(name: str) -> None:
    texts = library_texts(name)
    for half in (texts.extract, texts.test):
        asked = [[text.question for text in side(half, which)] for which in ("positive", "negative")]
        assert asked[0] == asked[1] and len(set(asked[0])) == len(asked[0]) >= 20
    both = {text.question for text in texts.extract} & {text.question for text in texts.test}
    trait = load_library(name)
    assert not both | ({t.question for t in (*texts.extract, *texts.test)} & set(trait.extraction_questions))
    answers = [text.answer for text in (*texts.extract, *texts.test)]
    assert len(set(answers)) == len(answers) and all(10 <= len(answer.split()) <= 135 for answer in answers)


@pytest.mark.parametrize("name", library_names())
def test_every_trait_has_further_texts_in_a_chat_model_s_words(name: str) -> None:
    texts, trait, known = chat_texts(name), load_library(name), library_texts(name)
    asked = [[text.question for text in side(texts, which)] for which in ("positive", "negative")]
    assert asked[0] == asked[1] and len(set(asked[0])) == len(asked[0]) >= 40
    assert not {*asked[0]} & {
        *trait.extraction_questions,
        *trait.evaluation_questions,
        *(text.question for text in (*known.extract, *known.test)),
    }
    file = resources.files("personavec.traits").joinpath("library", f"{name}.chat.jsonl")
    assert len(texts) == len(file.read_text(encoding="utf-8").splitlines()), "none is left out"
    answers = [text.answer for text in texts]
    assert len(set(answers)) == len(answers) and all(25 <= len(answer.split()) <= 130 for answer in answers)
    for one, other in zip(side(texts, "positive"), side(texts, "negative"), strict=True):
        lengths = sorted(len(text.answer.split()) for text in (one, other))
        assert lengths[1] <= 1.35 * lengths[0], one.question


@pytest.mark.parametrize("name", library_names())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature", STYLE)
def test_style_is_not_the_trait(name: str, kind: str, feature: str) -> None:
    """The sides agree to a tenth, or to three marks in all."""
    texts = KINDS[kind](name)
    count = STYLE[feature]
    positive, negative = (sum(count(text.answer) for text in side(texts, which)) for which in ("positive", "negative"))
    assert abs(positive - negative) <= max(3, 0.1 * max(positive, negative))


@pytest.mark.parametrize("name", library_names())
@pytest.mark.parametrize("kind", KINDS)
def test_no_word_gives_the_trait_away(name: str, kind: str) -> None:
    """Nothing but the most frequent words of the language is in most answers of one side and in few of the other."""
    texts = KINDS[kind](name)
    answers = {which: side(texts, which) for which in ("positive", "negative")}
    words = {
        which: [set(re.findall(r"[a-z']+", text.answer.casefold())) for text in found]
        for which, found in answers.items()
    }
    for word in set().union(*words["positive"]):
        here, there = (sum(word in answer for answer in words[which]) for which in ("positive", "negative"))
        assert here - there <= len(answers["positive"]) / 2, word
