"""Which samples are flagged, and which stand out: one pass over all of them, and what a judge adds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from personavec.screening.extremes import Extremes, farthest, select
from personavec.screening.judge import FROM
from personavec.screening.outputs import Column
from personavec.screening.table import Table
from personavec.screening.track import Track
from personavec.stats.numbers import Floats


@dataclass(frozen=True, eq=False)
class Marks:
    """Of n samples.

    Attributes:
        flags: (n,) by trait.
        instead: By trait, why samples are not flagged, by the reason: see `Track.instead`. (n,) which those are.
        extremes: By trait, the samples that may be shown for it.
        farthest: The samples farthest from clean along any trait.
        opinions: (n,) a judge's scores by trait, NaN where it gave none; empty: no judge.
    """

    flags: Mapping[str, NDArray[np.bool_]]
    instead: Mapping[str, Mapping[str, NDArray[np.bool_]]]
    extremes: Mapping[str, Extremes]
    farthest: Extremes
    opinions: Mapping[str, Floats]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """(n,) by any trait."""
        any_flag: NDArray[np.bool_] = np.logical_or.reduce(list(self.flags.values()))
        return any_flag

    def with_opinions(self, opinions: Mapping[str, Floats], *, flagging: bool) -> "Marks":
        """The same with a judge's scores; `flagging`: those above `FROM` are flagged as well."""
        flags = self.flags
        if flagging:
            flags = {trait: flag | (np.nan_to_num(opinions[trait]) > FROM) for trait, flag in flags.items()}
        return replace(self, flags=flags, opinions=opinions)


def mark(tracks: Sequence[Track], table: Table) -> Marks:
    """Flags and extremes from the scores of all samples."""
    flags = {track.trait: np.zeros(len(table), dtype=bool) for track in tracks}
    instead = {track.trait: dict[str, NDArray[np.bool_]]() for track in tracks}
    extremes = {track.trait: Extremes(partial(_selected, level=track.level)) for track in tracks}
    far = Extremes(farthest)
    for block in table.blocks():
        deviations = []
        for track in tracks:
            difference = track.data.of(block).difference
            reasons = track.instead(block, difference)
            flags[track.trait][block.rows] = (difference > track.known) & (reasons == "")
            for reason in set(reasons) - {""}:
                marked = instead[track.trait].setdefault(reason, np.zeros(len(table), dtype=bool))
                marked[block.rows] = reasons == reason
            extremes[track.trait].add(block.rows, difference)
            deviations.append(track.clean.deviations(difference))
        far.add(block.rows, np.stack(deviations, 1))
    return Marks(flags, instead, extremes, far, {})


def columns(tracks: Sequence[Track], table: Table, marks: Marks) -> Iterator[dict[str, Column]]:
    """The columns of scores.parquet, some rows at a time."""
    flagged = marks.flagged
    for block in table.blocks():
        piece: dict[str, Column] = {
            "id": block.ids, "index": block.indices, "source": block.sources, "line": block.lines,
        }  # fmt: skip
        for track in tracks:
            scores, name = track.data.of(block), track.trait
            piece |= {
                f"{name}_projection": block.measured.answers[:, track.column],
                f"{name}_prompt": block.measured.prompts[:, track.column],
                f"{name}_baseline": scores.baseline,
                f"{name}_baseline_error": scores.error,
                f"{name}_own": scores.own,
                f"{name}_difference": scores.difference,
                f"{name}_z": track.clean.deviations(scores.difference),
                f"{name}_flagged": marks.flags[name][block.rows],
            }
            if track.aspects is not None:
                piece[f"{name}_instead"] = pa.chunked_array(
                    [track.instead(block, scores.difference).tolist()], pa.string()
                )
        piece |= {f"{trait}_judge": opinion[block.rows] for trait, opinion in marks.opinions.items()}
        piece["flagged"] = flagged[block.rows]
        yield piece


def _selected(difference: Floats, level: float) -> NDArray[np.intp]:
    return np.array([row for row, _ in select(difference, level)], dtype=np.intp)
