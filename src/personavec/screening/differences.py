"""Projection differences of the samples of a scan, along one direction, under one baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personavec.screening.estimate import Prompts, differences_from_moments, plain_difference
from personavec.screening.scan import Scan
from personavec.screening.settings import Baseline
from personavec.screening.table import Block
from personavec.stats.numbers import Floats
from personavec.stats.ridge import Fit, fit_subset


@dataclass(frozen=True)
class Scores:
    """Of n samples, along one direction.

    Attributes:
        baseline: (n,) what each answer is compared with.
        difference: (n,) projection of the answer minus that.
        error: (n,) standard error of the baseline; 0 where the model's own answer was read.
        own: (n,) projection of the model's own answer, NaN where there is none.
    """

    baseline: Floats
    difference: Floats
    error: Floats
    own: Floats


class Differences:
    """Along the k-th direction of a scan. Scores of all samples are computed a block at a time, with `of`.

    In a hybrid screening every sample's baseline is a prediction, also where the own answer is known: the prediction is
    then the one that leaves this sample out. Samples of one scan thus stay exchangeable, which the false-alarm rate
    stands on; what two scans may differ in is `common_error`.

    Attributes:
        total: The data set's projection difference, with its interval.
        r_squared: How much of the own answers' variance the prompt predicts; None without prediction.
        some: (m,) differences of the samples in `Survey.some`.
        deviation: Of those, the unit of shifts where this is the clean reference.
        common_error: Standard error that the differences of all samples have in common: that of the mean baseline,
            where it is predicted.
    """

    def __init__(self, scan: Scan, kind: Baseline, k: int) -> None:
        self.kind, self.k = kind, k
        survey = scan.survey
        self.fit: Fit | None = None
        self.r_squared: float | None = None
        self.common_error = 0.0
        if kind in ("prompt", "none"):
            gaps = np.concatenate([b.measured.answers[:, k] - self._given(b) for b in survey.table.blocks()])
            rows = np.arange(len(gaps))
            self.total = plain_difference(gaps, rows, np.zeros(len(gaps)), Prompts.of(survey.asked, rows))
        else:
            known, own = scan.known.measured, scan.own[:, [k]]
            self.fit = fit_subset(survey.prompts, known.prompts, own)
            answers = known.answers[:, [k]]
            # As in `hybrid_difference`: the answers' own projections along this direction are a feature too.
            shared = Prompts.of(survey.asked, scan.drawn)
            moments = survey.answers[k], survey.prompts
            self.total = differences_from_moments(*moments, answers, known.prompts, own, shared)[0]
            order = np.argsort(scan.drawn, kind="stable")
            self._drawn, self._own = scan.drawn[order], own[order, 0]
            self._left = [each[order, 0] for each in (self.fit.left_out, self.fit.left_out_errors)]
            if kind == "hybrid":
                self.r_squared = float(self.fit.r_squared[0])
                self.common_error = float(self.fit.deviation[0]) / math.sqrt(self.fit.n)
        self.some = self.of(survey.some).difference
        self._mean, self.deviation = self.some.mean(), float(self.some.std(ddof=1))

    def _given(self, block: Block) -> Floats:
        """Baselines (n,) that need no answer of the model's own."""
        prompts = block.measured.prompts[:, self.k]
        return prompts if self.kind == "prompt" else np.zeros_like(prompts)

    def deviations(self, difference: Floats) -> Floats:
        """Differences (n,) as deviations from the mean of this data set's own, which is the clean reference."""
        z: Floats = (difference - self._mean) / self.deviation
        return z

    def level(self, deviations: float) -> float:
        """The difference that lies so many deviations above the mean."""
        return float(self._mean + deviations * self.deviation)

    def of(self, block: Block) -> Scores:
        """Scores of some of the scan's samples."""
        answers, prompts = block.measured.answers[:, self.k], block.measured.prompts
        own = np.full(len(block), np.nan)
        error = np.zeros(len(block))
        if self.fit is None:
            baseline = self._given(block)
            return Scores(baseline, answers - baseline, error, own)
        predicted, errors = (each[:, 0] for each in self.fit.predict(prompts))
        at = np.minimum(np.searchsorted(self._drawn, block.rows), len(self._drawn) - 1)
        known = self._drawn[at] == block.rows
        own[known] = self._own[at[known]]
        for values, left in zip((predicted, errors), self._left, strict=True):
            values[known] = left[at[known]]
        exact = known if self.kind == "exact" else np.zeros_like(known)
        baseline = np.where(exact, own, predicted)
        return Scores(baseline, answers - baseline, np.where(exact, 0.0, errors), own)


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """A data set or a reference, with its differences along every direction of the panel."""

    scan: Scan
    along: Sequence[Differences]

    def __len__(self) -> int:
        return len(self.scan)


def score(scan: Scan, kind: Baseline) -> ScoredScan:
    """A scan with its differences under a baseline."""
    return ScoredScan(scan, [Differences(scan, kind, k) for k in range(len(scan.survey.answers))])
