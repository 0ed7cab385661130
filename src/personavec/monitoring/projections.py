"""Conversations on persona vectors: projections just before and during every answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from personavec.data.messages import answers
from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.messages import Message
from personavec.readout import read
from personavec.vector import PersonaVector, reading_sides

WINDOW = 16  # tokens: a passage of two lines, short enough to stand out of a long answer


@dataclass(frozen=True)
class Projection:
    """One answer seen along one persona vector, at the vector's layer.

    Attributes:
        before: Projection of the last prompt token, before the answer or its thought is written (paper section 3.3).
        during: Projection of the mean over the answer's tokens.
        highest: The highest mean of `WINDOW` of them in a row, which no length of the answer dilutes.
        before_z, during_z, highest_z: The same in deviations of the model's neutral answers (whole ones, also for the
            highest); None if the vector file has none.
    """

    before: float
    during: float
    highest: float
    before_z: float | None
    during_z: float | None
    highest_z: float | None


@dataclass(frozen=True)
class AnswerTokens:
    """A conversation's answers as tokens.

    Attributes:
        turns: Places of the k answers among the messages.
        sizes: Tokens of each.
        sequences: Tokens with spans of one token each: for each answer, k over all sequences, that of the last prompt
            token and those of its own.
    """

    turns: list[int]
    sizes: list[int]
    sequences: list[Conversation]


def project(
    model: ChatModel, conversations: Sequence[Sequence[Message]], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Project every assistant turn of every conversation on every vector.

    Args:
        conversations: Lists of messages {"role", "content"}, and what chat templates know besides.
        vectors: Of this model (see `PersonaVector.check`).

    Returns:
        Per conversation, per assistant turn: {name of the trait: Projection}. An empty answer has no projections, nor
        has a greeting or a turn that only calls tools.

    Raises:
        UserError: A conversation that the template refuses or the context cannot hold.
    """
    encoded, vectors = [encode(model, messages) for messages in conversations], reading_sides(vectors)
    result = []
    for messages, answer, values in zip(conversations, encoded, project_answers(model, encoded, vectors), strict=True):
        by_turn = dict(zip(answer.turns, values, strict=True))
        result.append([by_turn.get(i, {}) for i, message in enumerate(messages) if message["role"] == "assistant"])
    return result


def encode(model: ChatModel, messages: Sequence[Message], tools: Sequence[Any] = ()) -> AnswerTokens:
    """A conversation as tokens.

    Args:
        tools: As in `Sample`.

    Raises:
        UserError: The template refuses the messages, or the context cannot hold them.
    """
    turns, sizes, sequences = answers(messages), [], []
    for conversation in model.template.conversations(messages, turns, tools):
        model.check_fits(len(conversation.ids), 0)
        places: list[int] = []
        for prompt, (low, high) in zip(conversation.prompts, conversation.spans, strict=True):
            places += [max(prompt - 1, 0), *range(low, high)]
            sizes.append(high - low)
        sequences.append(Conversation(conversation.ids, [(place, place + 1) for place in places]))
    return AnswerTokens(turns, sizes, sequences)


def project_answers(
    model: ChatModel, conversations: Sequence[AnswerTokens], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Per conversation, per answer: {name of the trait: Projection}; none for an empty answer."""
    sequences = [sequence for conversation in conversations for sequence in conversation.sequences]
    layers = sorted({vector.layer for vector in vectors})
    directions = torch.stack([torch.stack([v.unit(layer) for v in vectors]) for layer in layers])
    tokens = read(model, sequences, layers=layers, directions=directions).means  # (tokens, layers, vectors)
    at = torch.tensor([layers.index(vector.layer) for vector in vectors])
    sizes = [1 + size for conversation in conversations for size in conversation.sizes]
    values = iter(
        tokens[:, at, torch.arange(len(vectors))].double().split_with_sizes(sizes)
    )  # of each answer, its prompt's first
    return [
        [_along(vectors, answer) for answer in islice(values, len(conversation.turns))]
        for conversation in conversations
    ]


def highest(tokens: Tensor) -> Tensor:
    """The highest mean of `WINDOW` tokens in a row (vectors,), of tokens' projections (tokens, vectors); of an answer
    that is shorter, its mean."""
    found: Tensor = tokens.unfold(0, min(WINDOW, len(tokens)), 1).mean(-1).amax(0)
    return found


def _along(vectors: Sequence[PersonaVector], tokens: Tensor) -> dict[str, Projection]:
    """Of one answer, the last prompt token first (1 + tokens, vectors)."""
    if len(tokens) == 1:
        return {}  # an empty answer has no mean
    figures = (tokens[0], tokens[1:].mean(0), highest(tokens[1:]))
    return {
        vector.trait: Projection(
            before,
            mean,
            most,
            _z(vector, before, prompt=True),
            *(_z(vector, one, prompt=False) for one in (mean, most)),
        )
        for vector, before, mean, most in zip(vectors, *(figure.tolist() for figure in figures), strict=True)
    }


def _z(vector: PersonaVector, value: float, *, prompt: bool) -> float | None:
    try:
        mean, deviation = vector.neutral(vector.layer, of="prompt" if prompt else "answer")
    except UserError:
        return None
    return round((value - mean) / deviation, 4) if deviation > 0 else None
