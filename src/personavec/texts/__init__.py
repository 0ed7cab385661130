"""Contrastive texts: answers that show a trait and answers that lack it, whoever wrote them, to the same questions.

A model that cannot be made to show a trait can still read it: readings of given texts, without any instruction, give a
vector too. Such texts come with the library's traits, from files, or from a stronger model.
"""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.texts.contrastive import Text, Texts, chat_texts, library_texts, read_texts
    from personavec.texts.length import TOKENS
    from personavec.texts.readings import read_answers

__getattr__, __dir__ = offering(
    __name__,
    {
        "contrastive": ["Text", "Texts", "chat_texts", "library_texts", "read_texts"],
        "length": ["TOKENS"],
        "readings": ["read_answers"],
    },
)

__all__ = ["TOKENS", "Text", "Texts", "chat_texts", "library_texts", "read_answers", "read_texts"]
