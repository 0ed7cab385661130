"""Samples for people to look at, with the tokens that carry the projection."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.model import Conversation
from personavec.projection.measure import Turns, chosen, tokenise
from personavec.projection.panel import Panel
from personavec.stats.numbers import Floats

TOP, NEAR, BOTTOM = 6, 3, 3  # samples per trait at the top, at the threshold, at the bottom
LISTED = 300  # rows of the table, those that are farthest from clean along any trait
TOKENS = 220  # of an answer that are shown one by one
TEXT = 280  # characters of a text in the table


class Standing:
    """Rows of a stream that stand out: as many as are shown, whatever the number of rows that come.

    Args:
        choose: From values (n, ...), the indices of those that stand out among them, such as `select` and `listed`; it
            chooses the same where those that it does not choose are missing.

    Attributes:
        rows, values: Those that stand out so far, in the order of the stream.
    """

    def __init__(self, choose: Callable[[Floats], NDArray[np.intp]]) -> None:
        self._choose = choose
        self.rows: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self.values: Floats = np.zeros(0)

    def add(self, rows: NDArray[np.intp], values: Floats) -> None:
        """Look at more rows (n,) with values (n, ...)."""
        if len(self.rows):
            rows, values = np.concatenate([self.rows, rows]), np.concatenate([self.values, values])
        at = np.sort(self._choose(values))
        self.rows, self.values = rows[at], values[at]


def select(difference: Floats, threshold: float) -> list[tuple[int, str]]:
    """Rows to show and where they stand: "top", "threshold" or "bottom"; each row once."""
    order = np.argsort(-difference, kind="stable")
    near = np.argsort(np.abs(difference - threshold), kind="stable") if np.isfinite(threshold) else order[:0]
    places: dict[int, str] = {}
    for rows, count, place in ((order, TOP, "top"), (order[::-1], BOTTOM, "bottom"), (near, NEAR, "threshold")):
        free = [int(row) for row in rows[: count + len(places)] if int(row) not in places]
        places |= dict.fromkeys(free[:count], place)
    rank = {"top": 0, "threshold": 1, "bottom": 2}
    return sorted(places.items(), key=lambda item: (rank[item[1]], -difference[item[0]]))


def find(data: Dataset, indices: Sequence[int]) -> dict[int, Sample]:
    """The samples with some indices, in one pass over the data."""
    wanted, found = set(indices), {}
    for record in data:
        if isinstance(record, Sample) and record.index in wanted:
            found[record.index] = record
            if len(found) == len(wanted):
                break
    return found


def tokens(
    engine: Engine, samples: Sequence[Sample], panel: Panel, along: Sequence[int], turns: Turns
) -> list[list[tuple[str, float]]]:
    """The beginning of each sample's last answer, token by token, with its projection in deviations of these tokens.

    Args:
        along: Which of the panel's directions each sample is shown for.
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
    result, at = [], 0
    for conversation, k in zip(conversations, along, strict=True):
        mine = values[at : at + len(conversation.spans), k]
        at += len(conversation.spans)
        result.append((conversation, k, mine))
    shown = []
    for conversation, k, mine in result:
        rivals = np.concatenate([other for _, direction, other in result if direction == k])
        spread = rivals.std() or 1.0
        ids = conversation.ids[conversation.spans[0][0] :]
        shown.append(_pieces(engine, ids, (mine - rivals.mean()) / spread))
    return shown


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


def texts(sample: Sample, turns: Turns) -> dict[str, Any]:
    """The beginnings of what was asked last and of what was answered."""
    turn = chosen(sample, turns)[-1]
    asked = next((m["content"] for m in reversed(sample.messages[:turn]) if m.get("content")), "")
    return {"asked": _short(asked), "answered": _short(sample.messages[turn]["content"])}


def _short(text: str) -> str:
    clean = " ".join(text.split())
    return clean if len(clean) <= TEXT else clean[: TEXT - 1] + "…"


def listed(z: Floats) -> NDArray[np.intp]:
    """Rows of the table, from z-scores (n, traits): the farthest along any trait first."""
    rows: NDArray[np.intp] = np.argsort(-np.abs(z).max(1), kind="stable")[:LISTED]
    return rows
