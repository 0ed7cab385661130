"""What all clean answers share that is no trait: how their readings change with length, and with refusing."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.projection.measure import Tokens, readings, tokenise
from personavec.projection.specific import length_direction, refusal_direction

FOR_DIRECTIONS = 96  # clean samples from which directions are taken

WORDINGS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, that is something I am not able to do.",
    "I won't answer that. Is there anything else I can help you with?",
    "As an AI, I must decline to respond to this.",
    "Unfortunately I am unable to provide that.",
)


def common_directions(engine: Engine, clean: Dataset, layers: Sequence[int]) -> list[list[Tensor]]:
    """The directions (d,) of length and of refusing, for each layer, from the first samples of a reference.

    Raises:
        UserError: See `length_direction` and `refusal_direction`.
    """
    samples, tokens = first_readable(engine, clean)
    answering = readings(engine, [each.conversations for each in tokens], layers).answers
    refusing = refusal_readings(engine, samples, layers)
    lengths = torch.tensor([each.answer_tokens for each in tokens]).log1p()
    return [
        [length_direction(answering[:, at], lengths), refusal_direction(refusing[:, at], answering[:, at])]
        for at in range(len(layers))
    ]


def first_readable(engine: Engine, clean: Dataset) -> tuple[list[Sample], list[Tokens]]:
    """The first samples of a reference that the model can read."""
    samples: list[Sample] = []
    tokens: list[Tokens] = []
    for record in clean:
        with suppress(UserError):
            if isinstance(record, Sample):
                tokens.append(tokenise(engine, record, "last"))
                samples.append(record)
        if len(samples) == FOR_DIRECTIONS:
            break
    return samples, tokens


def refusal_readings(engine: Engine, samples: Sequence[Sample], layers: Sequence[int]) -> Tensor:
    """(samples, layers, d): readings of refusals to the last prompt of each sample, in turn in several wordings."""
    tokens = []
    for number, sample in enumerate(samples):
        turn = sample.turns[-1]
        refusal = {"role": "assistant", "content": WORDINGS[number % len(WORDINGS)]}
        refused = replace(sample, messages=[*sample.messages[:turn], refusal], turns=[turn])
        tokens.append(tokenise(engine, refused, "last").conversations)
    return readings(engine, tokens, layers).answers
