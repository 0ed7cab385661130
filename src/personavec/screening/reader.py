"""Data sets and references, read along the axes of a screening: each scanned, and as many own answers as it takes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from personavec.cache import folder_in_cache
from personavec.data import Dataset
from personavec.engine import Engine
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.screening.differences import ScoredScan, score
from personavec.screening.estimate import planned_sizes, stop_reason
from personavec.screening.scan import FULL, Scan, Scanner
from personavec.screening.settings import ScreenSettings
from personavec.screening.threshold import check_size
from personavec.texts import TOKENS

CLEAN_GENERATED = 96  # own answers to the clean reference's prompts in a hybrid screening
ANSWERED = ("exact", "hybrid")  # baselines for which the model answers prompts itself
REFERENCE_FORM = 5  # of what the cache keeps of a reference; one of another form is made anew


@dataclass(frozen=True, eq=False)
class DataScan:
    """The data set.

    Attributes:
        scored: Its samples and differences.
        looks: For each direction, how many looks its interval must hold for together.
        reasons: Why records were rejected, by their index.
    """

    scored: ScoredScan
    looks: Sequence[int]
    reasons: Mapping[int, str]


class Reader:
    """Reads data sets for one screening.

    Args:
        engine: Runs the model.
        settings: See `ScreenSettings`.
        panel: What is projected on.

    Attributes:
        own: The model's own answers.
        first: How many tokens of each answer are read; None: all.
    """

    def __init__(self, engine: Engine, settings: ScreenSettings, panel: Panel) -> None:
        self.engine, self.settings, self.panel = engine, settings, panel
        self.own = OwnAnswers(engine, settings.max_new_tokens)
        self.first = TOKENS if settings.specific == "domains" else None

    def reference(self, data: Dataset, name: str, parts: int | None = None) -> ScoredScan:
        """A reference set, read once per model, panel and settings, and kept in the cache folder.

        Args:
            name: For the progress bars.
            parts: It sets thresholds, and is one of so many equal parts of what the user named; None: it sets none.

        Raises:
            UserError: See `Scanner` and `check_size`.
        """
        settings = self.settings
        folder = folder_in_cache("references", self._key(data))
        with FileLock(folder / ".lock"):
            scanner = self._scanner(data, folder, name)
            survey = scanner.measure()
            if parts is not None:
                check_size(len(survey), settings.false_alarm_rate, parts)  # before the model answers anything
            count = {"exact": len(survey), "hybrid": CLEAN_GENERATED}.get(settings.baseline, FULL)
            return self._scored(scanner.draw(survey, count, self.own if settings.baseline in ANSWERED else None))

    def data(self, data: Dataset, folder: Path, clean: ScoredScan) -> DataScan:
        """The data set, with as many own answers as the baseline asks for.

        Raises:
            UserError: See `Scanner`.
        """
        scanner = self._scanner(data, folder, "the data")
        survey = scanner.measure()
        once = [1] * len(self.panel.names)
        if self.settings.baseline not in ANSWERED:
            return DataScan(self._scored(scanner.draw(survey, FULL, None)), once, scanner.reasons())
        if self.settings.baseline == "exact":
            return DataScan(self._scored(scanner.draw(survey, len(survey), self.own)), once, scanner.reasons())
        sizes = planned_sizes(len(survey))
        for count in sizes:
            scored = self._scored(scanner.draw(survey, count, self.own, growing=True))
            reasons = [
                stop_reason(ours.total, sizes, self.settings.precision * theirs.deviation, theirs.total.mean)
                for ours, theirs in zip(scored.along, clean.along, strict=True)
            ]
            if all(reasons):
                break
        # An interval that decided when to stop must hold for all the looks together.
        looks = [len(sizes) if reason == "clear" else 1 for reason in reasons]
        return DataScan(scored, looks, scanner.reasons())

    def _key(self, data: Dataset) -> str:
        """What decides a reference's readings."""
        settings, panel = self.settings, self.panel
        decides = [
            REFERENCE_FORM, self.engine.identity, data.digest, settings.baseline, settings.turns,
            settings.max_new_tokens, self.first, settings.seed, panel.names, panel.layers,
            hashlib.sha256(panel.units.numpy().tobytes()).hexdigest(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def _scanner(self, data: Dataset, folder: Path, name: str) -> Scanner:
        settings = self.settings
        return Scanner(
            self.engine, data, self.panel, folder,
            turns=settings.turns, first=self.first, seed=settings.seed, name=name,
        )  # fmt: skip

    def _scored(self, scan: Scan) -> ScoredScan:
        return score(scan, self.settings.baseline)
