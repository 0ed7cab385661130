"""How well does the reading before an answer tell the answer's score? Graded system prompts, and examples.

    python benchmarks/before_reading.py --out runs/before [--traits evil sycophantic] [--questions 10] [--write]

As in the paper (section 3.3) the last prompt token is projected on the vector, and the answer that follows is scored. The
eight system prompts of a trait run from against it to for it, at equal length (`before_reading_prompts.json`). Examples
are 2, 4 or 8 exchanges before the question: library texts that neither the vector nor the probe is made of, of the side
that shows the trait, or, to the same questions, of the side that lacks it. The vectors are the ready ones, the questions
evaluation questions. What is done is kept in --out and not done again; `points.jsonl` there holds all answers.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from common import arguments, now, publish
from common import show_estimate as show
from models import ABOVE, ANSWER, Bench
from personavec import Conversation, PersonaVector
from personavec.extraction.settings import ExtractionSettings
from personavec.files import replacing, to_json, write_atomic
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import state_of
from personavec.judges.probe import ProbeModel
from personavec.model.template import Message
from personavec.readout import read
from personavec.ready import find_ready
from personavec.rollouts import Rollout, Side, plan
from personavec.stats.bootstrap import (
    DRAWS,
    bootstrap_auc,
    bootstrap_mean,
    bootstrap_pearson,
    draw_weights,
    interval,
    pearson,
)
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import DIRECTIONS, Place, covariance_directions, place
from personavec.stats.numbers import Floats
from personavec.texts.contrastive import library_texts
from personavec.texts.style import held_equal, table
from personavec.traits import library_names, load_trait

PROMPTS = Path(__file__).with_name("before_reading_prompts.json")
TRAITS = ("evil", "sycophantic", "hallucinating", "humorous")
JUDGES = ("probe", "contrast")
SIDES: tuple[Side, Side] = ("positive", "negative")
SIZES = (2, 4, 8)  # examples before the question
SYSTEM, EXAMPLES, SHOWING = "system prompts", "examples for and against", "examples for"
LEAST = 5  # answers on either side of ABOVE, fewer make no AUC


@dataclass(frozen=True)
class Condition:
    """What stands before a question.

    Attributes:
        kind: SYSTEM or EXAMPLES.
        grade: Of a system prompt 1 to 8, from against to for the trait; else how many examples show it, negative: lack
            it.
    """

    kind: str
    grade: int
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, eq=False)
class Points:
    """Answers of one trait that one judge has scored.

    Attributes:
        grades, questions: (n,) of their conditions, and places in the trait's list.
        scores: (n,) 0..100.
        z: (n,) of the reading before, in deviations of neutral prompts.
        along: (n, k) the same readings along the trait's vector, the other traits' vectors and random directions.
        lengths: (n,) tokens of the prompt.
        alone: (n,) along the trait's vector with nothing before the question.
        styles: (n, features) of the answers.
    """

    grades: NDArray[np.intp]
    questions: NDArray[np.intp]
    scores: Floats
    z: Floats
    along: Floats
    lengths: Floats
    alone: Floats
    styles: Floats

    def where(self, mask: NDArray[np.bool_]) -> "Points":
        """Those of a mask (n,)."""
        return Points(**{name: values[mask] for name, values in vars(self).items()})

    def within(self, values: Floats) -> Floats:
        """Values (n,) or (n, k) minus the mean of their condition."""
        found = values.astype(np.float64)
        for grade in np.unique(self.grades):
            mine = self.grades == grade
            found[mine] -= found[mine].mean(0)
        return found

    def means(self, values: Floats) -> Floats:
        """Of values (n,), by condition."""
        return np.array([values[self.grades == grade].mean() for grade in np.unique(self.grades)])


def conditions(name: str) -> list[Condition]:
    """All of a trait."""
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))[name]
    system = [Condition(SYSTEM, grade, ({"role": "system", "content": text},)) for grade, text in enumerate(prompts, 1)]
    texts = library_texts(name).test
    answers = {(text.question, text.side): text.answer for text in texts}
    # Short ones, as the answers are, too.
    long = {question: max(len(answers[question, side].split()) for side in SIDES) for question, _ in answers}
    asked = sorted(sorted(long), key=lambda question: long[question])[: max(SIZES)]
    random.Random(name).shuffle(asked)
    shown = [
        Condition(EXAMPLES, sign * size, tuple(
            message
            for question in asked[:size]
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answers[question, side]})
        ))
        for side, sign in zip(SIDES, (1, -1), strict=True)
        for size in SIZES
    ]  # fmt: skip
    return [*system, Condition(EXAMPLES, 0), *shown]


class OfTrait:
    """One trait: what is asked, what is answered, what is read before.

    Attributes:
        vector: The ready one.
        seconds: By step; none for what was there already.
    """

    def __init__(self, bench: Bench, name: str, count: int) -> None:
        self.bench, self.trait = bench, load_trait(name)
        self.vector = PersonaVector.load(find_ready(name).path).reading
        self.vector.check(bench.model)
        self.conditions, self.count = conditions(name), count
        self.seconds: dict[str, float] = {}

    @cached_property
    def answers(self) -> list[Rollout]:
        """To the questions under each condition, in their order."""
        model, questions = self.bench.model, self.trait.evaluation_questions[: self.count]
        asked = [
            replace(r, prompt_ids=model.prompt_ids([*one.messages, {"role": "user", "content": r.question}]))
            for one in self.conditions
            for r in plan(model, "before", questions, setting=f"{self.trait.name}/{one.kind}/{one.grade:+d}")
        ]
        start = now()
        found = self.bench.answer(asked, f"{self.trait.name}, before")
        self.seconds["answers"] = now() - start
        return found

    @cached_property
    def readings(self) -> torch.Tensor:
        """Of the last prompt tokens at the vector's layer (n, d), kept on disk."""
        layer = self.vector.layer
        path = self.bench.folder / f"before-{self.trait.name}-{self.count}-{layer}.safetensors"
        if path.exists():
            return load_file(path)["readings"]
        last = [Conversation(r.prompt_ids, [(len(r.prompt_ids) - 1, len(r.prompt_ids))]) for r in self.answers]
        start = now()
        found = read(self.bench.model, last, layers=[layer]).means[:, 0]
        with replacing(path) as temporary:
            save_file({"readings": found.contiguous()}, temporary)
        self.seconds["readings"] = now() - start
        return found

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """By judge (n,), NaN where it gives none."""
        name, found = self.trait.name, {}
        for judge in JUDGES:
            start = now()
            scored = self.bench.score(partial(self._judge, judge), f"{judge}/{name}", None, self.answers)
            self.seconds[judge] = now() - start
            found[judge] = np.array([np.nan if r.score is None else r.score for r in scored])
        return found

    def _judge(self, name: str) -> Judge:
        """Neither sees what stood before the question; the probe learns from the texts' first half."""
        model = self.bench.model
        if name == "contrast":
            return ContrastJudge(model, self.trait, state_of(self.vector).calibration, alone=True)
        return ProbeModel(model, "library", name).of_trait(self.trait)

    @cached_property
    def z(self) -> Floats:
        """(n,) as `monitor` says it."""
        mean, deviation = self.vector.neutral(self.vector.layer, of="prompt")
        along = (self.readings @ self.vector.unit(self.vector.layer)).double().numpy()
        return (along - mean) / deviation

    def points(self, kind: str, judge: str) -> Points:
        """Answers under conditions of a kind that the judge has scored."""
        grades = np.array([one.grade for one in self.conditions for _ in range(self.count)])
        family = np.array([one.kind for one in self.conditions for _ in range(self.count)])
        mask = (family == SYSTEM) if kind == SYSTEM else (family == EXAMPLES) & ((grades >= 0) | (kind == EXAMPLES))
        alone = self.z[(family == EXAMPLES) & (grades == 0)]
        every = Points(
            grades=grades,
            questions=np.array([r.question_index for r in self.answers]),
            scores=self.scores[judge],
            z=self.z,
            along=self.along(mask),
            lengths=np.array([len(r.prompt_ids) for r in self.answers], np.float64),
            alone=np.tile(alone, len(self.conditions)),
            styles=table([r.text for r in self.answers]),
        )
        return every.where(mask & np.isfinite(every.scores))

    def along(self, mask: NDArray[np.bool_]) -> Floats:
        """Readings along the vector, those of other traits at its layer, and random directions (n, k), the latter with
        the covariance of the readings of the mask."""
        layer, mine = self.vector.layer, self.readings[torch.from_numpy(mask)]
        drawn = covariance_directions(mine[:, None], ["all"] * len(mine), DIRECTIONS, 0)[:, 0]
        others = [PersonaVector.load(find_ready(name).path).at(layer) for name in self.others]
        return (self.readings @ torch.stack([self.vector.at(layer), *others, *drawn]).T).double().numpy()

    @property
    def others(self) -> list[str]:
        """The library's other traits."""
        return [name for name in library_names() if name != self.trait.name]


