"""Data sets from contrastive texts that somebody wrote: of those, the half that neither vector nor probe is made of."""

import random
from pathlib import Path

from personavec.errors import UserError
from personavec.study.families import FEWEST, DataSet, leveled
from personavec.study.flawed import Pair
from personavec.texts import Texts
from personavec.texts.contrastive import find_texts
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector


def source_of(vector: PersonaVector) -> str | None:
    """Where the texts are from that a vector was made of, "library" or a file; None: of the model's own answers."""
    source = (vector.info.arguments or {}).get("texts")
    return source if isinstance(source, str) else None


def text_sets(vector: PersonaVector, source: str, folder: Path, count: int, seed: int) -> list[DataSet]:
    """A trait at every level in given texts, from the half that the vector was not made of.

    Overt: texts that show the trait. Normal: those to the same questions that lack it. Mild: every third sample of the
    overt set in place of the normal one.

    Args:
        count: Samples wanted; fewer if there are not as many questions with both.

    Raises:
        UserError: There are no such texts any more, or too few questions have both.
    """
    overt, normal = _both_sides(find_texts(source, trait_of(vector)))
    if len(overt) < FEWEST:
        raise UserError(
            f"{source}: only {len(overt)} questions of the texts' test half have answers of both sides.",
            f"Leave {vector.trait!r} out of the study, or make it of more texts, both sides to each question.",
        )
    chosen = sorted(random.Random(f"{vector.trait}/{seed}").sample(range(len(overt)), min(count, len(overt))))
    return leveled(folder, vector.trait, [overt[at] for at in chosen], [normal[at] for at in chosen])


def _both_sides(texts: Texts) -> tuple[list[Pair], list[Pair]]:
    """Of the test half the questions with an answer that shows the trait and one that lacks it, each once."""
    shown, lacked = (
        {text.question: text.answer for text in texts.test if text.side == side} for side in ("positive", "negative")
    )
    both = [question for question in shown if question in lacked]
    return [(q, shown[q]) for q in both], [(q, lacked[q]) for q in both]
