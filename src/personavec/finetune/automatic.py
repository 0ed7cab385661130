"""A coefficient for preventative steering that is chosen while the model is trained, by the shift that is watched."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list

from personavec.errors import UserError
from personavec.finetune.prevention import Prevention
from personavec.finetune.prompt_shifts import PromptShifts
from personavec.finetune.result import AutomaticCoefficient, WatchPoint
from personavec.finetune.trainers import log_beside, running_trainer
from personavec.report.words import span
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector

log = logging.getLogger(__name__)

PROMPTS = 8  # at whose ends the shift is watched; reading them 20 times costs little beside hundreds of samples
POINTS = 20  # in a training
GAIN = 0.45  # of the shift for each unit of alpha |v|, at rest: measured, docs/finetuning-results.md
SHARE = 0.2  # of the way to where it comes to rest that the shift goes between two points, as long as little is known
BELIEF = 0.1  # weight of that, in squares of the largest push seen
FADING = 0.85  # weight of a point beside that of the next one
AHEAD = 3  # points in which the shift is to be back at 0
MOMENTUM = 2  # points for which the shift is taken to go on as it goes: the optimiser's moments carry it
LARGEST = 5.0  # the paper's largest alpha, for a vector whose coherent range is not known
RECORD = "personavec.finetune.automatic"  # in the trainer's state; see `callback.RECORD`


def next_coefficient(acted: Sequence[float], shifts: Sequence[float], norm: float, bound: float) -> float:
    """The coefficient up to the next watch point, from those that acted and the shifts that they ended with.

    The training is taken for a lag. Between two points the shift goes a share `r` of the way to where it would come to
    rest, which is the data's push `P` less what the steering takes the place of:

        s' - s = r (P - u - s),    u = 0.45 alpha |v|

    `r` and `P` are fitted by least squares to all points so far, later ones counting more, with `r` drawn towards 0.2.
    The coefficient then is what has the shift at 0 in three points,

        u = P + z (1 - r)^3 / (1 - (1 - r)^3),    z = s + 2 (s - the shift before),

    but rises by no more than the larger of the last two shifts asks for (`|s| / 0.45 |v|`), for the first steps of a
    training throw the shift farther than it stays. It is never below 0 or above the bound.

    The 0.45 was measured (docs/finetuning-results.md). The other constants were chosen in simulation, of lags with a
    true gain of 0.3 to 0.9 and shares of 0.05 to 0.5, and of an optimiser with momentum whose start throws the shift,
    as one training of the default model did (tests/finetune/test_automatic.py).

    Args:
        acted: (n,) coefficients up to each point.
        shifts: (n,) the shift at each.
        norm: Length of the vector.
        bound: Largest coefficient.
    """
    scale = GAIN * norm
    u, s = scale * np.asarray(acted, dtype=np.float64), np.asarray(shifts, dtype=np.float64)
    before = np.concatenate([[0.0], s[:-1]])
    x, y = u + before, s - before  # y = r (P - x)
    weights = FADING ** np.arange(len(s) - 1, -1, -1)
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    largest = max(np.abs(x).max(), np.abs(s).max())
    if largest == 0:
        return acted[-1]
    belief = BELIEF * largest**2
    slope = (weights @ ((x - x_mean) * (y - y_mean)) - belief * SHARE) / (weights @ (x - x_mean) ** 2 + belief)
    r = float(np.clip(-slope, 0.02, 1.0))
    push, left = x_mean + y_mean / r, (1 - r) ** AHEAD
    wanted = push + (s[-1] + MOMENTUM * y[-1]) * left / (1 - left)
    most = u[-1] + max(abs(s[-1]), abs(before[-1]))
    return float(np.clip(min(wanted, most) / scale, 0.0, bound))


def largest_coefficient(vector: PersonaVector) -> float:
    """The upper end of the range in which the vector's answers stay coherent; where none is known, the paper's 5."""
    high = vector.info.coherent_range[1] if vector.info.coherent_range is not None else 0.0
    return high if high > 0 else LARGEST


def watch_prompts(vector: PersonaVector) -> list[str]:
    """The first eight extraction questions of the trait: on the others, those of evaluation, training is judged.

    Raises:
        UserError: The vector's trait is not known.
    """
    try:
        return list(trait_of(vector).extraction_questions[:PROMPTS])
    except UserError as error:
        advice = "Give the coefficient as a number, such as 3; in a trainer of your own, or name `prompts` to watch."
        raise UserError(error.problem, advice) from error


class ClosedLoop:
    """Holds coefficients of a prevention in a training: see `next_coefficient`.

    Everything that decides is in the trainer's state, and so in every checkpoint. Of several processes the first reads
    for all.

    Args:
        prevention: Whose coefficients are set.
        automatic: Places of the vectors whose coefficient is chosen.
        prompts: User messages at whose ends the shift is watched; None: see `watch_prompts`.

    Attributes:
        points: Of each of these vectors.
        seconds: Spent reading.
    """

    def __init__(self, prevention: Prevention, automatic: Sequence[int], prompts: Sequence[str] | None = None) -> None:
        self.prevention, self.automatic = prevention, automatic
        self.vectors = [prevention.vectors[at] for at in automatic]
        self.bounds = [largest_coefficient(vector) for vector in self.vectors]
        self.points: list[list[WatchPoint]] = [[] for _ in automatic]
        self.seconds = 0.0
        watched = [watch_prompts(vector) if prompts is None else list(prompts) for vector in self.vectors]
        self._shifts = PromptShifts(self.vectors, watched)
        self._every = 1
        self._place = ""
        self._act()

    def begin(self, model: Any, processing_class: Any, state: Any, place: int) -> None:
        """Read the model before training, or take up what a checkpoint holds.

        Args:
            place: Among the preventions of the trainer.
        """
        self._every, self._place, self.seconds = max(1, math.ceil(state.max_steps / POINTS)), str(place), 0.0
        started = time.monotonic()
        self._shifts.begin(model, processing_class, state)
        self.seconds += time.monotonic() - started
        kept = state.stateful_callbacks.get(RECORD, {}).get(self._place) if state.global_step else None
        rows = [[] for _ in self.vectors] if kept is None else kept
        self.points = [[WatchPoint.model_validate(one) for one in row] for row in rows]
        self._act()

    def step(self, model: Any, state: Any, control: Any) -> None:
        """After a step of the optimiser: read and choose, when it is time."""
        ends = state.global_step >= state.max_steps or control.should_training_stop
        if not self._shifts.begun or not (ends or state.global_step % self._every == 0):
            return
        started = time.monotonic()
        found = [[shifts.tolist() for shifts in self._shifts.now(model)]]
        broadcast_object_list(found)
        for shifts, vector, bound, points in zip(found[0], self.vectors, self.bounds, self.points, strict=True):
            points.append(_point(state.global_step, shifts, vector, bound, points))
        self.seconds += time.monotonic() - started
        self._act()
        state.stateful_callbacks.setdefault(RECORD, {})[self._place] = [
            [point.as_json() for point in points] for points in self.points
        ]
        log_beside(running_trainer(), control, {
            f"persona/{vector.trait}_{name}": value
            for vector, points in zip(self.vectors, self.points, strict=True)
            for name, value in (("coefficient", points[-1].coefficient), ("shift_watched", points[-1].shift.mean))
        })  # fmt: skip

    def end(self) -> None:
        """Let go of the model, and say what was done."""
        if self._shifts.begun:
            for vector, found in zip(self.vectors, self.found, strict=True):
                if found.points:
                    log.log(logging.INFO if any(found.acted) else logging.WARNING, told(vector.trait, found))
        self._shifts.end()

    @property
    def found(self) -> list[AutomaticCoefficient]:
        """Of each vector, what became of its coefficient."""
        return [
            AutomaticCoefficient(bound=bound, points=tuple(points), seconds=self.seconds)
            for bound, points in zip(self.bounds, self.points, strict=True)
        ]

    def _act(self) -> None:
        """Steer by the last coefficients."""
        coefficients = list(self.prevention.coefficients)
        for at, points in zip(self.automatic, self.points, strict=True):
            coefficients[at] = points[-1].coefficient if points else 0.0
        self.prevention.go_on_with(coefficients)


def _point(
    step: int, shifts: Sequence[float], vector: PersonaVector, bound: float, before: Sequence[WatchPoint]
) -> WatchPoint:
    """The next point, from the shift of each prompt. What files hold decides, so that a resumed run is the same."""
    now = bootstrap_mean(shifts).rounded()
    acted = [0.0, *(point.coefficient for point in before)]
    norm = float(vector.at(vector.layer).norm())
    chosen = next_coefficient(acted, [*(point.shift.mean for point in before), now.mean], norm, bound)
    return WatchPoint(step=step, shift=now, coefficient=chosen)


def told(trait: str, found: AutomaticCoefficient, training_seconds: float | None = None) -> str:
    """What became of a coefficient, in words, with the shift that decided."""
    shifts = [point.shift for point in found.points]
    highest, last = max(shifts, key=lambda shift: shift.mean), shifts[-1]
    watched = (
        f"at {len(shifts)} watch points the shift along its vector was at most {_size(highest)}, at the end "
        f"{_size(last)}; {last.n} prompts, nothing steered."
    )
    if training_seconds:
        watched += f" Reading them took {100 * found.seconds / training_seconds:.0f} % of the training time."
    if not any(found.acted):
        late = found.points[-1].coefficient > 0
        why = "it rose at the last point only" if late else "the data do not push along it"
        return f"auto kept the coefficient of {trait} at 0, for {why}: {watched}"
    left = ""
    if last.low > 0:
        bound = " The coefficient stands at its bound." if found.acted[-1] >= found.bound else ""
        left = f" Some of the shift is left.{bound}"
    elif last.high < 0:
        left = " It lies below 0: more was prevented than the data push."
    return (
        f"auto held {trait} by coefficients from {min(found.acted):.2f} to {max(found.acted):.2f}, on average "
        f"{found.mean:.2f} (bound {found.bound:g}): {watched}{left}"
    )


def _size(shift: Estimate) -> str:
    return f"{shift.mean:+.2f} ({span(shift, '+.2f')})"