def over_both(x: Floats, y: Floats, points: Points) -> Estimate:
    """Pearson's r of (n,) with an interval from drawing conditions and questions, each by themselves.

    Every answer counts as often as its condition was drawn times as often as its question was (Owen 2007, "The
    pigeonhole bootstrap"): both might have been others.
    """
    weights, fewest = np.ones((DRAWS, len(x))), len(x)
    for seed, names in enumerate((points.grades, points.questions)):
        _, codes = np.unique(names, return_inverse=True)
        count = int(codes.max()) + 1
        weights, fewest = weights * draw_weights(count, seed, DRAWS)[:, codes], min(fewest, count)
    weights = weights[weights.sum(1) > 0]
    weights /= weights.sum(1, keepdims=True)
    a, b = x - x.mean(), y - y.mean()
    a, b = (values - (weights @ values)[:, None] for values in (a, b))  # (draws, n), each draw's own mean out
    spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    drawn = (weights * a * b).sum(1)[spread > 0] / spread[spread > 0]
    return Estimate(pearson(x, y), *interval(drawn, fewest, (-1.0, 1.0)), len(x))


@dataclass(frozen=True)
class Beside:
    """An r, and what other directions reach.

    Attributes:
        chance: Its place among random directions.
        rival, theirs: The other trait whose vector has the largest |r|, and that r.
    """

    r: Estimate
    chance: Place
    rival: str
    theirs: float

    @classmethod
    def of(cls, r: Estimate, along: Floats, scores: Floats, others: Sequence[str]) -> "Beside":
        """Of readings along the trait's vector, the others' and random directions (n, k)."""
        every = [pearson(column, scores) for column in along.T]
        rivals, drawn = every[1 : 1 + len(others)], every[1 + len(others) :]
        best = int(np.argmax(np.abs(rivals)))
        return cls(r, place(r.mean, drawn), others[best], rivals[best])

    @property
    def beyond(self) -> bool:
        """Whether the reading goes with the score, and more so than along 95 % of random directions."""
        return self.r.mean > 0 and self.chance.percentile >= 95

    @property
    def cells(self) -> list[str]:
        """For a table."""
        chance = f"{self.chance.percentile:.0f} %, 95th {self.chance.p95:.2f}"
        return [show(self.r, ".2f"), chance, f"{self.rival} {self.theirs:.2f}"]


