"""Samples for people to look at, with the tokens that carry the projection."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.model import Conversation
from personavec.projection import Turns
from personavec.projection.measure import tokenise, turn_places
from personavec.projection.panel import Panel
from personavec.screening.axis import panel_of
from personavec.screening.extremes import farthest, select
from personavec.screening.lookup import Lookup
from personavec.screening.marks import Marks
from personavec.screening.result import Histogram, ListedSample, SampleViews, Standing, TokenExample
from personavec.screening.table import Table
from personavec.screening.track import Track
from personavec.stats.numbers import Floats

TOKENS = 220  # of an answer that are shown one by one
TEXT = 280  # characters of a text in the table
BINS = 40


def histogram(data: ArrayLike, clean: ArrayLike) -> Histogram:
    """Shares of samples per bin over the range that holds 99.8 % of both."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (data, clean))
    low, high = np.percentile(np.concatenate([a, b]), [0.1, 99.9])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    ours, theirs = (np.histogram(np.clip(x, low, high), edges)[0] / len(x) for x in (a, b))
    return Histogram(edges=edges.round(5).tolist(), data=ours.round(6).tolist(), clean=theirs.round(6).tolist())


class _Pick(NamedTuple):
    """A row that is shown for a trait, and where it stands along it."""

    track: Track
    row: int
    place: Standing


class _Rows:
    """Some rows of a data set, read again from its files."""

    def __init__(self, data: Dataset, table: Table, tracks: Sequence[Track], rows: Iterable[int]) -> None:
        block = table.take(sorted(set(rows)))
        samples = Lookup(data)(block.indices.tolist())
        order = block.rows.tolist()
        self.samples = {row: samples[index] for row, index in zip(order, block.indices.tolist(), strict=True)}
        self.difference: dict[str, dict[int, float]] = {}
        self.z: dict[str, dict[int, float]] = {}
        for track in tracks:
            difference = track.data.of(block).difference
            z = track.clean.deviations(difference)
            self.difference[track.trait] = dict(zip(order, difference.tolist(), strict=True))
            self.z[track.trait] = dict(zip(order, z.tolist(), strict=True))
        self._single = len(data.sources) == 1

    def where(self, row: int) -> str:
        """File and line; the line alone where there is one file."""
        sample = self.samples[row]
        line = f"line {sample.line}"
        return line if self._single else f"{Path(sample.source).name}, {line}"


def sample_views(
    engine: Engine, data: Dataset, table: Table, tracks: Sequence[Track], marks: Marks, turns: Turns
) -> SampleViews:
    """What the page shows of single samples."""
    picks = [
        _Pick(track, int(extremes.rows[at]), place)
        for track in tracks
        for extremes in (marks.extremes[track.trait],)
        for at, place in select(extremes.values, track.level)
    ]
    listed = [int(marks.farthest.rows[at]) for at in farthest(marks.farthest.values)]
    rows = _Rows(data, table, tracks, [*listed, *(pick.row for pick in picks)])
    texts = {row: _texts(sample, turns) for row, sample in rows.samples.items()}
    pieces = tokens(
        engine,
        [rows.samples[pick.row] for pick in picks],
        panel_of([track.axis for track in tracks]),
        [pick.track.column for pick in picks],
        turns,
    )
    examples: dict[str, list[TokenExample]] = {track.trait: [] for track in tracks}
    for (track, row, place), text in zip(picks, pieces, strict=True):
        trait = track.trait
        examples[trait].append(
            TokenExample(
                place=place,
                where=rows.where(row),
                difference=rows.difference[trait][row],
                z=rows.z[trait][row],
                flagged=bool(marks.flags[trait][row]),
                asked=texts[row].asked,
                tokens=text,
            )
        )
    flagged = marks.flagged
    return SampleViews(
        histograms={track.trait: histogram(track.data.some, track.clean.some) for track in tracks},
        examples=examples,
        rows=[
            ListedSample(
                where=rows.where(row),
                asked=texts[row].asked,
                answered=texts[row].answered,
                flagged=bool(flagged[row]),
                z={trait: z[row] for trait, z in rows.z.items()},
            )
            for row in listed
        ],
    )


class _Shown(NamedTuple):
    """The beginning of an answer, the direction it is shown for, and the projection of each of its tokens."""

    conversation: Conversation
    column: int
    values: Floats


def tokens(
    engine: Engine, samples: Sequence[Sample], panel: Panel, columns: Sequence[int], turns: Turns
) -> list[list[tuple[str, float]]]:
    """The beginning of each sample's last answer, token by token, with its projection in deviations of these tokens.

    Args:
        columns: Which of the panel's directions each sample is shown for.
    """
    conversations = []
    for sample in samples:
        conversation = tokenise(engine, sample, turns).conversations[-1]
        start, end = conversation.spans[-1]
        end = min(end, start + TOKENS)
        conversations.append(Conversation(conversation.ids[:end], [(t, t + 1) for t in range(start, end)]))
    if not conversations:
        return []
    values = engine.read(conversations, panel.depths, panel.directions()).sum(1).double().numpy()
    shown: list[_Shown] = []
    at = 0
    for conversation, column in zip(conversations, columns, strict=True):
        shown.append(_Shown(conversation, column, values[at : at + len(conversation.spans), column]))
        at += len(conversation.spans)
    result = []
    for answer in shown:
        together = np.concatenate([other.values for other in shown if other.column == answer.column])
        start, _ = answer.conversation.spans[0]
        spread = together.std() or 1.0
        result.append(_pieces(engine, answer.conversation.ids[start:], (answer.values - together.mean()) / spread))
    return result


def _pieces(engine: Engine, ids: Sequence[int], values: Floats) -> list[tuple[str, float]]:
    """Text with values; tokens that hold only a part of a character are shown with those that complete it."""
    pieces: list[tuple[str, float]] = []
    held: list[int] = []
    for index, token in enumerate(ids):
        held.append(token)
        text = engine.template.tokenizer.decode(held)
        if "\ufffd" in text and len(held) < 5 and index + 1 < len(ids):
            continue
        pieces.append((text, round(float(values[index - len(held) + 1 : index + 1].mean()), 2)))
        held = []
    return pieces


class _Texts(NamedTuple):
    asked: str
    answered: str


def _texts(sample: Sample, turns: Turns) -> _Texts:
    """The beginnings of what was asked last and of what was answered."""
    turn = turn_places(sample, turns)[-1]
    asked = next((m["content"] for m in reversed(sample.messages[:turn]) if m.get("content")), "")
    return _Texts(_short(asked), _short(sample.messages[turn]["content"]))


def _short(text: str) -> str:
    clean = " ".join(text.split())
    return clean if len(clean) <= TEXT else clean[: TEXT - 1] + "…"
