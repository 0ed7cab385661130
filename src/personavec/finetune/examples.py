"""What is trained on: token ids and labels of every sample, with loss on the assistant's tokens only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personavec.data import Dataset, Rejected, Sample
from personavec.errors import UserError
from personavec.finetune.instructions import with_system
from personavec.likelihood import IGNORED
from personavec.model import ChatModel, Conversation
from personavec.progress import progress
from personavec.stats.sampling import priority


@dataclass(frozen=True)
class TrainingSequence:
    """One sequence to be trained on.

    Attributes:
        id: Of the sample it was made of.
        ids, labels: Token ids, and the same where a token bears loss, `IGNORED` elsewhere.
        cut: Whether its end was cut off.
    """

    id: str
    ids: list[int]
    labels: list[int]
    cut: bool

    @property
    def tokens(self) -> int:
        """How many of its tokens bear loss; the first has nothing to be predicted from."""
        return sum(label != IGNORED for label in self.labels[1:])

    @property
    def start(self) -> int:
        """Where its first response begins: its first token that bears loss."""
        return next(at for at, label in enumerate(self.labels) if label != IGNORED)


class Encoder:
    """Makes examples of samples.

    A response bears loss from the first token that the model itself would write up to and including the end of the
    turn. A thought that stands in the data bears loss too. All else is context: system and user messages, tools and
    their results, assistant turns that the data do not train on.

    Args:
        model: Whose template and tokenizer are used.
        max_length: Tokens of the longest sequence; longer ones lose their end.
    """

    def __init__(self, model: ChatModel, max_length: int) -> None:
        self.template, self.max_length = model.template, max_length
        self.stops = model.stop_ids
        self.end = model.template.turn_end(self.stops)

    def __call__(self, sample: Sample, system: str | None = None) -> list[TrainingSequence]:
        """The sample's examples: one, or one per turn where the template rewrites or does not end earlier turns.

        Args:
            system: A system prompt that goes before everything.

        Raises:
            UserError: The template refuses the messages, or no token is left to be trained on.
        """
        messages = sample.messages if system is None else with_system(sample.messages, system)
        turns = [turn + len(messages) - len(sample.messages) for turn in sample.turns]
        said = [messages[turn] for turn in turns]
        conversations = self.template.conversations(messages, turns, sample.tools)
        if len(conversations) < len(turns) and not self._end_all(conversations[0], said):
            conversations = [c for turn in turns for c in self.template.conversations(messages, [turn], sample.tools)]
        made, at = [], 0
        for conversation in conversations:
            count = len(conversation.spans)
            made.append(self._example(sample.id, conversation, said[at : at + count]))
            at += count
        learning = [example for example in made if example.tokens]
        if not learning:
            raise UserError(
                f"no response begins within the first {self.max_length} tokens"
                if any(example.cut for example in made)
                else "no response has a token to be trained on"
            )
        return learning

    def _example(self, id: str, conversation: Conversation, said: Sequence[Any]) -> TrainingSequence:
        ids = list(conversation.ids)
        # A turn that calls tools does not end where its text does.
        if said[-1].get("tool_calls") is None:
            ids += self.end
        labels = [IGNORED] * len(ids)
        for (_, end), first in zip(conversation.spans, conversation.written, strict=True):
            last = end + self._ends(ids[end:])
            labels[first:last] = ids[first:last]
        return TrainingSequence(id, ids[: self.max_length], labels[: self.max_length], len(ids) > self.max_length)

    def _end_all(self, conversation: Conversation, said: Sequence[Any]) -> bool:
        """Whether all turns but the last end as a turn of the model's own does; those that call tools need not."""
        ends = [end for _, end in conversation.spans[:-1]]
        turns = zip(ends, said, strict=False)
        return all(message.get("tool_calls") or self._ends(conversation.ids[end:]) for end, message in turns)

    def _ends(self, after: Sequence[int]) -> int:
        """How many of the tokens after a response end its turn."""
        if self.end and list(after[: len(self.end)]) == self.end:
            return len(self.end)
        return int(bool(after) and after[0] in self.stops)  # a mark that opens the next turn and so ends this one


@dataclass(frozen=True)
class Samples:
    """The samples of a data set that can be trained on, and the records that cannot.

    Attributes:
        samples, examples: One list of examples for each sample.
        rejected: Every other record.
    """

    samples: list[Sample]
    examples: list[list[TrainingSequence]]
    rejected: list[Rejected]


def read_samples(encoder: Encoder, data: Dataset, name: str = "the data") -> Samples:
    """Read and tokenise a data set."""
    found = Samples([], [], [])
    with progress(f"Reading {name}", total=data.total, unit="records") as job:
        for record in data:
            job.advance()
            if isinstance(record, Rejected):
                found.rejected.append(record)
                continue
            try:
                found.examples.append(encoder(record))
                found.samples.append(record)
            except UserError as error:
                found.rejected.append(record.rejected(error.problem))
    return found


def held_out(samples: Sequence[Sample], share: float, most: int, seed: int) -> set[str]:
    """Ids of the samples that are not trained on: a random part that depends on their contents and the seed alone.

    All copies of a sample stay on one side.
    """
    ids = sorted({sample.id for sample in samples})
    count = min(most, round(share * len(ids)), len(ids) - 1)
    if count < 1:
        return set()
    order = np.argsort([priority(id, 0, seed) for id in ids], kind="stable")
    return {ids[at] for at in order[:count]}
