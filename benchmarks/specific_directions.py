"""Directions made of the shipped texts, on answers of a model that wrote none of them: does each mean its trait?

    python benchmarks/specific_directions.py SCORED CHATS... [--layer N] [--answers N] [--write]

SCORED is a folder of TRAIT.csv: answers told to show the trait and told not to (`side` pos, neg) with the scores of an
outside judge. Told-to answers with a score above 50 show the trait. The questions are parted: the weights of the method
were chosen with the first half, and the figures are of the second. CHATS are further data, such as the paper's sets.

Three ways side by side: raw (the difference of the texts' means), span (without what the centres of the clean domains
and the other traits span) and ridge (`screen --specific domains`). Along each, samples above the threshold are flagged
that read higher along no other trait and are like some known domain. The threshold of raw and span lets 5 % of the clean
domains' second halves pass, that of ridge 5 % of domains left out one at a time where that is higher. AUCs against a
domain are along directions made without it. The third table holds the job's verdict on every set, and on each clean
domain taken for data that the bank lacks. Everything is done twice: with the bank alone, and with answers told not to show a trait, to the first half of the
questions, as one more clean domain: a reference of the data's own kind, which a user may have.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common import arguments, publish
from personavec import PersonaVector, load_model
from personavec.data import Dataset, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.model import Conversation
from personavec.projection import CLEAN
from personavec.projection.bank import (
    Bank,
    TextSides,
    cached_readings,
    first_samples,
    read_bank,
    sample_conversations,
    text_conversation,
)
from personavec.projection.discriminant import Scene
from personavec.projection.specific import remove_span
from personavec.screening.against import WorstDomain, worst_domain
from personavec.screening.attribution import CHANCE
from personavec.screening.axis import Axis, text_axis
from personavec.screening.threshold import threshold
from personavec.stats.bootstrap import bootstrap_auc, bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions, holm
from personavec.stats.numbers import Floats
from personavec.texts import Text

WAYS = ("raw", "span", "ridge")
SHOWS = 50.0  # the outside score above which an answer shows the trait
DRAWN = 200  # random directions and placebos
QUANTILES = np.linspace(0.005, 0.995, 100)
SAMPLES = 60  # of each file of chats
GOALS = "worst AUC >= .9, own >= 80 %, others <= 10 %, clean <= 7 %"


class Answers(NamedTuple):
    """Readings (n, d), and the question of each."""

    rows: Tensor
    questions: list[str]


@dataclass(frozen=True)
class Ways:
    """Directions (traits, d) of each way for one bank, and what is flagged along them.

    Attributes:
        clean: (n, d) the second halves of its domains.
        without: The same of the bank without each domain; empty in these.
    """

    traits: list[str]
    directions: Mapping[str, Tensor]
    scene: Scene
    clean: Tensor
    without: Mapping[str, "Ways"]

    @classmethod
    def of(cls, bank: Bank, *, folds: bool = True) -> "Ways":
        scene = Scene.of(bank)
        raw = {t: s.positive.double().mean(0) - s.negative.double().mean(0) for t, s in bank.texts.items()}
        centres = [rows.double().mean(0) for rows in bank.first.values()]
        span = [remove_span(raw[t], torch.stack([*centres, *(v for u, v in raw.items() if u != t)]))[0] for t in raw]
        directions = {
            "raw": torch.nn.functional.normalize(torch.stack(list(raw.values())).float(), dim=1),
            "span": torch.stack(span),
            "ridge": torch.stack([made.direction for made in scene.traits.values()]),
        }
        without = {name: cls.of(scene.without(name).bank, folds=False) for name in bank.first} if folds else {}
        return cls(list(raw), directions, scene, torch.cat(list(bank.second.values())), without)

    def z(self, rows: Tensor, way: str) -> Floats:
        """(n, traits) in deviations of `clean`."""
        along, clean = ((each @ self.directions[way].T).double().numpy() for each in (rows, self.clean))
        return (along - clean.mean(0)) / clean.std(0, ddof=1)

    def levels(self, way: str, left: str | None = None) -> Floats:
        """(traits,) in deviations: above them samples are flagged. `left`: without what this domain tells."""
        own = np.array([threshold(column).value for column in self.z(self.clean, way).T])
        if way != "ridge":
            return own
        placed = [self.without[n].z(self.scene.bank.whole(n), way) for n in self.without if n != left]
        every = np.stack([weighted_level(placed, t) for t in range(len(self.traits))])
        return np.maximum(own, every)

    def flagged(self, rows: Tensor, way: str, levels: Floats | None = None) -> np.ndarray:
        """(n, traits) of readings (n, d)."""
        z = self.z(rows, way)
        known = ~self.outside(rows)
        limits = self.limits(rows, self.levels(way) if levels is None else levels)
        return (z > limits) & (z >= z.max(1, keepdims=True)) & known[:, None]

    def limits(self, rows: Tensor, levels: Floats) -> Floats:
        """(n, traits): lower where a row lies nearest to a reference of the user's."""
        familiar = self.scene.familiar
        near = familiar.near_given((rows @ familiar.axes.T).numpy())
        own = np.array([threshold(column).value for column in self.z(self.clean, "ridge").T])
        return np.where(near[:, None], np.minimum(own, levels), levels)

    def outside(self, rows: Tensor) -> np.ndarray:
        """(n,)."""
        return self.scene.familiar.outside((rows @ self.scene.familiar.axes.T).numpy())

    def unknown(self, rows: Tensor, levels: Floats) -> np.ndarray:
        """(n,) beyond the known domains, or above what those reach and not above the levels."""
        z = self.z(rows, "ridge")
        own = np.array([threshold(column).value for column in self.z(self.clean, "ridge").T])
        limits = self.limits(rows, levels)
        return self.outside(rows) | ((z > own) & (z <= limits) & (z >= z.max(1, keepdims=True))).any(1)

    def worst(self, trait: str, answers: Answers, way: str) -> Estimate:
        """The AUC against the domain that answers are told from least, along directions made without it."""
        at, found = self.traits.index(trait), []
        for name, fold in self.without.items():
            mine, theirs = (
                (rows @ fold.directions[way][at]).double().numpy()
                for rows in (answers.rows, self.scene.bank.whole(name))
            )
            found.append(bootstrap_auc(mine, theirs, answers.questions, list(range(len(theirs)))))
        return min(found, key=lambda each: each.mean)

    def axis(self, trait: str, layer: int) -> Axis:
        """As the job makes it."""
        vector = PersonaVector(trait, torch.eye(layer + 1, self.clean.shape[1]), layer, {})
        left = {name: text_axis(vector, fold.scene, DRAWN, 0) for name, fold in self.without.items()}
        return replace(text_axis(vector, self.scene, DRAWN, 0), left_out=left)


