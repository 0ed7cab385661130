"""What limits are calibrated for."""

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc

from personavec.errors import UserError, check_least


@dataclass(frozen=True)
class WatchSettings:
    """What limits are calibrated for.

    Raises:
        UserError: Naming the field and what it may be.
    """

    rate: Annotated[float, Doc("False alarms among normal answers, and among normal conversations.")] = 0.01
    doubt: Annotated[float, Doc("Share of normal answers that either reading calls doubtful.")] = 0.1
    traffic_rate: Annotated[float, Doc("Chance of a false alarm over the whole traffic, within the horizon.")] = 0.05
    horizon: Annotated[
        int | None, Doc("Conversations that this chance is for. Default: as many as are in the log.")
    ] = None
    draws: Annotated[int, Doc("Resampled traffics behind the limit over the whole traffic.")] = 1000
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        for name in ("rate", "doubt", "traffic_rate"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise UserError(f"`{name}` {value:g} is not usable.", "Give a share between 0 and 1, such as 0.01.")
        if self.doubt < self.rate:
            raise UserError(
                f"`doubt` {self.doubt:g} is below `rate` {self.rate:g}.",
                "Doubt begins before alarm: give a larger one.",
            )
        check_least(self, draws=99, seed=0)
        if self.horizon is not None:
            check_least(self, horizon=1)
