"""One trait of a screening once everything is read: its axis, the scores along it, and the threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from personavec.screening.axis import Axis, panel_of
from personavec.screening.differences import Differences, ScoredScan
from personavec.screening.reader import DataScan
from personavec.screening.settings import Settings
from personavec.screening.threshold import Threshold, threshold, with_error


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
    """

    axis: Axis
    column: int
    depth: int
    data: Differences
    clean: Differences
    looks: int
    threshold: Threshold | None
    level: float

    @property
    def trait(self) -> str:
        """Its name."""
        return self.axis.trait


def tracks(axes: Sequence[Axis], data: DataScan, clean: ScoredScan, settings: Settings) -> list[Track]:
    """A track for each axis.

    Raises:
        UserError: See `threshold`.
    """
    depths = panel_of(axes).depths

    def track(column: int, axis: Axis) -> Track:
        ours, theirs = data.scored.along[column], clean.along[column]
        limit = None
        level = settings.threshold
        if level is None:
            error = math.hypot(ours.common_error, theirs.common_error)
            limit = with_error(threshold(theirs.some, settings.false_alarm_rate), theirs.some, error)
            level = limit.value
        return Track(
            axis, column, depths.index(axis.vector.layer), ours, theirs, data.looks[column], limit, float(level)
        )

    return [track(column, axis) for column, axis in enumerate(axes)]