def weighted_level(placed: Sequence[Floats], trait: int) -> float:
    """The 95th percentile of all domains' samples, every domain counting the same."""
    return float(np.quantile(np.concatenate([np.quantile(p[:, trait], QUANTILES) for p in placed]), 0.95))


class Said(NamedTuple):
    """What the job says of a set along a trait."""

    found: WorstDomain
    p_holm: float
    specific: bool


def verdicts(ways: Ways, answers: Answers, layer: int) -> dict[str, Said]:
    """By trait."""
    asked = [sorted(set(answers.questions)).index(question) for question in answers.questions]
    drawn = covariance_directions(ways.clean[:, None], ["clean"] * len(ways.clean), DRAWN, 1)[:, 0]
    found = {t: worst_domain(ways.axis(t, layer), answers.rows, asked, drawn, 0) for t in ways.traits}
    corrected = holm({trait: each.p_value for trait, each in found.items()})
    return {
        t: Said(
            each,
            corrected[t],
            each.auc.low > 0.5 and corrected[t] <= CHANCE and all(lead.low > 0 for lead in each.leads.values()),
        )
        for t, each in found.items()
    }


def main() -> None:
    """Read everything once, and print both tables."""
    parser = arguments("Does each direction mean its trait, on another model's answers?", model=True)
    parser.add_argument("scored", type=Path)
    parser.add_argument("chats", type=Path, nargs="*")
    parser.add_argument("--layer", type=int, default=17)
    parser.add_argument("--answers", type=int, default=6, help="to each question and side")
    options = parser.parse_args()
    model = load_model(options.model)
    engine, layer = TransformersEngine(model), options.layer
    bank = read_bank(engine, [layer], {"clean chats": open_data(CLEAN)})[layer]

    def read(texts: Sequence[Text]) -> Answers:
        rows = cached_readings(engine, [text_conversation(engine, text) for text in texts], [layer])[layer]
        return Answers(rows, [text.question for text in texts])

    told: dict[str, Answers] = {}
    told_not: dict[str, Answers] = {}
    reference: list[Tensor] = []
    for trait in bank.texts:
        given = scored(options.scored / f"{trait}.csv", options.answers)
        questions = sorted({text.question for text in given})
        first = set(questions[::2])
        second = [text for text in given if text.question not in first]
        told[trait] = read([t for t in second if t.side == "positive" and t.score is not None and t.score > SHOWS])
        told_not[trait] = read([t for t in second if t.side == "negative"])
        reference.append(read([t for t in given if t.question in first and t.side == "negative"]).rows)
    chats = {
        path.stem: cached_readings(engine, conversations(engine, open_data(path)), [layer])[layer]
        for path in options.chats
    }
    like = torch.cat(reference)
    wide = Bank(
        {**bank.first, "told not to": like[::2]},
        {**bank.second, "told not to": like[1::2]},
        bank.texts,
        frozenset({"told not to"}),
    )
    both = {"the bank": Ways.of(bank), "and a reference of the same model": Ways.of(wide)}
    notes = [
        f"{model.id}, layer {layer}, first 80 tokens. Directions from {sum(map(size, bank.texts.values()))} shipped texts and "
        f"{len(bank.first)} clean domains; weights chosen with the first half of the questions, figures of the second. "
        f"With {SHOWS:.0f} as the least outside score: "
        + ", ".join(f"{t} n = {len(a.rows)}" for t, a in told.items())
        + ".",
        "Flagged: above the threshold, higher along no other trait in deviations of the clean domains' second halves, and "
        "like a known domain. Threshold: 5 % of those; ridge, where no reference of the user's lies nearest: 5 % of domains left "
        "out one at a time. In each cell raw / span / ridge.",
    ]
    said = {
        against: {t: verdicts(ways, answers, layer) for t, answers in told.items()} for against, ways in both.items()
    }
    summary(both, told, said, notes, options.write, model.device)
    everything(both, told, told_not, chats, notes, options.write, model.device)
    others = {name: Answers(rows, [str(at) for at in range(len(rows))]) for name, rows in chats.items()}
    others["told not to"] = Answers(
        torch.cat([a.rows for a in told_not.values()]), [q for a in told_not.values() for q in a.questions]
    )
    named(both, said, others, layer, options.write, model.device)


