"""From samples to numbers: what a data set's answers and the model's own answers to the same prompts project to."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from personavec.data import Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.files import to_json
from personavec.model import Conversation
from personavec.model.messages import split_thought
from personavec.projection import Turns
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.refusals import refuses
from personavec.stats.numbers import Floats


@dataclass(frozen=True)
class SampleMeasurements:
    """What was read of samples, a row each.

    A sample's figure is the mean over its turns, whatever their lengths: each turn is one answer to one prompt, the
    unit in which the projection difference is defined (paper section 6.1).

    Attributes:
        answers: (n, k) projections of the answers' mean readings.
        prompts: (n, k) projections of the last prompt token.
        answer_tokens, prompt_tokens: (n,) of all turns together; of the prompt before the first turn.
        refusals: (n,) 1 where some turn that counts refuses.
        truncated: (n,) 1 where the end of the sample did not fit the model's context.
    """

    answers: Floats
    prompts: Floats
    answer_tokens: Floats
    prompt_tokens: Floats
    refusals: Floats
    truncated: Floats


def turn_places(sample: Sample, turns: Turns) -> list[int]:
    """Where the turns that count stand in the sample's messages."""
    return sample.turns[-1:] if turns == "last" else sample.turns


def prompt_key(sample: Sample, turns: Turns) -> int:
    """A 64-bit number that samples with the same prompt share: all before the first turn that counts."""
    text = to_json([sample.messages[: turn_places(sample, turns)[0]], sample.tools])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), signed=True)


@dataclass(frozen=True)
class Tokens:
    """A sample in tokens.

    Attributes:
        conversations: With two spans for every turn: the last prompt token and the answer.
        truncated: Whether the end of the sample was cut off, because it did not fit the model's context.
    """

    conversations: list[Conversation]
    truncated: bool

    @property
    def answer_tokens(self) -> int:
        """Of all turns together."""
        return sum(end - start for conversation in self.conversations for start, end in _answer_spans(conversation))

    @property
    def prompt_tokens(self) -> int:
        """Before the first turn."""
        start, _ = _answer_spans(self.conversations[0])[0]
        return start


def _answer_spans(conversation: Conversation) -> Sequence[tuple[int, int]]:
    """Those of the answers; before each stands that of its last prompt token."""
    return conversation.spans[1::2]


class SampleReadings(NamedTuple):
    """What was read of n samples, means over their turns: (n, layers, d) readings or (n, k) projections.

    Attributes:
        prompts: At the last prompt token.
        answers: Over the answer.
    """

    prompts: Tensor
    answers: Tensor


def tokenise(engine: Engine, sample: Sample, turns: Turns, first: int | None = None) -> Tokens:
    """The sample's tokens. What does not fit the model's context is cut off from the right.

    Args:
        first: How many tokens of each answer are read; None: all.

    Raises:
        UserError: The template refuses the messages, an answer has no token, or none fits the context.
    """
    made, longest, limit = [], 0, engine.context_length
    for conversation in engine.template.conversations(sample.messages, turn_places(sample, turns), sample.tools):
        longest = max(longest, len(conversation.ids))
        spans = []
        for start, end in conversation.spans:
            if start >= end:
                raise UserError("An answer is empty once its thoughts are left out.")
            if start < limit:
                end = min(end, limit, end if first is None else start + first)
                spans += [(max(start - 1, 0), max(start, 1)), (start, end)]
        if spans:
            made.append(Conversation(conversation.ids[: limit if first is None else spans[-1][1]], spans))
    if not made:
        raise UserError(f"No answer begins within the model's context of {limit} tokens; the sample has {longest}.")
    return Tokens(made, longest > limit)


def measure(
    engine: Engine, samples: Sequence[Sample], tokens: Sequence[Tokens], panel: Panel, turns: Turns = "all"
) -> SampleMeasurements:
    """Project samples; `tokens` are theirs as `tokenise` gives them for these turns."""
    return measure_keeping(engine, samples, tokens, panel, turns, ())[0]


def measure_keeping(
    engine: Engine,
    samples: Sequence[Sample],
    tokens: Sequence[Tokens],
    panel: Panel,
    turns: Turns,
    keep: Sequence[int],
) -> tuple[SampleMeasurements, Tensor]:
    """As `measure`, and from the same forwards the readings (len(keep), layers, d) of the answers of some samples."""
    rows = np.empty((2, len(samples), len(panel.names)))
    prompts, answers = rows
    whole = torch.empty(0, len(panel.depths), panel.units.shape[1])
    if keep:
        kept = readings(engine, [tokens[at].conversations for at in keep], panel.depths)
        prompts[keep], answers[keep] = (panel.along(side).numpy() for side in kept)
        whole = kept.answers
    if rest := sorted(set(range(len(samples))) - set(keep)):
        others = [tokens[at].conversations for at in rest]
        flat = [conversation for sample in others for conversation in sample]
        values = engine.read(flat, panel.depths, panel.directions()).sum(1)  # a direction is zero elsewhere
        prompts[rest], answers[rest] = (side.numpy() for side in _per_sample(values, others))
    measured = SampleMeasurements(
        answers=answers,
        prompts=prompts,
        answer_tokens=np.array([each.answer_tokens for each in tokens], np.float64),
        prompt_tokens=np.array([each.prompt_tokens for each in tokens], np.float64),
        refusals=np.array(
            [any(refuses(split_thought(s.messages[t]["content"])[1]) for t in turn_places(s, turns)) for s in samples],
            np.float64,
        ),
        truncated=np.array([each.truncated for each in tokens], np.float64),
    )
    return measured, whole


def _per_sample(values: Tensor, tokens: Sequence[Sequence[Conversation]]) -> SampleReadings:
    """Means over the turns of each sample, of what was read (spans, ...) of all their spans."""
    means, at = [], 0
    for conversations in tokens:
        spans = sum(len(conversation.spans) for conversation in conversations)
        means.append(values[at : at + spans].view(-1, 2, *values.shape[1:]).mean(0))
        at += spans
    return SampleReadings(*torch.stack(means, 1))


def readings(engine: Engine, tokens: Sequence[Sequence[Conversation]], layers: Sequence[int]) -> SampleReadings:
    """Readings (samples, layers, d) float32 of the last prompt token and of the answer, means over the turns."""
    flat = [conversation for sample in tokens for conversation in sample]
    return _per_sample(engine.read(flat, layers), tokens)


def own_answers(engine: Engine, samples: Sequence[Sample], turns: Turns, own: OwnAnswers) -> list[list[Conversation]]:
    """The samples' turns answered by the model itself, with spans as `tokenise` gives them.

    A model that ends its answer at once (or is cut short in a thought, or has no room left in its context) has said
    nothing: that turn is left out, and a sample without any turn comes back empty.
    """
    room = engine.context_length - own.max_new_tokens
    prompts = [
        [
            ids
            for turn in turn_places(sample, turns)
            if len(ids := engine.template.prompt_ids(sample.messages[:turn], sample.tools)) <= room
        ]
        for sample in samples
    ]
    given = iter(own([prompt for mine in prompts for prompt in mine]))
    made: list[list[Conversation]] = []
    for mine in prompts:
        made.append([])
        for prompt in mine:
            ids = [*prompt, *next(given)]
            start = len(prompt) + engine.template.response_start(ids[len(prompt) :])
            if start < len(ids):
                made[-1].append(Conversation(ids, [(len(prompt) - 1, len(prompt)), (start, len(ids))]))
    return made
