"""Progress of long jobs, on standard error: a bar on a terminal, a plain line now and then elsewhere.

Standard output stays free for results. `PERSONAVEC_QUIET=1` or `personavec.progress.quiet = True` silences everything.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

quiet = False
LINE_EVERY = 5.0  # seconds between two plain lines

_display: RichProgress | None = None  # the one live display, shared by nested jobs


class Progress:
    """How far one job is. `progress` makes it; the job calls `advance`."""

    def __init__(self, total: float | None, together: int = 1) -> None:
        self.total, self.together = total, together
        self.done = 0.0
        self.begun = self.last = time.monotonic()

    def advance(self, n: float = 1) -> None:
        """Count `n` more units as done."""
        self.done += n
        self.last = time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds until the end at the mean rate up to the last advance; None: too little is done to tell.

        Of units that run side by side the first to end says nothing of the rate: the others are nearly done.
        """
        if not self.total or self.done < max(1, min(self.total / 4, 2 * self.together)):
            return None
        left = (self.total - self.done) / self.done * (self.last - self.begun)
        return max(0.0, left - (time.monotonic() - self.last))


@contextmanager
def progress(description: str, total: float | None = None, unit: str = "", together: int = 1) -> Iterator[Progress]:
    """Show the progress of a job for as long as the block lasts; jobs may be nested.

    Args:
        description: What is being done, a few words.
        total: How many units the job has; None where that is not known.
        unit: What is counted, in the plural ("rollouts"); "B" shows bytes as MB and GB.
        together: How many units run side by side. The time left is shown once two rounds of them, or a quarter of all,
            are done.

    Example:
        >>> with progress("Generating", total=40, unit="rollouts") as job:
        ...     job.advance(8)
    """
    console = Console(file=sys.stderr)  # this very stream: a job may silence what else is written meanwhile
    if quiet or os.environ.get("PERSONAVEC_QUIET", "") not in ("", "0"):
        yield Progress(total, together)
    elif console.is_terminal:
        with _shared_display(console) as display:
            bar = _Bar(display, description, total, unit, together)
            try:
                yield bar
            finally:
                bar.stop()
    else:
        lines = _Lines(description, total, unit, together)
        try:
            yield lines
        except BaseException:
            lines.stop("stopped at ")
            raise
        lines.stop("")


class _Bar(Progress):
    """A bar in the shared live display."""

    def __init__(self, display: RichProgress, description: str, total: float | None, unit: str, together: int) -> None:
        super().__init__(total, together)
        self.display = display
        self.task = display.add_task(description, total=total, unit=unit, job=self)

    def advance(self, n: float = 1) -> None:
        super().advance(n)
        self.display.update(self.task, advance=n)

    def stop(self) -> None:
        self.display.stop_task(self.task)


class _Lines(Progress):
    """Plain lines for log files and pipes: one every few seconds, and one at the end."""

    def __init__(self, description: str, total: float | None, unit: str, together: int) -> None:
        super().__init__(total, together)
        self.description, self.unit = description, unit
        self.stream = sys.stderr
        self.printed = self.begun

    def advance(self, n: float = 1) -> None:
        super().advance(n)
        if self.last - self.printed >= LINE_EVERY:
            self.printed = self.last
            rate = self.done / (self.last - self.begun)
            self._print(_state(self.done, self.total, self.unit, rate, self.left))

    def stop(self, how: str) -> None:
        seconds = time.monotonic() - self.begun
        rate = self.done / seconds if seconds else None
        self._print(f"{how}{_state(self.done, self.total, self.unit, rate, None)}, took {_clock(seconds)}")

    def _print(self, state: str) -> None:
        print(f"{self.description}: {state}", file=self.stream, flush=True)


class _State(ProgressColumn):
    """The numbers beside a bar: done and total, rate, time left."""

    max_refresh = 0.5  # seconds; figures that change faster cannot be read

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        left = None if task.finished else task.fields["job"].left
        state = _state(task.completed, task.total, task.fields["unit"], rate, left)
        return Text(f"{state}, took {_clock(task.elapsed)}" if task.finished and task.elapsed else state)


@contextmanager
def _shared_display(console: Console) -> Iterator[RichProgress]:
    global _display
    if _display is not None:
        yield _display
        return
    display = RichProgress(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), _State(), console=console
    )
    with display:
        _display = display
        try:
            yield display
        finally:
            _display = None


def _state(done: float, total: float | None, unit: str, rate: float | None, left: float | None) -> str:
    if unit == "B":
        parts = [_bytes(done) if total is None else f"{_bytes(done)} of {_bytes(total)}"]
        parts += [f"{_bytes(rate)}/s"] if rate else []
    else:
        parts = [(f"{done:g}" if total is None else f"{done:g} of {total:g}") + f" {unit}".rstrip()]
        parts += [f"{rate:.3g} a second" if rate >= 0.1 else f"{60 * rate:.2g} a minute"] if rate else []
    if left is not None:
        parts.append(f"{_clock(left)} left")
    return ", ".join(parts)


def _bytes(count: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {name}"
    return f"{count:.0f} B"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
