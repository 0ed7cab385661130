"""Directions made of the shipped texts, on answers of a model that wrote none of them: does each mean its trait?

    python benchmarks/specific_directions.py SCORED CHATS... [--layer N] [--answers N] [--write]

SCORED is a folder of TRAIT.csv: answers told to show the trait and told not to (`side` pos, neg) with the scores of an
outside judge. Told-to answers with a score above 50 show the trait. The questions are parted: the weights of the method
were chosen with the first half, and the figures are of the second. CHATS are further data, such as the paper's sets.

Three ways side by side: raw (the difference of the texts' means), span (without what the centres of the clean domains
and the other traits span) and ridge (`screen --specific domains`). Along each, samples above the threshold are flagged
that read higher along no other trait and are like some known domain; thresholds are of the clean domains' second halves.
Everything is done twice: with the bank alone, and with answers told not to show a trait, to the first half of the
questions, as one more clean domain: a reference of the data's own kind, which a user may have.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common import arguments, publish
from personavec import load_model
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
from personavec.projection.discriminant import Scene, placebos
from personavec.projection.specific import remove_span
from personavec.screening.threshold import threshold
from personavec.stats.bootstrap import auc, bootstrap_auc, bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import covariance_directions
from personavec.stats.numbers import Floats
from personavec.texts import Text

WAYS = ("raw", "span", "ridge")
SHOWS = 50.0  # the outside score above which an answer shows the trait
DRAWN = 200  # random directions and placebos
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
    """

    traits: list[str]
    directions: Mapping[str, Tensor]
    scene: Scene
    clean: Tensor

    @classmethod
    def of(cls, bank: Bank) -> "Ways":
        scene = Scene.of(bank)
        raw = {t: s.positive.double().mean(0) - s.negative.double().mean(0) for t, s in bank.texts.items()}
        centres = [rows.double().mean(0) for rows in bank.first.values()]
        span = [remove_span(raw[t], torch.stack([*centres, *(v for u, v in raw.items() if u != t)]))[0] for t in raw]
        directions = {
            "raw": torch.nn.functional.normalize(torch.stack(list(raw.values())).float(), dim=1),
            "span": torch.stack(span),
            "ridge": torch.stack([made.direction for made in scene.traits.values()]),
        }
        return cls(list(raw), directions, scene, torch.cat(list(bank.second.values())))

    def flagged(self, rows: Tensor, way: str) -> np.ndarray:
        """(n, traits) of readings (n, d)."""
        along = (rows @ self.directions[way].T).double().numpy()
        clean = (self.clean @ self.directions[way].T).double().numpy()
        levels = np.array([threshold(column).value for column in clean.T])
        z = (along - clean.mean(0)) / clean.std(0)
        known = ~self.outside(rows)
        return (along > levels) & (z >= z.max(1, keepdims=True)) & known[:, None]

    def outside(self, rows: Tensor) -> np.ndarray:
        """(n,)."""
        return self.scene.familiar.outside((rows @ self.scene.familiar.axes.T).numpy())

    def worst(self, trait: str, answers: Answers, way: str) -> tuple[str, Estimate]:
        """The domain that answers are told from least, with the AUC."""
        direction = self.directions[way][self.traits.index(trait)]
        mine = (answers.rows @ direction).double().numpy()
        theirs = {n: (r @ direction).double().numpy() for n, r in self.scene.bank.second.items()}
        name = min(theirs, key=lambda n: auc(mine, theirs[n]))
        return name, bootstrap_auc(mine, theirs[name], answers.questions, list(range(len(theirs[name]))))

    def chance(self, trait: str, answers: Answers) -> tuple[float, float]:
        """Shares of random directions, and of directions of shuffled labels, with as high an AUC for the worst domain."""
        made = self.scene.traits[trait]
        of_clean = covariance_directions(self.clean[:, None], ["clean"] * len(self.clean), DRAWN, 1)[:, 0]
        shuffled = placebos(self.scene.bank, trait, DRAWN, 0)

        def least(directions: Tensor) -> Floats:
            mine = (answers.rows @ directions.T).numpy()
            each = np.stack([auc(mine, (rows @ directions.T).numpy()) for rows in self.scene.bank.second.values()])
            return np.maximum(each.min(0), 1 - each.max(0))

        def own() -> float:
            return float(self.worst(trait, answers, "ridge")[1].mean)

        first, second = (
            float((1 + (least(torch.stack([made(d).direction for d in drawn])) >= own()).sum()) / (DRAWN + 1))
            for drawn in (of_clean, shuffled)
        )
        return first, second


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
    wide = Bank({**bank.first, "told not to": like[::2]}, {**bank.second, "told not to": like[1::2]}, bank.texts)
    both = {"the bank": Ways.of(bank), "and a reference of the same model": Ways.of(wide)}
    notes = [
        f"{model.id}, layer {layer}, first 80 tokens. Directions from {sum(map(size, bank.texts.values()))} shipped texts and "
        f"{len(bank.first)} clean domains; weights chosen with the first half of the questions, figures of the second. "
        f"With {SHOWS:.0f} as the least outside score: "
        + ", ".join(f"{t} n = {len(a.rows)}" for t, a in told.items())
        + ".",
        "Flagged: above the threshold (5 % of the clean domains' second halves), higher along no other trait in deviations "
        "of those, and like a known domain. In each cell raw / span / ridge.",
    ]
    summary(both, told, notes, options.write, model.device)
    everything(both, told, told_not, chats, notes, options.write, model.device)


def summary(
    both: Mapping[str, Ways], told: Mapping[str, Answers], notes: list[str], write: bool, device: torch.device
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
            name, least = ways.worst(trait, told[trait], "ridge")
            before = [ways.worst(trait, told[trait], way)[1].mean for way in WAYS[:2]]
            chance = ways.chance(trait, told[trait])
            met = [least.mean >= 0.9, share.mean >= 80, others["ridge"][high] <= 10, clean[2] <= 7]
            rows.append(
                [
                    against,
                    trait,
                    " / ".join(f"{each:.2f}" for each in before) + f" / **{least:.2f}** ({name})",
                    f"{chance[0]:.3f}, {chance[1]:.3f}",
                    " / ".join(f"{each:.0f}" for each in shares) + f" / **{share:.0f}**",
                    " / ".join(f"{max(others[way].values()):.0f}" for way in WAYS) + f" ({high})",
                    " / ".join(f"{each:.1f}" for each in clean),
                    ", ".join("yes" if each else "no" for each in met),
                ]
            )
    publish(
        "specific_directions",
        "Directions that mean one trait, from shipped texts, on another model's answers",
        ["clean domains", "trait", "AUC against the worst domain", "p: random, shuffled labels", "own flagged, %",
         "most of another trait's data, %", "clean, %", "goals met"],
        rows,
        [
            *notes,
            f"Goals, in this order: {GOALS}. Intervals are 95 %, drawn over questions (6 a trait). p: share of {DRAWN} random "
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
                         f"{100 * ways.outside(found).mean():.0f}"])  # fmt: skip
    first = next(iter(both.values()))
    bank = first.scene.bank
    for left in bank.first:
        rest = Bank(*({n: r for n, r in half.items() if n != left} for half in (bank.first, bank.second)), bank.texts)
        ways, found = Ways.of(rest), torch.cat([bank.first[left], bank.second[left]])
        cells = 100 * ways.flagged(found, "ridge").mean(0)
        rows.append(["the bank without it", f"domain {left}", str(len(found)), *(f"{v:.0f}" for v in cells),
                     f"{100 * ways.outside(found).mean():.0f}"])  # fmt: skip
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
