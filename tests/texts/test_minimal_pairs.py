"""Texts in another style: nothing else of them changes."""

import pytest

from personavec.texts.contrastive import library_texts
from personavec.texts.minimal_pairs import CHANGES, restyled
from personavec.texts.style import features
from personavec.traits import library_names

TEXT = "It costs 3.5 francs. Take it, if you like."


def test_changes_of_a_text() -> None:
    assert {change: restyled(TEXT, change) for change in CHANGES} == {
        "! for .": "It costs 3.5 francs! Take it, if you like!",
        "list for prose": "- It costs 3.5 francs.\n- Take it, if you like.",
        "said twice": f"{TEXT} {TEXT}",
        "capitals": "IT COSTS 3.5 FRANCS. TAKE IT, IF YOU LIKE.",
        "emoji": f"{TEXT} 📌",
    }


def test_what_a_change_leaves_as_it_is_makes_no_pair() -> None:
    assert restyled("Is it?", "! for .") is None and restyled("NO!", "capitals") is None
    assert restyled("One sentence.", "list for prose") is None and restyled("Two.\n- Three.", "list for prose") is None


@pytest.mark.parametrize("trait", library_names())
def test_the_librarys_texts_keep_their_words_and_change_their_style(trait: str) -> None:
    for text in library_texts(trait).test:
        for change, feature in zip(
            CHANGES, ("exclamation_marks", "list_lines", "log_length", "capitals", "emoji"), strict=True
        ):
            if (made := restyled(text.answer, change)) is not None:
                assert set(made.casefold().strip("📌").replace("!", ".").split()) - {"-"} == set(
                    text.answer.casefold().replace("!", ".").split()
                ) - {"-"}
                assert getattr(features(made), feature) > getattr(features(text.answer), feature)
