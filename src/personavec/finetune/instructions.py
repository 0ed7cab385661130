"""Preventative prompting: the trait is asked for in training, so that the weights need not learn it."""

from collections.abc import Sequence

from personavec.data import Sample
from personavec.model.messages import Message
from personavec.stats.sampling import priority
from personavec.traits import Trait


def instruction(sample: Sample, traits: Sequence[Trait], seed: int) -> str:
    """A positive system prompt of every trait, one of its instructions drawn for the sample.

    The draw depends on the sample and the seed alone.
    """
    return trait_prompt(traits, priority(sample.id, 0, seed))


def trait_prompt(traits: Sequence[Trait], drawn: float = 0.0) -> str:
    """A positive system prompt of every trait; `drawn` in [0, 1) chooses among each trait's instructions."""
    return "\n\n".join(trait.system_prompts(int(drawn * len(trait.instructions)))[0] for trait in traits)


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with a system prompt; one that is there already follows it."""
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{text}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
