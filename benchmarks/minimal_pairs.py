"""Is it the trait that judges score, or style? Texts of the library beside themselves in another style.

    python benchmarks/minimal_pairs.py [--model MODEL] [--texts N] [--write]

Texts of the half that no judge was fitted on, whole and their first sentence alone, of both sides of the seven traits.
Whatever a judge says of the one it should say of the other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import arguments, publish
from personavec import ChatModel, load_model
from personavec.extraction.given.steering import text_rollouts
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.judges.probe import ProbeModel
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.texts import TOKENS, Text
from personavec.texts.contrastive import library_texts
from personavec.texts.minimal_pairs import CHANGES, restyled
from personavec.traits import Trait, library_names, load_trait

FAR = 10  # points
FITTED = 6  # texts of a side that the contrast judge is calibrated to
FIRST = re.compile(r"(?<=[.!?])\s")


@dataclass(frozen=True)
class Pair:
    """What a judge made of a text and of the same in another style.

    Attributes:
        shift: Points.
        beyond: Whether that is more than the judge's own 95 % interval; None: it has none.
    """

    judge: str
    trait: str
    change: str
    question: str
    shift: float
    beyond: bool | None


def texts_of(trait: str, count: int) -> list[Text]:
    """So many of each side, and their first sentences."""
    chosen = []
    for side in ("positive", "negative"):
        mine = [text for text in library_texts(trait).test if text.side == side]
        chosen += mine[:: max(1, len(mine) // count)][:count]
    opened = [replace(text, answer=FIRST.split(text.answer)[0]) for text in chosen]
    return [*chosen, *(text for text, whole in zip(opened, chosen, strict=True) if text.answer != whole.answer)]


def judges(model: ChatModel, trait: Trait, probes: ProbeModel) -> list[Judge]:
    """The probe, and the contrast judge calibrated to texts that the probe learnt from."""
    known = library_texts(trait.name).extract
    sides = [[text for text in known if text.side == side][:FITTED] for side in ("positive", "negative")]
    told = text_rollouts(model, "extract", [*sides[0], *sides[1]], TOKENS)
    contrast = ContrastJudge(model, trait, pairs=1, alone=True)
    contrast.fit(told, [replace(one) for one in told[FITTED:]])
    return [probes.of_trait(trait), contrast]


def pairs_of(model: ChatModel, trait: Trait, judge: Judge, texts: Sequence[Text]) -> list[Pair]:
    """Of all texts that a change changes; those that the judge gives no score are left out."""
    before = text_rollouts(model, "before", texts, TOKENS)
    made: list[tuple[Rollout, str, Text]] = []
    for change in CHANGES:
        for rollout, text in zip(before, texts, strict=True):
            if (other := restyled(text.answer, change)) is not None:
                made.append((rollout, change, replace(text, answer=other)))
    after = text_rollouts(model, "after", [text for *_, text in made], TOKENS)
    judge.score([*before, *after])
    return [
        Pair(
            judge.name, trait.name, change, one.question, other.score - one.score,
            None if one.score_error is None else abs(other.score - one.score) > 1.96 * one.score_error,
        )
        for (one, change, _), other in zip(made, after, strict=True)
        if one.score is not None and other.score is not None
    ]  # fmt: skip


def row(pairs: Sequence[Pair], *names: str) -> list[str]:
    """A line of a table, by questions."""
    asked = [(pair.trait, pair.question) for pair in pairs]
    shifts = np.array([pair.shift for pair in pairs])
    mean, size = (bootstrap_mean(values, asked) for values in (shifts, np.abs(shifts)))
    beyond = [pair.beyond for pair in pairs if pair.beyond is not None]
    return [
        *names,
        f"{mean:+.1f}",
        f"{size:.1f}",
        f"{100 * np.mean(np.abs(shifts) > FAR):.0f} %",
        f"{100 * np.mean(beyond):.0f} %" if beyond else "has none",
        f"{len(pairs)} of {mean.n} questions",
    ]


def table(found: Sequence[Pair], model: ChatModel, write: bool) -> None:
    """Print, and store if asked, what judges made of the pairs: by change, and by trait."""
    rows = []
    for judge in ("probe", "contrast"):
        mine = [pair for pair in found if pair.judge == judge]
        rows += [row([p for p in mine if p.change == change], judge, "all", change) for change in CHANGES]
        rows += [row([p for p in mine if p.trait == name], judge, name, "any") for name in library_names()]
    publish(
        "minimal_pairs",
        f"Minimal pairs: texts in another style, as judges on {model.id} score them",
        ["judge", "trait", "change", "mean shift, points", "mean size of the shift", f"above {FAR}", "beyond the judge's own interval", "pairs"],
        rows,
        [
            "Brackets: 95 % interval over questions.",
            f"The contrast judge, by one pair of instructions, is calibrated to {FITTED} + {FITTED} of the texts that the "
            "probe learnt from.",
            f"Texts are cut after {TOKENS} tokens, so a long one that is said twice is read half.",
        ],
        write,
        model.device,
        timed=False,
    )  # fmt: skip


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--texts", type=int, default=2, help="of a side, for each trait")
    options = parser.parse_args()
    model = load_model(options.model)
    probes = ProbeModel(model, "library", "probe")
    found: list[Pair] = []
    for name in library_names():
        trait = load_trait(name)
        for judge in judges(model, trait, probes):
            found += pairs_of(model, trait, judge, texts_of(name, options.texts))
            print(f"{name}, {judge.name}: {len(found)} pairs so far", flush=True)
    table(found, model, options.write)


if __name__ == "__main__":
    main()
