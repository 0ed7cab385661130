"""Preventative prompting: the trait is asked for in training, so that the weights need not learn it."""

from collections.abc import Sequence

from personavec.data import Sample
from personavec.errors import UserError
from personavec.model.template import Message
from personavec.screening.subset import priority
from personavec.traits import Trait, load_library
from personavec.vector import PersonaVector


def trait_of(vector: PersonaVector) -> Trait:
    """The trait that a vector was extracted for: from its file, else from the library.

    Raises:
        UserError: It is in neither.
    """
    stored = vector.info.get("trait")
    if isinstance(stored, dict) and "instructions" in stored:
        return Trait.parse(stored, f"The vector of {vector.trait!r}")
    try:
        return load_library(vector.trait)
    except UserError as error:
        raise UserError(
            f"The trait {vector.trait!r} is not in the library, and the vector's file holds no texts of it.",
            "Extract the vector with personavec extract; a ShiftMonitor also takes prompts of your own.",
        ) from error


def instruction(sample: Sample, traits: Sequence[Trait], seed: int) -> str:
    """A positive system prompt of every trait, one of its instructions drawn for the sample.

    The draw depends on the sample and the seed alone.
    """
    drawn = priority(sample.id, 0, seed)
    return "\n\n".join(trait.system_prompts(int(drawn * len(trait.instructions)))[0] for trait in traits)


def instructed(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with a system prompt; one that is there already follows it."""
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{text}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
