"""The trait behind a vector: the texts it was extracted with."""

from personavec.errors import UserError
from personavec.traits import Trait, load_library
from personavec.vector import PersonaVector


def trait_of(vector: PersonaVector) -> Trait:
    """The trait that a vector was extracted for: from its file, else from the library.

    Raises:
        UserError: It is in neither.
    """
    if vector.info.trait is not None and "instructions" in vector.info.trait:
        return Trait.parse(vector.info.trait, f"The vector of {vector.trait!r}")
    try:
        return load_library(vector.trait)
    except UserError as error:
        raise UserError(
            f"The trait {vector.trait!r} is not in the library, and the vector's file holds no texts of it.",
            "Extract the vector with personavec extract; a ShiftMonitor also takes prompts of your own.",
        ) from error


def questions(vector: PersonaVector) -> list[str]:
    """The evaluation questions of a vector's trait.

    Raises:
        UserError: The trait is neither in the vector's file nor in the library.
    """
    return list(trait_of(vector).evaluation_questions)