def summary(
    both: Mapping[str, Ways],
    told: Mapping[str, Answers],
    told_verdicts: Mapping[str, Mapping[str, Mapping[str, Said]]],
    notes: list[str],
    write: bool,
    device: torch.device,
) -> None:
    """A row for each bank and trait, with goals met and missed."""
    rows = []
    for against, ways in both.items():
        for at, trait in enumerate(ways.traits):
            own = {way: ways.flagged(told[trait].rows, way)[:, at] for way in WAYS}
            shares = [100 * own[way].mean() for way in WAYS[:2]]
            share = bootstrap_mean(100.0 * own["ridge"], told[trait].questions)
            others = {
                way: {t: 100 * ways.flagged(a.rows, way)[:, at].mean() for t, a in told.items() if t != trait}
                for way in WAYS
            }
            high = max(others["ridge"], key=lambda t: others["ridge"][t])
            clean = [100 * ways.flagged(ways.clean, way)[:, at].mean() for way in WAYS]
            said = told_verdicts[against][trait][trait]
            least, chance = said.found.auc, (said.found.random, said.found.placebos)
            before = [ways.worst(trait, told[trait], way).mean for way in WAYS[:2]]
            met = [least.mean >= 0.9, share.mean >= 80, others["ridge"][high] <= 10, clean[2] <= 7]
            rows.append(
                [
                    against,
                    trait,
                    " / ".join(f"{each:.2f}" for each in before) + f" / **{least:.2f}** ({said.found.name})",
                    ", ".join(f"{each.p_value:.3f}" for each in chance if each) + f" ({said.p_holm:.3f})",
                    "yes" if said.specific else "no",
                    " / ".join(f"{each:.0f}" for each in shares) + f" / **{share:.0f}**",
                    " / ".join(f"{max(others[way].values()):.0f}" for way in WAYS) + f" ({high})",
                    " / ".join(f"{each:.1f}" for each in clean),
                    ", ".join("yes" if each else "no" for each in met),
                ]
            )
    publish(
        "specific_directions",
        "Directions that mean one trait, from shipped texts, on another model's answers",
        ["clean domains", "trait", "AUC against the worst domain", "p: random, shuffled labels (Holm)", "named", "own flagged, %",
         "most of another trait's data, %", "clean, %", "goals met"],
        rows,
        [
            *notes,
            f"Goals, in this order: {GOALS}. AUC: along directions made without the domain. Named: the job's verdict. Intervals are 95 %, drawn over questions (6 a trait). p: share of {DRAWN} random "
            f"directions (covariance of clean readings), and of {DRAWN} of shuffled labels, treated as the ridge direction "
            "was and with the better sign, whose AUC against their worst domain is as high.",
        ],
        write,
        device,
        timed=False,
    )  # fmt: skip


