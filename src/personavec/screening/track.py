"""One trait of a screening once everything is read: its axis, the scores along it, and the threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personavec.screening.against import unseen_level
from personavec.screening.axis import Axis, panel_of, scene_columns
from personavec.screening.differences import Differences, ScoredScan
from personavec.screening.reader import DataScan
from personavec.screening.settings import ScreenSettings
from personavec.screening.table import Block
from personavec.screening.threshold import Threshold, raised, threshold, with_error
from personavec.stats.numbers import Floats

UNKNOWN = "unknown domain"


@dataclass(frozen=True, eq=False)
class Track:
    """One trait of a screening.

    Attributes:
        axis: Its vector, direction, rivals and treatment.
        column: Of the direction among the projections.
        depth: Place of the direction's layer among the layers that were read.
        data, clean: Scores of the data's and of the clean reference's samples.
        looks: How many looks the data's interval must hold for together.
        threshold: From the reference; None: the level was given.
        level: Projection difference above which a sample is flagged.
        known: The same for samples that lie nearest to a clean domain that the user gave. Others between it and the
            level may be of a domain that the bank lacks.
        rivals: Scores of the data and of the clean reference along the directions of other known traits, by name: a
            sample is flagged only where none of them reads higher.
        aspects: The columns of `Familiar.axes` where the axis has a scene.
    """

    axis: Axis
    column: int
    depth: int
    data: Differences
    clean: Differences
    looks: int
    threshold: Threshold | None
    level: float
    known: float
    rivals: Mapping[str, tuple[Differences, Differences]]
    aspects: slice | None

    @property
    def trait(self) -> str:
        """Its name."""
        return self.axis.trait

    def instead(self, block: Block, difference: Floats) -> NDArray[np.object_]:
        """(n,) why samples are not flagged whatever their difference: "" where they may be.

        That is the other trait along which a sample that lies above `known` reads higher, in deviations of the clean
        reference; else, where that is not enough, `UNKNOWN`, as where it is like no domain of the bank.
        """
        found = np.full(len(block), "", dtype=object)
        if self.aspects is None or self.axis.scene is None:
            return found
        own = self.clean.deviations(difference)
        others = [clean.deviations(data.of(block).difference) for data, clean in self.rivals.values()]
        table = np.stack([own, *others], 1)
        highest = table.argmax(1)
        names = np.array(["", *self.rivals], dtype=object)
        above = difference > self.known
        found[above] = names[highest[above]]
        along, familiar = block.measured.answers[:, self.aspects], self.axis.scene.familiar
        found[above & (found == "") & (difference <= self.level) & ~familiar.near_given(along)] = UNKNOWN
        found[familiar.outside(along)] = UNKNOWN
        return found


def tracks(axes: Sequence[Axis], data: DataScan, clean: ScoredScan, settings: ScreenSettings) -> list[Track]:
    """A track for each axis.

    Raises:
        UserError: See `threshold`.
    """
    depths, starts = panel_of(axes).depths, scene_columns(axes)

    def rivals(axis: Axis) -> dict[str, int]:
        """Columns of what a sample may be told to be instead."""
        if axis.scene is None:
            return {}
        known = {name: starts[axis.vector.layer] + k for k, name in enumerate(axis.scene.traits)}
        others = {other.trait: k for k, other in enumerate(axes) if other.trait not in known}
        return {name: column for name, column in {**known, **others}.items() if name != axis.trait}

    def aspects(axis: Axis) -> slice | None:
        if axis.scene is None:
            return None
        start = starts[axis.vector.layer] + len(axis.scene.traits)
        return slice(start, start + len(axis.scene.familiar.axes))

    def track(column: int, axis: Axis) -> Track:
        ours, theirs = data.scored.along[column], clean.along[column]
        limit, level, known = None, settings.threshold, settings.threshold
        if level is None or known is None:
            limit = threshold(theirs.some, settings.false_alarm_rate)
            known = limit.value
            limit = with_error(limit, theirs.some, math.hypot(ours.common_error, theirs.common_error))
            level = max(known, theirs.level(unseen_level(axis, settings.false_alarm_rate))) if axis.left_out else known
            if axis.scene is not None:
                block = clean.scan.survey.some
                near = axis.scene.familiar.near_given(block.measured.answers[:, aspects(axis)])
                limit = raised(limit, level, int((theirs.some > np.where(near, known, level)).sum()))
        return Track(
            axis, column, depths.index(axis.vector.layer), ours, theirs, data.looks[column], limit, level, known,
            {name: (data.scored.along[k], clean.along[k]) for name, k in rivals(axis).items()}, aspects(axis),
        )  # fmt: skip

    return [track(column, axis) for column, axis in enumerate(axes)]