class Told:
    """What the reading tells of one trait's answers to prompts of a kind, by one judge.

    Attributes:
        overall, within: Pearson's r of all answers, and with each condition's means taken out.
    """

    def __init__(self, of: OfTrait, kind: str, judge: str) -> None:
        self.trait, self.kind, self.judge = of.trait.name, kind, judge
        self.points = p = of.points(kind, judge)
        self.overall = Beside.of(over_both(p.z, p.scores, p), p.along, p.scores, of.others)
        z, scores = p.within(p.z), p.within(p.scores)
        inside = bootstrap_pearson(z, scores, p.questions.tolist())
        self.within = Beside.of(inside, p.within(p.along), scores, of.others)

    @property
    def row(self) -> list[str]:
        """Of the table."""
        p = self.points
        return [
            self.trait,
            self.kind,
            self.judge,
            f"{len(p.scores)} ({len(np.unique(p.grades))}; {len(np.unique(p.questions))})",
            *self.overall.cells,
            show(over_both(held_equal(p.z, p.styles), held_equal(p.scores, p.styles), p), ".2f"),
            *self.within.cells,
            show(bootstrap_pearson(p.means(p.z), p.means(p.scores)), ".2f"),
            f"{pearson(p.lengths, p.scores):.2f}",
            f"{pearson(p.alone, p.scores):.2f}",
            self._apart,
        ]

    @property
    def _apart(self) -> str:
        """AUC of the reading for answers that score above ABOVE, and how many do."""
        p, above = self.points, self.points.scores > ABOVE
        found, count = None, int(above.sum())
        if LEAST <= count <= len(above) - LEAST:
            found = bootstrap_auc(p.z[above], p.z[~above], p.questions[above].tolist(), p.questions[~above].tolist())
        return f"{show(found, '.2f')} ({count} above)"


def by_condition(of: OfTrait) -> list[list[str]]:
    """What is read before, and how the answers score, under each condition."""
    rows = []
    for kind in (SYSTEM, EXAMPLES):
        points = {judge: of.points(kind, judge) for judge in JUDGES}
        every = zip(of.conditions, np.reshape(of.z, (-1, of.count)), strict=True)
        for condition, z in sorted(every, key=lambda one: one[0].grade):
            if condition.kind != kind:
                continue
            cells = []
            for p in points.values():
                mine = p.scores[p.grades == condition.grade]
                cells += [show(bootstrap_mean(mine) if len(mine) else None), str(len(mine))]
            grade = str(condition.grade) if kind == SYSTEM else f"{condition.grade:+d}"
            rows.append([of.trait.name, kind, grade, show(bootstrap_mean(z), "+.1f"), str(len(z)), *cells])
    return rows


