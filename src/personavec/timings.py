"""How long a run took, over all the processes that worked on it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from personavec.files import write_json


class Timings:
    """Seconds of a run and of its stages, kept in a file of the run folder until the run has ended.

    A process that was killed has not counted the stage it was killed in. Up to its last line in the log it was at work,
    so the next process counts that.

    Args:
        path: The file.
        log: What the run appends to while it works.

    Attributes:
        stages: Seconds by stage.
    """

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.stages: dict[str, float] = {}
        self._before = 0.0
        self._begun = time.monotonic()
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.stages = {str(name): float(seconds) for name, seconds in kept["stages"].items()}
            self._before = float(kept["seconds"])
            uncounted = max(0.0, log.stat().st_mtime - float(kept["at"])) if log.exists() else 0.0
            self._before += uncounted
            if kept["stage"] is not None:
                self._add(str(kept["stage"]), uncounted)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # the first process, or a file that somebody has changed: times decide nothing
        self._write(None)

    @property
    def seconds(self) -> float:
        """Of this process and of those before it."""
        return self._before + time.monotonic() - self._begun

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        begun = time.monotonic()
        self._write(name)
        try:
            yield
        finally:
            self._add(name, time.monotonic() - begun)
            self._write(None)

    def close(self) -> None:
        """The run has ended, and its figures are kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _add(self, stage: str, seconds: float) -> None:
        self.stages[stage] = round(self.stages.get(stage, 0.0) + seconds, 2)

    def _write(self, stage: str | None) -> None:
        write_json(self.path, {"seconds": self.seconds, "stages": self.stages, "stage": stage, "at": time.time()})
