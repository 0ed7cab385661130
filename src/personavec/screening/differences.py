"""Projection differences of every sample of a scan, along one direction, under one baseline."""

from dataclasses import dataclass

import numpy as np

from personavec.screening.calibration import calibrate
from personavec.screening.estimate import Difference, hybrid_difference, plain_difference
from personavec.screening.scan import Scan
from personavec.screening.settings import Baseline
from personavec.statistics import Floats


@dataclass(frozen=True)
class Differences:
    """Along one direction; n samples.

    Attributes:
        baseline: (n,) what each answer is compared with.
        difference: (n,) projection of the answer minus that.
        error: (n,) standard error of the baseline; 0 where the model's own answer was read.
        own: (n,) projection of the model's own answer, NaN where there is none.
        total: The data set's projection difference, with its interval.
        r_squared: How much of the own answers' variance the prompt predicts; None without prediction.
    """

    baseline: Floats
    difference: Floats
    error: Floats
    own: Floats
    total: Difference
    r_squared: float | None


def differences(scan: Scan, kind: Baseline, k: int) -> Differences:
    """Of the k-th direction.

    In a hybrid screening every sample's baseline is a prediction, also where the own answer is known: the prediction is
    then the one that leaves this sample out. Samples thus stay exchangeable, which the false-alarm rate stands on.
    """
    answers, prompts = scan.measured.answers[:, k], scan.measured.prompts
    own = np.full(len(scan), np.nan)
    own[scan.drawn] = scan.own[:, k]
    if kind == "prompt":
        nothing = np.zeros(len(scan))
        everything = np.arange(len(scan))
        total = plain_difference(answers, everything, prompts[:, k])
        return Differences(prompts[:, k], answers - prompts[:, k], nothing, own, total, None)
    fit = calibrate(prompts, scan.drawn, scan.own[:, k])
    total = hybrid_difference(answers, prompts, scan.drawn, scan.own[:, k])
    known = np.isfinite(own) if kind == "exact" else np.zeros(len(scan), dtype=bool)
    baseline = np.where(known, own, fit.predictions)
    return Differences(
        baseline,
        answers - baseline,
        np.where(known, 0.0, fit.errors),
        own,
        total,
        None if kind == "exact" else float(fit.r_squared),
    )
