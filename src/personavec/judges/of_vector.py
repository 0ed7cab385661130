"""The judges of vectors: by the trait that a vector's file holds, on the scale of its extraction."""

from collections.abc import Sequence

from personavec.errors import UserError
from personavec.judges.base import UNFITTED, Judge, JudgeModel, JudgeState
from personavec.judges.contrast import ContrastJudge
from personavec.model import ChatModel
from personavec.traits import Trait
from personavec.vector import PersonaVector


def judge_of(model: ChatModel, vector: PersonaVector) -> ContrastJudge:
    """The contrast judge of a vector's trait, calibrated as when the vector was extracted.

    Raises:
        UserError: The vector was scored by another judge, or was imported.
    """
    try:
        if vector.info.judge is None or vector.info.trait is None:
            raise ValueError("no judge, or no trait")
        return ContrastJudge.from_state(model, Trait.parse(vector.info.trait, vector.trait), vector.info.judge.state)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"The vector of {vector.trait!r} carries no contrast judge, or that of an earlier version.",
            "Extract it with `judge` contrast.",
        ) from error


def state_of(vector: PersonaVector) -> JudgeState:
    """What the judge of a vector's extraction had learned; nothing where the file holds nothing of the kind."""
    try:
        return UNFITTED if vector.info.judge is None else JudgeState.model_validate(vector.info.judge.state)
    except ValueError:
        return UNFITTED


def trait_judges(opened: JudgeModel, vectors: Sequence[PersonaVector]) -> dict[str, Judge]:
    """A judge for the trait of each vector, by its name; all with the one model that is opened.

    Raises:
        UserError: A vector does not know its trait, or not what the judge needs to have learned.
    """
    judges: dict[str, Judge] = {}
    for vector in vectors:
        if vector.info.trait is None:
            raise UserError(
                f"The vector of {vector.trait!r} does not hold its trait, which a judge needs.",
                "Extract it with personavec, or leave `judge` out.",
            )
        trait = Trait.parse(vector.info.trait, vector.trait)
        judges[vector.trait] = judge = opened.of_trait(trait, state_of(vector))
        if not judge.fitted:
            raise UserError(
                f"The vector of {vector.trait!r} carries no {opened.name} judge.",
                f"Extract it with `judge` {opened.name}, or choose another judge.",
            )
    return judges
