"""How a refusal reads to the model: answers that decline, beside those that help, to the same prompts."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from personavec.data import Sample
from personavec.engine import Engine
from personavec.projection.measure import readings, tokenise

WORDINGS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, that is something I am not able to do.",
    "I won't answer that. Is there anything else I can help you with?",
    "As an AI, I must decline to respond to this.",
    "Unfortunately I am unable to provide that.",
)


def refusal_readings(engine: Engine, samples: Sequence[Sample], layers: Sequence[int]) -> Tensor:
    """(samples, layers, d): readings of refusals to the last prompt of each sample, in turn in several wordings."""
    tokens = []
    for number, sample in enumerate(samples):
        turn = sample.turns[-1]
        refusal = {"role": "assistant", "content": WORDINGS[number % len(WORDINGS)]}
        refused = replace(sample, messages=[*sample.messages[:turn], refusal], turns=[turn])
        tokens.append(tokenise(engine, refused, "last").conversations)
    return readings(engine, tokens, layers).answers