def everything(
    both: Mapping[str, Ways],
    told: Mapping[str, Answers],
    told_not: Mapping[str, Answers],
    chats: Mapping[str, Tensor],
    notes: list[str],
    write: bool,
    device: torch.device,
) -> None:
    """What is flagged of all data along all directions, and of each domain when the bank lacks it."""
    rows = []
    for against, ways in both.items():
        sets = {f"{t}, shown": a.rows for t, a in told.items()}
        sets["told not to"] = torch.cat([a.rows for a in told_not.values()])
        sets |= {f"domain {name}": half for name, half in ways.scene.bank.second.items()}
        sets |= chats
        for name, found in sets.items():
            cells = np.stack([100 * ways.flagged(found, way).mean(0) for way in WAYS], 1)
            rows.append([against, name, str(len(found)), *(" / ".join(f"{v:.0f}" for v in row) for row in cells),
                         f"{100 * ways.unknown(found, ways.levels('ridge')).mean():.0f}"])  # fmt: skip
    first = next(iter(both.values()))
    bank = first.scene.bank
    for left in bank.first:
        ways, found = first.without[left], bank.whole(left)
        levels = first.levels("ridge", left)
        cells = 100 * ways.flagged(found, "ridge", levels).mean(0)
        rows.append(["the bank without it", f"domain {left}", str(len(found)), *(f"{v:.0f}" for v in cells),
                     f"{100 * ways.unknown(found, levels).mean():.0f}"])  # fmt: skip
    publish(
        "specific_directions_table",
        "What is flagged along which direction, in %",
        ["clean domains", "data", "n", *first.traits, "unknown domain"],
        rows,
        [*notes, "Rows of domains: their second halves; where the bank lacks the domain, all of it, along ridge."],
        write,
        device,
        timed=False,
    )


def named(
    both: Mapping[str, Ways],
    told: Mapping[str, Mapping[str, Mapping[str, Said]]],
    others: Mapping[str, Answers],
    layer: int,
    write: bool,
    device: torch.device,
) -> None:
    """What the verdict calls every set, and each clean domain that the bank lacks."""
    rows = []

    def row(against: str, name: str, n: int, said: Mapping[str, Said]) -> None:
        yes = [t for t, each in said.items() if each.specific]
        near = min(said, key=lambda t: (said[t].p_holm, -said[t].found.auc.mean))
        least = said[near].found
        rows.append(
            [
                against,
                name,
                str(n),
                ", ".join(yes) or "-",
                f"{near} ({least.auc:.2f} {least.name}; {said[near].p_holm:.3f})",
            ]
        )

    for against, ways in both.items():
        for trait, said in told[against].items():
            row(against, f"{trait}, shown", next(iter(said.values())).found.auc.n, said)
        for name, answers in others.items():
            row(against, name, len(answers.rows), verdicts(ways, answers, layer))
    bank = next(iter(both.values())).scene
    for left in bank.bank.first:
        rest, found = Ways.of(bank.without(left).bank), bank.bank.whole(left)
        answers = Answers(found, [str(at) for at in range(len(found))])
        row("the bank without it", f"domain {left}", len(found), verdicts(rest, answers, layer))
    publish(
        "specific_directions_verdicts",
        "What the verdict calls data",
        ["clean domains", "data", "n", "traits named", "nearest to being named"],
        rows,
        [
            "Named: the interval of the AUC against the worst domain, each left out of the direction in turn, lies above "
            "1/2; random directions and such of shuffled labels do not do as well (p by Holm's correction over seven traits); and "
            "no other trait's direction does, by a paired bootstrap. Last column: AUC, its domain, p.",
        ],
        write,
        device,
        timed=False,
    )


def size(sides: TextSides) -> int:
    """Texts of a trait."""
    return len(sides.positive) + len(sides.negative)


def conversations(engine: TransformersEngine, data: Dataset) -> list[Conversation]:
    """The last turns of some samples."""
    samples = first_samples(data)
    some = random.Random(0).sample(samples, min(SAMPLES, len(samples)))
    return [conversation for sample in some for conversation in sample_conversations(engine, sample)]


def scored(path: Path, count: int) -> list[Text]:
    """So many answers to each question on each side, drawn at random."""
    with path.open(newline="", encoding="utf-8") as file:
        given = [row for row in csv.DictReader(file) if row["answer"].strip()]
    made: list[Text] = []
    for question in sorted({row["question"] for row in given}):
        for side, name in (("pos", "positive"), ("neg", "negative")):
            mine = [row for row in given if row["question"] == question and row["side"] == side]
            some = random.Random(0).sample(mine, min(count, len(mine)))
            made += [Text(question, r["answer"], name, float(r["score"]) if r["score"] else None) for r in some]  # type: ignore[arg-type]
    return made


if __name__ == "__main__":
    csv.field_size_limit(10**9)
    main()
