"""Holding the projection against adding the vector, at equal trait score: perplexity of general text, and coherence.

    python benchmarks/floor.py --vector VECTOR ... [--write]

A floor moves only the tokens that lie below it, a cap those above it; adding moves every token. Where a floor gives the
same score for less perplexity, moving only what needs it is worth its while. Each way is tried at several strengths; what
it costs at a score is read off the straight lines between them, and the difference of two ways is bootstrapped over
questions (scores, coherence) and passages (perplexity), which both ways share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import arguments, publish
from personavec import ChatModel, PersonaVector, load_model
from personavec.capability import passage_losses
from personavec.interventions import interventions
from personavec.judges.base import UNFITTED
from personavec.judges.kinds import open_judge
from personavec.model import Request
from personavec.model.edits import Intervention
from personavec.operations import ADD, CAP, FLOOR
from personavec.rollouts import Rollout, plan
from personavec.stats.numbers import Floats
from personavec.traits import load_trait

SHARES = (0.0625, 0.125, 0.1875, 0.25)  # of the mean residual norm, of what is added
BOUNDS = (0.0, 1.0, 2.0, 3.0)  # deviations of neutral tokens; a cap's with the other sign
LEVELS = (0.5, 0.8)  # of the way from the plain score to the highest (lowest) that both ways reach
DRAWS = 4000
TOKENS, TEMPERATURE = 40, 0.7


@dataclass(frozen=True)
class Tried:
    """One way at one strength.

    Attributes:
        way: Its name.
        strength: In words.
        score, coherence: Points (questions,); NaN where there is none.
        losses: Nats per token (passages,).
    """

    way: str
    strength: str
    score: Floats
    coherence: Floats
    losses: Floats


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument(
        "--vector", type=Path, nargs="+", required=True, help="of library traits, with neutral statistics"
    )
    parser.add_argument("--passages", type=int, default=24)
    options = parser.parse_args()
    model = load_model(options.model)
    rows, read = [], []
    for path in options.vector:
        vector = PersonaVector.load(path)
        vector.check(model)
        tried = measure(model, vector, options.passages)
        rows += [[vector.trait, *row] for row in compared(tried)]
        read.append(f"{vector.trait}, layer {vector.layer}; {len(tried[0].score)} evaluation questions")
        print(f"{vector.trait}: done", flush=True)
    notes = [
        f"{model.id}; {'; '.join(read)}; answers of {TOKENS} tokens at temperature {TEMPERATURE} with the same seeds for "
        f"every way; the probe judge; {options.passages} passages, every token of which is edited (of the answers, the response).",
        "Adding is by a share of the mean residual norm, bounds are in deviations of the tokens of neutral answers.",
        "Brackets: 95 % intervals, bootstrapped over questions or passages. Perplexity is the ratio to the plain model's. "
        "In the rows at equal score: the second way minus the first (perplexity: divided by it) at the score named, between the "
        "strengths tried; a draw that does not reach the score counts as its strongest setting.",
    ]
    header = ["trait", "way", "strength", "trait score", "coherence", "perplexity, times plain"]
    publish("floor", "Floor and cap against adding", header, rows, notes, options.write, model.device, timed=False)


def compared(tried: Sequence[Tried]) -> list[list[str]]:
    """A row for every way at every strength, and for each bound against adding at equal score."""
    plain = tried[0]
    rows = [[one.way, one.strength, *_figures(one, plain)] for one in tried]
    for low, high in (("add, plus", "floor"), ("add, minus", "cap")):
        first, second = ([plain, *(one for one in tried if one.way == way)] for way in (low, high))
        rows += [_equal(first, second, level) for level in LEVELS]
    return rows


def measure(model: ChatModel, vector: PersonaVector, passages: int) -> list[Tried]:
    """Every way at every strength, the plain model first."""
    layer = vector.layer
    assert vector.residual_norm is not None
    unit = float(vector.residual_norm[layer]) / float(vector.at(layer).norm())
    ways: list[tuple[str, str, list[Intervention]]] = [("plain", "", [])]
    for sign, name in ((1, "plus"), (-1, "minus")):
        for share in SHARES:
            edits = interventions(ADD, vector, sign * share * unit)
            ways.append((f"add, {name}", f"{100 * sign * share:+.4g} %", edits))
    for operation, sign in ((FLOOR, 1), (CAP, -1)):
        for bound in BOUNDS:
            ways.append((operation.name, f"{sign * bound + 0:g}", interventions(operation, vector, sign * bound)))
    trait = load_trait(vector.trait)
    answers = [
        plan(model, "evaluation", trait.evaluation_questions, interventions=edits, setting=f"{way} {strength}")
        for way, strength, edits in ways
    ]
    every = [rollout for some in answers for rollout in some]
    requests = [
        Request(r.prompt_ids, TOKENS, TEMPERATURE, r.question_index, r.interventions) for r in every
    ]  # the same draws for every way
    for rollout, response in zip(every, model.generate(requests), strict=True):
        rollout.response_ids, rollout.text = response.ids, model.decode(response.ids)
    judge = open_judge("probe", model).of_both(trait, UNFITTED)
    judge.fit([], answers[0])
    judge.score([rollout for some in answers[1:] for rollout in some])
    return [
        Tried(way, strength, _points(some, "score"), _points(some, "coherence"), losses)
        for (way, strength, edits), some in zip(ways, answers, strict=True)
        for losses in [passage_losses(model, edits, first=passages)]
    ]


def _points(rollouts: Sequence[Rollout], what: str) -> Floats:
    return np.array([getattr(r, what) if getattr(r, what) is not None else np.nan for r in rollouts])


def _figures(one: Tried, plain: Tried) -> list[str]:
    draw = np.random.default_rng(0)
    asked, read = (draw.integers(n, size=(DRAWS, n)) for n in (len(one.score), len(one.losses)))
    score, coherence = (_shown(values, np.nanmean(values[asked], 1)) for values in (one.score, one.coherence))
    change = one.losses - plain.losses
    ratio = "1" if one is plain else _shown(change, change[read].mean(1), ratio=True)
    return [score, coherence, ratio]


def _shown(values: Floats, draws: Floats, *, ratio: bool = False) -> str:
    numbers = [float(np.nanmean(values)), *np.nanquantile(draws, (0.025, 0.975))]
    form = ".2f" if ratio else ".1f"
    middle, low, high = (f"{np.exp(x) if ratio else x:{form}}" for x in numbers)
    known = int(np.isfinite(values).sum())
    return f"{middle} [{low}, {high}], n = {known}"


def _equal(first: Sequence[Tried], second: Sequence[Tried], level: float) -> list[str]:
    """The second way against the first at a score, as a row."""
    curves = [_curves(way) for way in (first, second)]
    plain = curves[0][0][0]
    down = curves[0][0][-1] < plain
    reach = (max if down else min)(curve[0][-1] if down else curve[0].max() for curve in curves)
    wanted = plain + level * (reach - plain)
    draw = np.random.default_rng(0)
    questions, passages = len(first[0].score), len(first[0].losses)
    found, short = [], 0
    for _ in range(DRAWS):
        asked, read = draw.integers(questions, size=questions), draw.integers(passages, size=passages)
        sides = [_curves(way, asked, read) for way in (first, second)]
        short += any((side[0].min() > wanted) if down else (side[0].max() < wanted) for side in sides)
        a, b = (_at(side, wanted, down) for side in sides)
        found.append(b - a)
    a, b = (_at(curve, wanted, down) for curve in curves)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    cost = [f"{x:+.1f}" for x in ((b - a)[0], low[0], high[0])]
    ratio = [f"{np.exp(x):.2f}" for x in ((b - a)[1], low[1], high[1])]
    return [
        f"**{second[1].way} against {first[1].way}**",
        "at equal score",
        f"{wanted:.1f} ({100 * short / DRAWS:.0f} % of draws do not reach it)",
        f"{cost[0]} [{cost[1]}, {cost[2]}], n = {questions}",
        f"{ratio[0]} [{ratio[1]}, {ratio[2]}], n = {passages}",
    ]


def _curves(way: Sequence[Tried], asked: object = slice(None), read: object = slice(None)) -> tuple[Floats, ...]:
    """Mean score, coherence and change of the loss at each strength, from none to the strongest."""
    score = np.array([np.nanmean(one.score[asked]) for one in way])
    coherence = np.array([np.nanmean(one.coherence[asked]) for one in way])
    return score, coherence, np.array([(one.losses - way[0].losses)[read].mean() for one in way])


def _at(curves: Sequence[Floats], wanted: float, down: bool) -> Floats:
    """Coherence and change of the loss where the score is first as wanted."""
    score, *values = curves
    climb = np.maximum.accumulate(-score if down else score)
    return np.array([np.interp(-wanted if down else wanted, climb, value) for value in values])


if __name__ == "__main__":
    main()