def together(found: Sequence[Told]) -> list[str]:
    """Over traits: the r of a judge, and how often it is beyond chance."""
    notes = []
    for kind in (SYSTEM, EXAMPLES, SHOWING):
        for judge in JUDGES:
            mine = [one for one in found if (one.kind, one.judge) == (kind, judge)]
            said = []
            for what, each in (
                ("r", [one.overall for one in mine]),
                ("within conditions", [one.within for one in mine]),
            ):
                r = [one.r.mean for one in each]
                said.append(
                    f"{what} {min(r):.2f} to {max(r):.2f}, mean {np.mean(r):.2f}, positive and beyond 95 % of random directions "
                    f"for {sum(one.beyond for one in each)} of {len(each)} traits"
                )
            notes.append(f"{kind}, {judge}: {'; '.join(said)}.")
    return notes


def keep(found: Sequence[OfTrait], path: Path) -> None:
    """All answers, one a line, for whoever wants to read or plot them."""
    lines = []
    for of in found:
        each = [one for one in of.conditions for _ in range(of.count)]
        for at, (condition, r) in enumerate(zip(each, of.answers, strict=True)):
            scores = {judge: None if np.isnan(v := of.scores[judge][at]) else round(float(v), 2) for judge in JUDGES}
            lines.append(
                to_json(
                    {"trait": of.trait.name, "prompts": condition.kind, "grade": condition.grade, "question": r.question,
                     "z": round(float(of.z[at]), 4), **scores, "text": r.text}
                )
            )  # fmt: skip
    write_atomic(path, "\n".join(lines) + "\n")


def tables(found: Sequence[OfTrait], write: bool) -> None:
    """Print, and store if asked, both tables."""
    bench = found[0].bench
    told = [Told(of, kind, judge) for of in found for kind in (SYSTEM, EXAMPLES, SHOWING) for judge in JUDGES]
    notes = [
        f"{bench.model.id}; ready vectors at layers {', '.join(f'{of.trait.name} {of.vector.layer}' for of in found)}; "
        f"one answer of at most {ANSWER} tokens to each prompt, temperature {ExtractionSettings().temperature}, seed 0. "
        "Neither judge sees what stood before the question.",
        f"System prompts: eight, from against the trait to for it, of about the same length. Examples: {', '.join(map(str, SIZES))} "
        "exchanges that show the trait or lack it (negative), to the same questions, and none; they are library texts that "
        "neither vector nor probe is made of, the shortest.",
    ]
    publish(
        "before_reading",
        "What the reading before an answer tells of it",
        ["trait", "before the question", "judge", "answers (conditions; questions)",
         "r", "random directions", "best other trait", "r, style held equal",
         "r within conditions", "random directions", "best other trait", "r between conditions' means",
         "r of the prompt's length", "r of the question alone", f"AUC for a score above {ABOVE:.0f}"],
        [one.row for one in told],
        [
            *notes,
            "r: Pearson's, of the reading at the last prompt token and the score of the answer. Its 95 % interval draws "
            "conditions and questions; within conditions (each condition's means taken out) and of AUC questions; between "
            "means conditions.",
            f"Random directions: {DIRECTIONS} with the covariance of the same readings, the share with a smaller |r|, and the "
            "95th percentile of it. Best other trait: the largest |r| of the six other ready vectors, at the same layer.",
            "Style held equal: exclamation and question marks, lists, capitals, emoji, sentences and length of the answer "
            "regressed out of both.",
            *together(told),
        ],
        write,
        bench.model.device,
        timed=False,
    )  # fmt: skip
    publish(
        "before_reading_conditions",
        "The reading before an answer and the answer's score, by condition",
        ["trait", "before the question", "grade or examples", "z before", "n", *(
            cell for judge in JUDGES for cell in (f"{judge}: score", "n"))],
        [one for of in found for one in by_condition(of)],
        [*notes, "z: deviations of the model's neutral prompts. Brackets: 95 % intervals over questions."],
        write,
        bench.model.device,
        timed=False,
    )  # fmt: skip


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/before"))
    parser.add_argument("--traits", nargs="*", default=list(TRAITS), choices=library_names())
    parser.add_argument("--questions", type=int, default=10, help="of each trait, at most 20")
    options = parser.parse_args()
    bench, found = Bench("default", options.out), []
    for name in options.traits:
        of = OfTrait(bench, name, options.questions)
        _ = of.scores, of.readings  # what takes time
        found.append(of)
        keep(found, bench.folder / "points.jsonl")
        seconds = ", ".join(f"{step} {seconds:.0f}" for step, seconds in of.seconds.items())
        print(f"{name}: seconds of {seconds}", flush=True)
    tables(found, options.write)


if __name__ == "__main__":
    main()
