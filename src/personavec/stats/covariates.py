"""How much of an effect remains when something else that differs between the arms is held equal."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from personavec.stats.bootstrap import DRAWS, draw_weights, interval
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats, finite

TOLD = 1e-6  # share of the arms' difference, in squares, that the covariates must leave


def adjusted_difference(
    values: ArrayLike,
    arms: ArrayLike,
    covariates: ArrayLike,
    clusters: Sequence[Hashable],
    contrast: tuple[float, float],
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate | None:
    """Difference between two arms with covariates held equal: analysis of covariance, question by question.

    Least squares of the values on an intercept for each cluster, one for each arm, and the covariates; the figure is
    that of the one arm minus that of the other. Slopes are thus learnt from answers to the same question in the same
    arm's company, arms beside the two included, never from the difference between the arms itself, and nothing is
    assumed of how values grow from arm to arm. By Frisch and Waugh the figure is the slope on what of the arm the
    covariates and the other arms do not tell. The interval comes from drawing clusters.

    What covariates carry is taken away whether it is a by-product of the effect or the effect itself. Slopes are those
    of lines, and noise in a covariate leaves some of what it carries.

    Args:
        values, arms: (n,).
        covariates: (n, k).
        clusters: Questions, n of them. Those without a value in both arms are left out.
        contrast: The arm that is taken away from, and the one that is taken away.

    Returns:
        With the number of clusters; None: no cluster has both arms, or the covariates tell the arms apart entirely.

    Raises:
        ValueError: Values that are not finite, or not as many of the one as of the other.
    """
    y, arm, table = finite(values, 1), finite(arms, 1), finite(covariates, 2)
    if not len(y) == len(arm) == len(table) == len(clusters):
        raise ValueError(f"{len(y)} values, {len(arm)} arms, {len(table)} covariates, {len(clusters)} clusters")
    high, low = ({c for c, a in zip(clusters, arm, strict=True) if a == which} for which in contrast)
    kept = np.array([c in high & low for c in clusters])
    if not kept.any():
        return None
    moments = _within(y[kept], arm[kept], table[kept], [c for c, k in zip(clusters, kept, strict=True) if k], contrast)
    count = len(moments)
    found = _slope(np.vstack([np.ones(count), draw_weights(count, seed, draws)]), moments)
    if not np.isfinite(found[0]):
        return None
    return Estimate(float(found[0]), *interval(found[1:], count, (-np.inf, np.inf)), count)


def _within(
    values: Floats, arms: Floats, covariates: Floats, clusters: Sequence[Hashable], contrast: tuple[float, float]
) -> Floats:
    """Products (clusters, m, m) of the deviations from the cluster's mean of: the first arm, all else, the values."""
    others = [arms == arm for arm in np.unique(arms) if arm not in contrast]
    deviation = covariates.std(0)
    scaled = (covariates - covariates.mean(0))[:, deviation > 0] / deviation[deviation > 0]
    table = np.column_stack([arms == contrast[0], *others, scaled, values]).astype(np.float64)
    products = []
    for cluster in dict.fromkeys(clusters):
        mine = table[[c == cluster for c in clusters]]
        mine = mine - mine.mean(0)
        products.append(mine.T @ mine)
    return np.stack(products)


def _slope(weights: Floats, moments: Floats) -> Floats:
    """(draws,) slopes of the values on the first column, all between held equal; NaN where these tell it."""
    m = np.einsum("wc,cij->wij", weights, moments)
    rest = np.linalg.pinv(m[:, 1:-1, 1:-1], rcond=1e-9, hermitian=True) @ m[:, 1:-1]
    own = m[:, 0] - np.einsum("wi,wij->wj", m[:, 0, 1:-1], rest)  # products with what of it the others do not tell
    slope: Floats = np.full(len(m), np.nan)
    np.divide(own[:, -1], own[:, 0], out=slope, where=own[:, 0] > TOLD * m[:, 0, 0])
    return slope
