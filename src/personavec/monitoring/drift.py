"""How conversations move along the vectors: what is worth showing of a monitoring run, and its plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from personavec.monitoring.result import Moment, WatchedConversation, WatchedVector
from personavec.report.drawing import GOOD, LINE, MARKERS, MUTED, SERIES, Plot, in_rows, label, plot
from personavec.report.words import number
from personavec.stats.estimate import Estimate

BAND = 2.0  # deviations around neutral that are unremarkable
SHOWN = 50  # conversations drawn
FARTHEST = 20  # answers in the table of the farthest
FEWEST = 5  # conversations behind a point of the average drift
MOMENTS: tuple[tuple[Moment, str], ...] = (("during", "while answering"), ("before", "just before answering"))


@dataclass(frozen=True)
class Scale:
    """What the vertical axes show: deviations from neutral, or raw projections where no vector knows its neutral.

    Attributes:
        vectors: Names of the vectors that can be shown on it.
        left_out: Names of those that cannot.
        neutral_known: Whether it shows deviations.
    """

    vectors: list[str]
    left_out: list[str]
    neutral_known: bool

    @classmethod
    def of(cls, vectors: Sequence[WatchedVector]) -> "Scale":
        """What these vectors can be shown on."""
        names = [vector.name for vector in vectors]
        known = [vector.name for vector in vectors if vector.neutral_deviation]
        if known:
            return cls(known, [name for name in names if name not in known], True)
        return cls(names, [], False)

    @property
    def unit(self) -> str:
        """For axes."""
        return "deviations from neutral" if self.neutral_known else "projection, residual units"

    @property
    def key(self) -> list[tuple[str, str, str]]:
        """Marker, name of its colour, and name of every vector."""
        places = range(len(self.vectors))
        return [
            (list(MARKERS.values())[i % len(MARKERS)], f"series-{i % len(SERIES) + 1}", self.vectors[i]) for i in places
        ]

    def series(self, conversation: WatchedConversation, vector: str, moment: Moment = "during") -> list[float]:
        """One value per answer; NaN where there is none."""
        values = (turn.along(vector, moment, raw=not self.neutral_known) for turn in conversation.turns)
        return [float("nan") if value is None else value for value in values]

    def drift(self, conversation: WatchedConversation) -> float:
        """How far the conversation moves along any vector: largest minus smallest value, 0 (neutral) included."""
        reach = 0.0
        for vector in self.vectors:
            values = [v for v in self.series(conversation, vector) if v == v]
            if values:
                start = 0.0 if self.neutral_known else values[0]
                reach = max(reach, max(*values, start) - min(*values, start))
        return reach


@dataclass(frozen=True)
class Overview:
    """One vector over all conversations.

    Attributes:
        name: Of the vector.
        mean: Over conversations, of the mean over their answers.
        above: Conversations that leave the band upwards.
        share: The same in percent.
        highest: The highest value of an answer.
        line, source, answer: Where that is; answers are counted from 1.
    """

    name: str
    mean: Estimate
    above: int
    share: Estimate
    highest: float
    line: int
    source: str
    answer: int


@dataclass(frozen=True)
class FarAnswer:
    """An answer far from zero along a vector.

    Attributes:
        vector: Its name.
        value: On the scale.
        line, source, answer: Where it is; answers are counted from 1.
        text: Its beginning.
    """

    vector: str
    value: float
    line: int
    source: str
    answer: int
    text: str


def largest(scale: Scale, conversations: Sequence[WatchedConversation]) -> list[WatchedConversation]:
    """The conversations that are drawn, the one that drifts most first."""
    return sorted(conversations, key=lambda each: (-scale.drift(each), each.line))[:SHOWN]


def overview(scale: Scale, conversations: Sequence[WatchedConversation]) -> list[Overview]:
    """A row per vector that has values."""
    rows = []
    for vector in scale.vectors:
        series = [(each, values) for each in conversations if (values := _finite(scale.series(each, vector)))]
        if not series:
            continue
        highest, at = max(((max(values), each) for each, values in series), key=lambda pair: pair[0])
        turn = next(t for t, v in zip(at.turns, scale.series(at, vector), strict=True) if v == highest)
        above = sum(1 for _, values in series if max(values) > BAND)
        rows.append(
            Overview(
                name=vector,
                mean=mean([float(np.mean(values)) for _, values in series]),
                above=above,
                share=percentage(above, len(series)),
                highest=highest,
                line=at.line,
                source=at.source,
                answer=turn.index + 1,
            )
        )
    return rows


def farthest(scale: Scale, conversations: Sequence[WatchedConversation]) -> list[FarAnswer]:
    """The answers farthest from zero along any vector, in either direction; an answer has one row per vector."""
    rows = [
        FarAnswer(vector, value, each.line, each.source, turn.index + 1, turn.text)
        for each in conversations
        for vector in scale.vectors
        for turn, value in zip(each.turns, scale.series(each, vector), strict=True)
        if value == value
    ]
    return sorted(rows, key=lambda row: (-abs(row.value), row.line, row.answer))[:FARTHEST]


def mean(values: Sequence[float]) -> Estimate:
    """Mean of one value per conversation, with the interval of Student's t; a single value is its own interval."""
    middle, n = float(np.mean(values)), len(values)
    half = 0.0 if n == 1 else float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Estimate(middle, middle - half, middle + half, n)


def percentage(count: int, n: int) -> Estimate:
    """A share in percent with Wilson's interval."""
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    return Estimate(100 * count / n, 100 * float(interval.low), 100 * float(interval.high), n)


