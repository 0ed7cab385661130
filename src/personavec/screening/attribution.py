"""Do the data differ in this trait, or just differ? A shift beside its nulls, and what length and refusal leave of it.

A shift is measured in standard deviations of a clean reference set along the same direction, so that directions with
much and with little variance compare. Nearly any direction is shifted between two sets of text; a claim about a trait
is what exceeds random directions and the other traits' vectors, and what remains when answers of the same length,
refusing or not, are compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from personavec.screening.result import AgainstDomains
from personavec.stats.bootstrap import auc
from personavec.stats.estimate import TOO_FEW, Estimate
from personavec.stats.nulls import Null, Place, null_summary, place
from personavec.stats.numbers import Floats, finite

COVARIATES = ("answer length", "refusing", "prompt length")
CHANCE = 0.05  # the p-value at which random directions explain a shift


@dataclass(frozen=True)
class Adjusted:
    """A shift before and after covariates are held equal, both in reference deviations.

    Attributes:
        raw: Without covariates.
        remaining: With them; None where they tell the data from the reference so well that nothing can be said.
        explained: Share of the raw shift that went away, below 0 where the covariates hid some of it; None where the
            raw shift is not certain or nothing can be said.
        used: Names of the covariates that vary and are not combinations of earlier ones.
    """

    raw: Estimate
    remaining: Estimate | None
    explained: float | None
    used: tuple[str, ...]


@dataclass(frozen=True)
class DataSeparation:
    """How well one direction tells the data from the reference.

    Attributes:
        auc: Probability that a sample of the data is above one of the reference.
        null: Summary of max(AUC, 1 - AUC) of random directions.
        place: Of this AUC's distance from 1/2 among theirs.
    """

    auc: Estimate
    null: Null
    place: Place


@dataclass(frozen=True)
class Rival:
    """Another trait's direction.

    Attributes:
        shift: Along it.
        lead: How much farther the data lie along the trait's own direction, see `bootstrap_leads`.
    """

    shift: float
    lead: Estimate


@dataclass(frozen=True)
class Corrected:
    """A p-value by Holm's correction.

    Attributes:
        p_value: Corrected.
        tests: Over how many.
    """

    p_value: float
    tests: int


@dataclass(frozen=True)
class Explanation:
    """Plain sentences, the verdict first, and the verdict itself: whether the data differ in this trait."""

    specific: bool
    sentences: tuple[str, ...]


def adjusted_shift(
    data: ArrayLike,
    reference: ArrayLike,
    data_covariates: ArrayLike,
    reference_covariates: ArrayLike,
    names: Sequence[str] = COVARIATES,
    prompts: tuple[ArrayLike, ArrayLike] | None = None,
) -> Adjusted:
    """The shift that remains when covariates are held equal: least squares of the score on group and covariates.

    Intervals are robust to unequal variances (HC3; MacKinnon and White 1985) and to samples of one prompt that resemble
    each other (CR3: the same with prompts left out in turn; Bell and McCaffrey 2002). One slope is fitted for both
    groups.

    Args:
        data, reference: Scores (n,) and (m,).
        data_covariates, reference_covariates: (n, c) and (m, c): log of the answer's length in tokens, refusing 0 or 1,
            log of the prompt's length.
        names: c names.
        prompts: Names (n,) and (m,) of the samples' prompts; None: all different.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, fewer than two rows on a side, or a constant
            reference.
    """
    a, b = finite(data, 1), finite(reference, 1)
    table = np.vstack([finite(data_covariates, 2), finite(reference_covariates, 2)])
    if len(table) != len(a) + len(b) or table.shape[1] != len(names) or min(len(a), len(b)) < 2:
        raise ValueError(f"covariates {table.shape} named {tuple(names)} for {len(a)} and {len(b)} scores")
    scale = b.std(ddof=1)
    if scale <= 1e-9 * np.abs(b).max():
        raise ValueError("the reference is constant")
    scores = np.concatenate([a, b]) / scale
    group = np.r_[np.ones(len(a)), np.zeros(len(b))]
    constant = np.ones((len(scores), 1))
    codes = _codes(len(a), len(b), prompts)
    raw = _slope(scores, group, constant, codes)
    assert raw is not None  # both groups are there
    basis, used = _independent(constant, table, names)
    remaining = _slope(scores, group, basis, codes) if used else raw
    explained = None
    if remaining is not None and not raw.low <= 0 <= raw.high:
        explained = 1 - remaining.mean / raw.mean
    return Adjusted(raw, remaining, explained, used)


def _codes(n: int, m: int, prompts: tuple[ArrayLike, ArrayLike] | None) -> tuple[NDArray[np.intp], ...]:
    """Numbers (n,) and (m,) of the prompts, counted on either side by itself."""
    sides = (np.arange(n), np.arange(m)) if prompts is None else prompts
    codes = tuple(np.unique(np.asarray(side), return_inverse=True)[1].astype(np.intp) for side in sides)
    if [len(side) for side in codes] != [n, m]:
        raise ValueError(f"{[len(side) for side in codes]} prompts for {n} and {m} scores")
    return codes


def _independent(basis: Floats, columns: Floats, names: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """An orthonormal basis of the constant and of the columns that add something to it, and the names of those."""
    basis, used = basis / math.sqrt(len(basis)), []
    for column, name in zip(columns.T, names, strict=True):
        rest = _outside(basis, column)
        if np.linalg.norm(rest) > 1e-6 * np.linalg.norm(column):
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            used.append(name)
    return basis, tuple(used)


def _outside(basis: Floats, values: Floats) -> Floats:
    rest = values - basis @ (basis.T @ values)
    again: Floats = rest - basis @ (basis.T @ rest)  # twice, against rounding
    return again


def _slope(scores: Floats, group: Floats, basis: Floats, prompts: tuple[NDArray[np.intp], ...]) -> Estimate | None:
    """Coefficient of the group beside an orthonormal basis, with its interval; None where the basis holds it."""
    if basis.shape[1] == 1:
        basis = np.full_like(basis, 1 / math.sqrt(len(basis)))
    free = len(scores) - basis.shape[1] - 1
    rest = _outside(basis, group)
    size = float(rest @ rest)
    if free < 1 or size < 1e-6 * float(group @ group):
        return None
    value = float(rest @ scores) / size
    residual = _outside(basis, scores) - value * rest
    counts = [int(side.max()) + 1 for side in prompts]
    if min(counts) < 2:
        return Estimate(value, -math.inf, math.inf, len(prompts[0]))
    codes = np.concatenate([prompts[0], prompts[1] + counts[0]])
    if sum(counts) < len(codes):
        free = min(free, min(counts) - 1)
    error = math.sqrt(float((_left_out(np.column_stack([basis, rest / math.sqrt(size)]), residual, codes) ** 2).sum()))
    half = float(special.stdtrit(free, 0.975)) * error / math.sqrt(size)
    return Estimate(value, value - half, value + half, len(prompts[0]))


def _left_out(basis: Floats, residual: Floats, codes: NDArray[np.intp]) -> Floats:
    """How much the coefficient of the last column of an orthonormal basis (n, p) owes to each cluster.

    To its residuals, that is, under the fit to all other clusters: those of a cluster c times (1 - H_cc)^-1, the p by p
    form of which is taken. For a cluster of one it is the usual one over 1 - leverage.
    """
    total, p = int(codes.max()) + 1, basis.shape[1]

    def sums(values: Floats) -> Floats:
        return np.asarray(np.bincount(codes, values, total), dtype=np.float64)

    gram = np.stack([sums(basis[:, i] * basis[:, j]) for i in range(p) for j in range(p)], 1).reshape(total, p, p)
    moment = np.stack([sums(column * residual) for column in basis.T], 1)
    inside = np.linalg.solve(np.eye(p) * (1 + 1e-9) - gram, moment[..., None])[..., 0]
    owed: Floats = moment[:, -1] + (gram[:, -1] * inside).sum(1)
    return owed


def separation(
    data: ArrayLike,
    reference: ArrayLike,
    null_data: ArrayLike,
    null_reference: ArrayLike,
    prompts: tuple[ArrayLike, ArrayLike] | None = None,
) -> DataSeparation:
    """AUC of data against reference along a direction, beside those of K random directions free to choose their sign.

    Args:
        data, reference: Scores (n,) and (m,).
        null_data, null_reference: Scores (n', K) and (m', K) along the random directions; fewer samples will do.
        prompts: Names (n,) and (m,) of the samples' prompts; None: all different.

    Raises:
        ValueError: No scores, scores that are not finite, or different numbers of directions.
    """
    a, b = finite(data, 1), finite(reference, 1)
    one, two = finite(null_data, 2), finite(null_reference, 2)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"{one.shape[1]} random directions against {two.shape[1]}")
    mine, theirs = float(auc(a, b)), np.asarray(auc(one, two), dtype=np.float64)
    return DataSeparation(
        auc=Estimate(mine, *auc_interval(a, b, prompts), len(a) + len(b)),
        null=null_summary(np.maximum(theirs, 1 - theirs)),
        place=place(round(mine - 0.5, 12), np.round(theirs - 0.5, 12)),
    )


def auc_interval(
    a: Floats, b: Floats, names: tuple[ArrayLike, ArrayLike] | None = None, tail: float = 0.025
) -> tuple[float, float]:
    """The wider of two on either side: neither is good everywhere.

    One is that of DeLong and others (1988) on the logit scale, right for any shape but too narrow near 0 and 1; the
    other holds the AUCs under which the observed one is not surprising (Newcombe 2006, method 5), also at 0 and 1, but
    not where the sides differ in size and in spread. Where samples share prompts, the variance is that of sums over
    prompts (Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data"), and the other counts as many
    samples as would have it.

    Args:
        a, b: Scores (n,) and (m,).
        names: Names (n,) and (m,) of the samples' prompts; None: all different.
        tail: How often it may lie beyond either end.
    """
    prompts = _codes(len(a), len(b), names)
    value = float(auc(a, b))
    counts = [int(side.max()) + 1 for side in prompts]
    shared = sum(counts) < len(a) + len(b)
    if shared and min(counts) < 2:
        return 0.0, 1.0
    parts = [_mean_variance(_wins(*sides), codes) for sides, codes in zip(((a, b), (b, a)), prompts, strict=True)]
    sizes = [
        len(codes) * alone / both if both else len(codes) for codes, (alone, both) in zip(prompts, parts, strict=True)
    ]
    n, m = (max(size, 1.0) for size in sizes)
    pairs, mean_size = n * m, (n + m) / 2
    z = -float(special.stdtrit(min(counts) - 1, tail) if shared else special.ndtri(tail))

    def beyond(candidate: float) -> float:
        tail = (1 - candidate) / (2 - candidate) + candidate / (1 + candidate)
        variance = candidate * (1 - candidate) * (1 + (mean_size - 1) * tail) / pairs
        return abs(candidate - value) - z * math.sqrt(variance)

    edge = 1e-12
    low = 0.0 if value < edge else float(optimize.brentq(beyond, edge, min(value, 1 - edge)))
    high = 1.0 if value > 1 - edge else float(optimize.brentq(beyond, max(value, edge), 1 - edge))
    if min(counts) < 2 or not edge < value < 1 - edge:
        return low, high
    variance = sum(both for _, both in parts)
    logit, half = math.log(value / (1 - value)), z * math.sqrt(variance) / (value * (1 - value))
    return min(low, float(special.expit(logit - half))), max(high, float(special.expit(logit + half)))


def _mean_variance(values: Floats, codes: NDArray[np.intp]) -> tuple[float, float]:
    """Variance of a mean of values (n,), were they independent, and with those of one prompt together; 0 for one."""
    if len(values) < 2:
        return 0.0, 0.0
    centred, total = values - values.mean(), int(codes.max()) + 1
    alone = float((centred**2).sum()) / (len(values) - 1) / len(values)
    if total == len(values):
        return alone, alone
    sums = np.bincount(codes, centred)
    both = float((sums**2).sum()) / len(values) ** 2 * total / (total - 1)
    return alone, max(alone, both)


def _wins(values: Floats, rivals: Floats) -> Floats:
    """(n,) share of the rivals each value is above, ties counting half."""
    ordered = np.sort(rivals)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(twice / (2 * len(rivals)), dtype=np.float64)


def explanation(
    trait: str,
    shift: Estimate,
    chance: Place,
    others: Mapping[str, Rival] | None = None,
    adjusted: Adjusted | None = None,
    own: float | None = None,
    corrected: Corrected | None = None,
) -> Explanation:
    """Whether the data differ from the reference in this trait, in sentences.

    Args:
        shift: Along the trait's direction, in reference deviations.
        chance: Its place among random directions.
        others: The other traits' directions.
        adjusted: What covariates leave of it.
        own: Shift along the trait's direction measured as that along the others was; None: as `shift`.
        corrected: Its p-value, where several traits were tested; None: it alone was.
    """
    p_value = chance.p_value if corrected is None else corrected.p_value
    others, own = others or {}, shift.mean if own is None else own
    figures = [_figure(trait, shift), _among_random(chance, corrected)]
    if others:
        ranked = sorted(others.items(), key=lambda item: -abs(item[1].shift))
        figures.append(
            f"Where every reading was kept, {trait!r} {own:+.2f}, and along the other traits' vectors: "
            + ", ".join(f"{name} {rival.shift:+.2f} (less by {rival.lead:.2f})" for name, rival in ranked)
            + "."
        )
    if adjusted is not None and adjusted.used:
        figures.append(_after_covariates(adjusted))
    if not (shift.low > 0 or shift.high < 0):
        verdict = f"It is not certain that the data differ from the reference along {trait!r} at all."
        return Explanation(False, (verdict, *figures))
    rivals = ["random directions"] if p_value > CHANCE else []
    rivals += [repr(name) for name, rival in others.items() if not rival.lead.low > 0]
    doubts = []
    if rivals:
        doubts.append(f"not surely in {trait!r} more than in {_series(rivals, 'and')}")
    if adjusted is not None and adjusted.used:
        remaining = adjusted.remaining
        if remaining is None:
            doubts.append(f"{_series(adjusted.used, 'or')} may be all of it")
        elif remaining.low <= 0 <= remaining.high or remaining.mean * shift.mean < 0:
            doubts.append(f"{_series(adjusted.used, 'and')} can explain what differs along {trait!r}")
    if doubts:
        verdict = f"The data differ from the reference, but {', and '.join(doubts)}."
    else:
        more = " and more than along any other trait's vector" if others else ""
        verdict = (
            f"The data differ from the reference in {trait!r}: more than along nearly all random directions{more}."
        )
    return Explanation(not doubts, (verdict, *figures))


def domain_explanation(trait: str, found: AgainstDomains, corrected: Corrected) -> Explanation:
    """Whether the data differ in this trait from every clean domain, in sentences.

    Args:
        corrected: The larger p-value of both nulls, where several traits were tested.
    """
    where = (
        f"{found.worst}, the clean domain that they differ from least along {trait!r} made without it (AUC "
        f"{found.auc:.2f})"
    )
    samples = []
    if found.instead:
        ranked = sorted(found.instead.items(), key=lambda item: -item[1])
        samples.append(
            f"Above known clean samples along {trait!r}, but higher along another trait and not flagged: "
            + ", ".join(f"{count} {name}" for name, count in ranked)
            + "."
        )
    if found.unknown:
        samples.append(
            f"Unknown domain, and not flagged: {found.unknown} of the samples, which are like no clean domain at hand, "
            "or lie above these but where clean ones of another domain may."
        )
    if found.auc.low <= 0.5:
        said = f"It is not certain that the data as a whole differ from {where}."
        return Explanation(False, (said, *samples))
    rivals = ["directions that mean nothing"] if corrected.p_value > CHANCE else []
    rivals += [repr(name) for name, lead in found.leads.items() if not lead.low > 0]
    figures = [*_against_chance(found, corrected), *samples]
    if rivals:
        doubt = f"not surely in {trait!r} more than in {_series(rivals, 'and')}"
        return Explanation(False, (f"The data differ from {where}, but {doubt}.", *figures))
    return Explanation(True, (f"The data differ in {trait!r} from every clean domain; {where}.", *figures))


def _against_chance(found: AgainstDomains, corrected: Corrected) -> list[str]:
    """What directions of no meaning, and the nearest of the other traits, do as well."""
    chances = {"random directions": found.random, "directions of shuffled labels": found.placebos}
    shares = [
        f"of {place.n} {name} {100 * place.p_value:.1f} %" for name, place in chances.items() if place is not None
    ]
    over = f" (p = {corrected.p_value:.3f} by Holm's correction over {corrected.tests} traits)"
    said = [
        f"As well from every domain tell the data, treated alike, {_series(shares, 'and')}"
        f"{over if corrected.tests > 1 else ''}."
    ]
    if found.leads:
        nearest = min(found.leads, key=lambda name: found.leads[name].mean)
        said.append(
            f"Of other traits {nearest} comes nearest: the AUC against its worst domain is lower by "
            f"{found.leads[nearest]:.2f}."
        )
    return said


def _figure(trait: str, shift: Estimate) -> str:
    side = "above" if shift.mean >= 0 else "below"
    if not shift.bounded:
        return (
            f"Along {trait!r} the data lie {abs(shift.mean):.2f} deviations of the reference {side} its mean "
            f"({TOO_FEW}, {shift.n} samples)."
        )
    low, high = sorted((abs(shift.low), abs(shift.high))) if shift.low * shift.high > 0 else (shift.low, shift.high)
    if shift.low * shift.high <= 0 and side == "below":
        low, high = -high, -low
    return (
        f"Along {trait!r} the data lie {abs(shift.mean):.2f} deviations of the reference {side} its mean "
        f"(95 % interval {low:.2f} to {high:.2f}, {shift.n} samples)."
    )


def _among_random(chance: Place, corrected: Corrected | None) -> str:
    over = ""
    if corrected is not None and corrected.tests > 1:
        over = f", {corrected.p_value:.3f} by Holm's correction over {corrected.tests} traits"
    return (
        f"That is farther than {math.floor(chance.percentile)} % of {chance.n} random directions "
        f"(p = {chance.p_value:.3f}{over}); 95 % of those lie within {chance.p95:.2f}."
    )


def _after_covariates(adjusted: Adjusted) -> str:
    held = f"With {_series(adjusted.used, 'and')} held equal"
    if adjusted.remaining is None:
        return f"{held} nothing can be compared: they alone tell the data from the reference."
    r = adjusted.remaining
    share = "" if adjusted.explained is None else f", so that they explain {100 * adjusted.explained:.0f} % of it"
    if adjusted.explained is not None and adjusted.explained < 0:
        share = ", so that they explain none of it"
    return f"{held} a shift of {r.mean:+.2f} remains (95 % interval {r.low:+.2f} to {r.high:+.2f}){share}."


def _series(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
