"""Conversations on persona vectors: projections just before and during every answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from personavec.data.messages import answers
from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.template import Message
from personavec.readout import read
from personavec.vector import PersonaVector, reading_sides


@dataclass(frozen=True)
class Projection:
    """One answer seen along one persona vector, at the vector's layer.

    Attributes:
        before: Projection of the last prompt token, before the answer or its thought is written (paper section 3.3).
        during: Projection of the mean over the answer's tokens.
        before_z, during_z: The same in deviations of the model's neutral answers; None if the vector file has none.
    """

    before: float
    during: float
    before_z: float | None
    during_z: float | None


@dataclass(frozen=True)
class AnswerTokens:
    """A conversation's answers as tokens.

    Attributes:
        turns: Places of the k answers among the messages.
        sequences: Tokens with two spans for each answer, k answers over all sequences: the last prompt token, and the
            answer.
    """

    turns: list[int]
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
    turns, sequences = answers(messages), []
    for conversation in model.template.conversations(messages, turns, tools):
        model.check_fits(len(conversation.ids), 0)
        pairs = zip(conversation.prompts, conversation.spans, strict=True)
        spans = [span for prompt, during in pairs for span in ((max(prompt - 1, 0), max(prompt, 1)), during)]
        sequences.append(Conversation(conversation.ids, spans))
    return AnswerTokens(turns, sequences)


def project_answers(
    model: ChatModel, conversations: Sequence[AnswerTokens], vectors: Sequence[PersonaVector]
) -> list[list[dict[str, Projection]]]:
    """Per conversation, per answer: {name of the trait: Projection}; none for an empty answer."""
    sequences = [sequence for conversation in conversations for sequence in conversation.sequences]
    layers = sorted({vector.layer for vector in vectors})
    directions = torch.stack([torch.stack([v.unit(layer) for v in vectors]) for layer in layers])
    means = read(model, sequences, layers=layers, directions=directions).means.view(-1, 2, len(layers), len(vectors))
    at = torch.tensor([layers.index(vector.layer) for vector in vectors])
    values = iter(means[:, :, at, torch.arange(len(vectors))].tolist())  # of each answer: before and during, by vector
    return [
        [_along(vectors, before, during) for before, during in islice(values, len(conversation.turns))]
        for conversation in conversations
    ]


def _along(vectors: Sequence[PersonaVector], before: Sequence[float], during: Sequence[float]) -> dict[str, Projection]:
    """Of one answer, each side by vector."""
    return {
        vector.trait: Projection(start, mean, _z(vector, start, prompt=True), _z(vector, mean, prompt=False))
        for vector, start, mean in zip(vectors, before, during, strict=True)
        if mean == mean  # an empty answer has no mean
    }


def _z(vector: PersonaVector, value: float, *, prompt: bool) -> float | None:
    try:
        mean, deviation = vector.neutral(vector.layer, of="prompt" if prompt else "answer")
    except UserError:
        return None
    return round((value - mean) / deviation, 4) if deviation > 0 else None