def spread(scale: Scale, conversations: Sequence[WatchedConversation]) -> Plot | None:
    """Where the answers of all conversations lie along each vector."""
    rows = [
        (vector, values)
        for vector in scale.vectors
        if (values := _finite([v for c in conversations for v in scale.series(c, vector)]))
    ]
    if not rows:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if scale.neutral_known:
            axes.axvspan(-BAND, BAND, color=GOOD, alpha=0.13)
        for row, (vector, values) in enumerate(rows):
            colour = _colour(scale, vector)
            low, first, middle, third, high = np.percentile(values, [2.5, 25, 50, 75, 97.5])
            axes.plot([low, high], [row, row], color=colour, linewidth=1.5)
            axes.plot([first, third], [row, row], color=colour, linewidth=8, solid_capstyle="butt", alpha=0.6)
            axes.plot(middle, row, "o", color=colour, markersize=7)
            axes.plot([min(values), max(values)], [row, row], "|", color=colour, markersize=9)
        in_rows(axes, [label(vector) for vector, _ in rows], scale.unit, room=0.6)

    words = "; ".join(
        f"{vector}: median {number(float(np.median(values)), 1)}, from {number(min(values), 1)} to "
        f"{number(max(values), 1)}, {len(values)} answers"
        for vector, values in rows
    )
    return plot(
        "spread",
        "Where all answers lie",
        "For each vector, the dot is the middle answer, the thick bar holds half of the answers, the thin line 95 %, "
        f"and the ticks are the extremes{'; the green area is ordinary here' if scale.neutral_known else ''}.",
        words,
        paint,
        height=85 + 34 * len(rows),
    )


def average(scale: Scale, conversations: Sequence[WatchedConversation]) -> Plot | None:
    """Mean over conversations by answer number, where enough conversations are that long."""
    curves: dict[str, list[Estimate]] = {}
    for vector in scale.vectors:
        table = [scale.series(c, vector) for c in conversations]
        by_turn = [_finite([s[i] for s in table if i < len(s)]) for i in range(max(map(len, table), default=0))]
        curves[vector] = []
        for values in by_turn:
            if len(values) < FEWEST:
                break
            curves[vector].append(mean(values))
    length = max(map(len, curves.values()), default=0)
    if length < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _neutral(axes, scale)
        for vector, points in curves.items():
            x = range(1, len(points) + 1)
            axes.plot(x, [p.mean for p in points], **_line(scale, vector, len(points)))
            axes.fill_between(
                x, [p.low for p in points], [p.high for p in points], color=_colour(scale, vector), alpha=0.15
            )
        _answer_axis(axes, length)
        axes.set_ylabel(scale.unit)

    return plot(
        "average",
        "The average conversation",
        "Each line is the mean over all conversations that have so many answers, with its 95 % interval: a line that "
        "climbs or falls from left to right is drift.",
        "; ".join(
            f"{vector}: from {number(points[0].mean, 1)} (n = {points[0].n}) to {number(points[-1].mean, 1)} "
            f"(n = {points[-1].n})"
            for vector, points in curves.items()
            if points
        ),
        paint,
        height=290,
    )


def conversation_plot(scale: Scale, conversation: WatchedConversation, position: int) -> Plot:
    """One conversation, answer by answer: while the answers were written, and just before."""
    turns = [turn.index + 1 for turn in conversation.turns]

    def paint(figure: Figure) -> None:
        many = figure.subplots(2, 1, sharex=True, sharey=True)
        figure.subplots_adjust(left=0.14, right=0.99, top=0.93, bottom=0.15, hspace=0.24)
        for axes, (moment, text) in zip(many, MOMENTS, strict=True):
            _neutral(axes, scale)
            for vector in scale.vectors:
                axes.plot(turns, scale.series(conversation, vector, moment), **_line(scale, vector, len(turns)))
            axes.set_title(text)
        if scale.neutral_known:
            low, high = many[0].get_ylim()
            many[0].set_ylim(min(low, -BAND - 0.5), max(high, BAND + 0.5))
            many[0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        _answer_axis(many[-1], max(turns))
        figure.supylabel(scale.unit, fontsize=11.5, color=MUTED)

    words = "; ".join(
        f"{vector}: from {number(values[0], 1)} to {number(values[-1], 1)}, highest {number(max(values), 1)}"
        for vector in scale.vectors
        if (values := _finite(scale.series(conversation, vector)))
    )
    return plot(f"drift-{position}", f"Line {conversation.line}", "", words, paint, height=280, layout=None)


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if v == v]


def _colour(scale: Scale, vector: str) -> str:
    return SERIES[scale.vectors.index(vector) % len(SERIES)]


def _line(scale: Scale, vector: str, points: int) -> dict[str, Any]:
    """Colour and marker of a vector; past the palette, dashes. Markers thin out in long conversations."""
    place = scale.vectors.index(vector)
    return {
        "color": _colour(scale, vector),
        "marker": list(MARKERS)[place % len(MARKERS)],
        "linestyle": "-" if place < len(SERIES) else "--",
        "markeredgewidth": 0,
        "markevery": max(1, points // 20),
    }


def _neutral(axes: Any, scale: Scale) -> None:
    if scale.neutral_known:
        axes.axhspan(-BAND, BAND, color=GOOD, alpha=0.13)
        axes.axhline(0, color=LINE)


def _answer_axis(axes: Any, last: int) -> None:
    step = max(1, -(-last // 10))
    axes.set_xticks(range(step if step > 1 else 1, last + 1, step))
    axes.set_xlim(0.6, last + 0.4)
    axes.set_xlabel("answer of the assistant (1 = first)")
