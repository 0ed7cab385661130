"""What a monitoring run leaves behind: run.json, and the lines of projections.jsonl and rejected.jsonl."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from personavec.results import Number, Result, Run

Moment = Literal["before", "during"]


class WatchedTurn(Result):
    """One answer along every vector; nothing along any for an empty answer.

    Attributes:
        index: Which of the assistant's messages it is, from 0.
        role: Who speaks.
        text: Its beginning.
        before: By trait, the last prompt token's projection in deviations of the neutral answers' prompts; None: the
            vector's file has none.
        during: By trait, that of the mean over the answer's tokens in deviations of neutral answers; None: as before.
        highest: By trait, that of the highest mean of 16 tokens in a row, in the same deviations; None: as before.
        before_raw, during_raw, highest_raw: The same projections in units of the residual stream.
    """

    index: int
    role: Literal["assistant"]
    text: str
    before: dict[str, Number | None]
    during: dict[str, Number | None]
    highest: dict[str, Number | None]
    before_raw: dict[str, Number]
    during_raw: dict[str, Number]
    highest_raw: dict[str, Number]

    def along(self, trait: str, moment: Moment = "during", *, raw: bool = False) -> float | None:
        """The value along a trait's vector, in deviations or raw; None: there is none."""
        if moment == "before":
            return self.before_raw.get(trait) if raw else self.before.get(trait)
        return self.during_raw.get(trait) if raw else self.during.get(trait)


class WatchedConversation(Result):
    """A line of projections.jsonl.

    Attributes:
        id: What the record calls itself, else its line.
        index: Place in the whole data, counted from 0.
        line, source: Where it stands.
        turns: Its answers, without greetings and turns that only call tools.
    """

    id: str
    index: int
    line: int
    source: str
    turns: tuple[WatchedTurn, ...]


class RejectedLine(Result):
    """A line of rejected.jsonl.

    Attributes:
        index: Place in the whole data, counted from 0.
        line, source: Where the record stands.
        reason: Why nothing is read of it.
        raw: As it was read.
    """

    index: int
    line: int
    source: str
    reason: str
    raw: str


class WatchedVector(Result):
    """A persona vector that conversations are projected on.

    Attributes:
        name: Of the trait.
        layer: Where it is read.
        neutral_mean, neutral_deviation: Of the projections of neutral answers, in units of the residual stream; None:
            the vector's file has none.
    """

    name: str
    layer: int
    neutral_mean: float | None
    neutral_deviation: float | None


class Peak(Result):
    """How far the answers go along one vector.

    Attributes:
        z: The farthest above neutral, in deviations of neutral answers.
        line, source: Of its conversation.
        turn: Which of the assistant's messages it is, from 0.
        above_2: Answers that lie more than two deviations above neutral.
        turns: Answers that have a value.
    """

    z: Number
    line: int
    source: str
    turn: int
    above_2: int
    turns: int


class MonitorRun(Run):
    """What `personavec monitor` finds.

    Attributes:
        format: That the data were recognised as.
        sources: Names of the data.
        vectors: What was projected on.
        records: All of the data ("read" in the file), the sum of scored and rejected.
        scored: Conversations in projections.jsonl.
        rejected: Records in rejected.jsonl.
        largest: By trait; without those of which no neutral answers are known.
        warnings: Sentences.
    """

    COMMAND: ClassVar[str] = "monitor"
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    format: str
    sources: tuple[str, ...]
    vectors: tuple[WatchedVector, ...]
    records: int = Field(validation_alias="read", serialization_alias="read")
    scored: int
    rejected: int
    largest: dict[str, Peak]
    warnings: tuple[str, ...]
