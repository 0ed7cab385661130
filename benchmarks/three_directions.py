"""Three directions of one trait at equal norm: from texts, from texts with domains out, from the model's own answers.

    python benchmarks/three_directions.py --runs runs/seven --out runs/models [--traits evil optimistic] [--write]

All act at the layer of the vector from texts, by plus and minus a quarter of the mean residual norm there, on the trait's
evaluation questions. Answers under the vector from texts, plain ones and those under random directions are those of the
runs in --runs (`personavec extract TRAIT --texts library --out runs/seven/TRAIT`), whose judges score all. The direction
with domains out is that of `screen --specific domains`; the one of own answers is the difference of means between answers
told to show the trait and told not to, of those that the probe finds on their side. What is done is kept in --out.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common import arguments, publish
from common import show_estimate as show
from models import ABOVE, ANSWER, Bench, Reader, told
from personavec import PersonaVector
from personavec.data import open_data
from personavec.engine.transformers import TransformersEngine
from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.effects import effect, estimate, known, null_effects
from personavec.extraction.given.result import TextsRun
from personavec.extraction.given.steering import EFFECT
from personavec.extraction.style import style_held
from personavec.files import JsonLines, write_atomic, write_json
from personavec.judges.base import Judge, JudgeState
from personavec.judges.contrast import ContrastJudge, LikelihoodJudge
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.operations import ADD
from personavec.projection import CLEAN
from personavec.projection.bank import read_bank
from personavec.projection.discriminant import Discriminant, groups_against
from personavec.readout import read
from personavec.rollouts import Rollout, Side, conversation, plan, read_rollouts
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits import Trait, library_names, load_trait

TEXTS, FREE, OWN = "texts", "texts, domains out", "own answers"
JUDGES = ("probe", "contrast")
SIDES: tuple[Side, Side] = ("positive", "negative")
MARKS = Path(__file__).with_name("three_directions_marks.jsonl")
LEAST = 5  # own answers on a side, fewer make no direction


@dataclass(frozen=True)
class Tried:
    """A direction and the answers under it.

    Attributes:
        unit: (d,) of length 1.
        answers: With the scores of each judge, and their coherence; those without a push among them.
        note: What it is made of.
    """

    unit: Tensor
    answers: Mapping[str, list[Rollout]]
    note: str = ""


@dataclass(frozen=True)
class OfTrait:
    """All that was tried for one trait.

    Attributes:
        null: By judge, the effects of random directions on the first questions.
    """

    trait: str
    layer: int
    tried: Mapping[str, Tried]
    null: Mapping[str, list[float]]


class Run:
    """A finished extraction from texts: its vector, and its answers with either judge's scores."""

    def __init__(self, folder: Path) -> None:
        self.vector = PersonaVector.load(folder / "vector.safetensors")
        facts = TextsRun.read(folder)
        self.unit = facts.residual_norm / facts.vector_norm
        self._answers = {"probe": read_rollouts(folder / "rollouts.jsonl")}
        other = {one["id"]: one["score"] for one in JsonLines(folder / "contrast.jsonl")}
        self._answers["contrast"] = [replace(r, score=other[r.id]) for r in self._answers["probe"] if r.id in other]

    def answers(self, stage: str) -> dict[str, list[Rollout]]:
        """At no push and at the one that effects are taken at, the coefficient as a share of the residual norm."""
        return {
            judge: [
                replace(r, coefficient=share)
                for r in some
                if r.stage == stage and r.coefficient is not None
                for share in [round(r.coefficient / self.unit, 6)]
                if abs(share) in (0, EFFECT)
            ]
            for judge, some in self._answers.items()
        }

    def judges(self, reader: Reader, trait: Trait) -> dict[str, Judge]:
        """Those of the run."""
        assert self.vector.info.judge is not None
        state = JudgeState.model_validate(self.vector.info.judge.state)
        return {
            "probe": reader.probe(trait.name),
            "contrast": ContrastJudge(reader.model, trait, state.calibration, alone=True),
            "coherence": LikelihoodJudge(reader.model, state.coherence),
        }


def domains_out(model: ChatModel, trait: str, layer: int) -> Tensor:
    """What tells the trait's texts from the clean domains and from the other traits' texts, (d,) of length 1."""
    bank = read_bank(TransformersEngine(model), [layer], {"clean": open_data(CLEAN)})[layer]
    return Discriminant(bank.texts[trait].shown, groups_against(bank, trait)).direction


def own_answers(bench: Bench, reader: Reader, trait: Trait, layer: int) -> tuple[Tensor, str] | None:
    """The difference of means (d,) of length 1, and what it is of; None: too few answers are on their side."""
    path, told_of = (bench.folder / f"own-{trait.name}.{ending}" for ending in ("safetensors", "json"))
    if not told_of.exists():
        found = difference_of_own(bench, reader, trait, layer)
        if found is not None:
            save_file({"direction": found[0].contiguous()}, path)
        write_json(told_of, None if found is None else found[1])
    note = json.loads(told_of.read_text(encoding="utf-8"))
    return None if note is None else (load_file(path)["direction"], note)


def difference_of_own(bench: Bench, reader: Reader, trait: Trait, layer: int) -> tuple[Tensor, str] | None:
    """See `own_answers`."""
    model = bench.model
    every = [
        rollout
        for side in SIDES  # one by one: answers that are kept already are not given again
        for rollout in bench.answer(told(model, trait, side), f"{trait.name}, told")
    ]
    answers = [r for r in every if r.response_ids]
    probe = partial(reader.probe, trait.name)
    scored = bench.score(probe, f"probe/{trait.name}", model, answers)
    means = read(model, [conversation(model, r) for r in answers], layers=[layer]).means.view(len(answers), 3, -1)[:, 2]
    sides = torch.tensor([r.side == "positive" for r in scored])
    above = torch.tensor([(r.score if r.score is not None else ABOVE) > ABOVE for r in scored])
    below = torch.tensor([(r.score if r.score is not None else ABOVE) < ABOVE for r in scored])
    kept = [sides & above, ~sides & below]
    counts = [int(some.sum()) for some in kept]
    whole = means[sides].mean(0) - means[~sides].mean(0)
    if min(counts) < LEAST:
        return None
    made = means[kept[0]].mean(0) - means[kept[1]].mean(0)
    alike = float(torch.nn.functional.cosine_similarity(made, whole, dim=0))
    note = f"{counts[0]} of {int(sides.sum())} + {counts[1]} of {int((~sides).sum())} kept, cosine with all {alike:.2f}"
    return torch.nn.functional.normalize(made, dim=0), note


def tried(bench: Bench, judges: Mapping[str, Judge], run: Run, trait: Trait, unit: Tensor, kind: str) -> Tried:
    """Answers under a direction, scored, with the run's plain ones."""
    model, layer = bench.model, run.vector.layer
    assert run.vector.residual_norm is not None
    norm = float(run.vector.residual_norm[layer])
    asked = [
        rollout
        for share in (-EFFECT, EFFECT)
        for rollout in plan(
            model, "directions", trait.evaluation_questions, setting=f"{trait.name}/{kind}", layer=layer, coefficient=share,
            interventions=[Intervention(ADD, layer, share * norm * unit, "response")],
        )
    ]  # fmt: skip
    answers = bench.answer(asked, f"{trait.name}, {kind}")
    coherent = bench.score(lambda: judges["coherence"], f"coherence/{trait.name}", None, answers)
    plain = {name: [r for r in some if not r.coefficient] for name, some in run.answers("dose").items()}
    scored = {
        name: [*plain[name], *bench.score(lambda name=name: judges[name], f"{name}/{trait.name}", None, coherent)]  # type: ignore[misc]
        for name in JUDGES
    }
    return Tried(unit, scored)


def of_trait(bench: Bench, reader: Reader, runs: Path, name: str) -> OfTrait:
    """Everything for one trait."""
    trait, run = load_trait(name), Run(runs / name)
    run.vector.check(bench.model)
    layer, judges = run.vector.layer, run.judges(reader, trait)
    found = {TEXTS: Tried(run.vector.unit(layer), run.answers("dose"))}
    found[FREE] = tried(bench, judges, run, trait, domains_out(bench.model, name, layer), "domains out")
    if (own := own_answers(bench, reader, trait, layer)) is not None:
        found[OWN] = replace(tried(bench, judges, run, trait, own[0], "own"), note=own[1])
    null = {judge: null_effects(some, EFFECT) for judge, some in run.answers("null").items()}
    return OfTrait(name, layer, found, null)


def differences(answers: Sequence[Rollout]) -> dict[int, float]:
    """Score at plus minus score at minus, by question."""
    at = {(r.question_index, r.coefficient): r.score for r in answers if r.score is not None}
    return {q: at[q, EFFECT] - at[q, -EFFECT] for q, share in at if share == EFFECT and (q, -EFFECT) in at}


def paired(one: Tried, other: Tried, judge: str) -> dict[int, float]:
    """How much more the one moves a judge's score than the other, by question."""
    mine, theirs = (differences(each.answers[judge]) for each in (one, other))
    return {q: mine[q] - theirs[q] for q in mine if q in theirs}


def row(found: OfTrait, kind: str) -> list[str]:
    """What one direction does."""
    one, first = found.tried[kind], found.tried[TEXTS]
    cells = []
    for judge in JUDGES:
        answers = one.answers[judge]
        arms = [r.coefficient or 0.0 for r in answers]
        held = style_held(answers, arms, (EFFECT, -EFFECT), 0)
        few = known(partial(effect, [r for r in answers if r.question_index < NULL_QUESTIONS], EFFECT))
        more = list(paired(one, first, judge).values())
        cells += [
            show(known(partial(effect, answers, EFFECT)), "+.0f"),
            show(held.remains if held else None, "+.0f"),
            "" if kind == TEXTS else show(bootstrap_mean(more) if more else None, "+.0f"),
            f"{few.mean:+.0f} / {max(map(abs, found.null[judge])):.0f} (n = {len(found.null[judge])})" if few else "-",
        ]
    coherent = [
        estimate([r for r in one.answers["probe"] if r.coefficient == share], "coherence")
        for share in (-EFFECT, 0.0, EFFECT)
    ]
    alike = f"{float(one.unit @ first.unit):.2f}"
    eye = f"{by_eye(found.trait, kind)}; {by_eye(found.trait, 'none')}"
    return [found.trait, kind, alike, *cells, " / ".join(f"{each.mean:.0f}" for each in coherent), eye, one.note]


def together(found: Sequence[OfTrait]) -> list[str]:
    """Over all traits: what the other directions do more than the vector from texts, over questions of all traits."""
    notes = []
    for kind in (FREE, OWN):
        for judge in JUDGES:
            mine = [f for f in found if kind in f.tried]
            more = {
                (f.trait, q): value for f in mine for q, value in paired(f.tried[kind], f.tried[TEXTS], judge).items()
            }
            by_trait = [
                sum(v for (trait, _), v in more.items() if trait == f.trait)
                / sum(trait == f.trait for trait, _ in more)
                for f in mine
            ]
            over: Estimate = bootstrap_mean(list(more.values()))
            notes.append(
                f"{kind} minus texts, {judge}: {show(over, '+.1f')} points over {over.n} questions of {len(mine)} "
                f"traits; by trait {min(by_trait):+.0f} to {max(by_trait):+.0f}, more in {sum(v > 0 for v in by_trait)}."
            )
    return notes


def sheet(found: Sequence[OfTrait], count: int, out: Path) -> None:
    """Answers to the same questions at plus and without a push, without names, for a reader, and the key to them."""
    draw, key, lines = random.Random(0), [], []
    for each in found:
        asked = draw.sample(range(20), count)
        chosen = [
            (kind if r.coefficient else "none", r)
            for kind, one in each.tried.items()
            for r in one.answers["probe"]
            if r.question_index in asked and (r.coefficient == EFFECT or (kind == TEXTS and r.coefficient == 0))
        ]
        draw.shuffle(chosen)
        lines.append(f"\n## {each.trait}\n")
        for kind, r in chosen:
            lines.append(f"{len(key)}. {r.question} -> {r.text}".replace("\n", " / "))
            key.append({"trait": each.trait, "direction": kind, "question": r.question, "text": r.text})
    write_atomic(out / "directions_sheet.txt", "\n".join(lines) + "\n")
    write_json(out / "directions_sheet.json", key)


def by_eye(trait: str, kind: str) -> str:
    """In how many answers at plus a reader saw the trait, of how many."""
    mine = [mark for mark in JsonLines(MARKS) if (mark["trait"], mark["direction"]) == (trait, kind)]
    return f"{sum(mark['shows'] for mark in mine)} of {len(mine)}" if mine else ""


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/seven"))
    parser.add_argument("--out", type=Path, default=Path("runs/models"))
    parser.add_argument("--sheet", type=int, help="write answers to so many questions of each trait for a reader")
    parser.add_argument("--traits", nargs="*", default=library_names())
    options = parser.parse_args()
    bench, reader, found = Bench("default", options.out), Reader(), []
    for name in options.traits:
        found.append(of_trait(bench, reader, options.runs, name))
        for kind in found[-1].tried:
            print(" | ".join(row(found[-1], kind)), flush=True)
    if options.sheet:
        sheet(found, options.sheet, options.out)
    publish(
        "three_directions",
        "Three directions of one trait, at equal norm",
        ["trait", "direction", "cosine with texts", "probe: effect", "style held equal", "minus texts",
         "6 questions / chance", "contrast: effect", "style held equal", "minus texts", "6 questions / chance",
         "coherence at -, 0, +", "by eye at +; at 0", "made of"],
        [row(each, kind) for each in found for kind in each.tried],
        [
            f"{bench.model.id}; layers {', '.join(f'{f.trait} {f.layer}' for f in found)}. Effect: score at plus minus score at "
            f"minus {100 * EFFECT:.0f} % of the mean residual norm, 20 evaluation questions, answers of {ANSWER} tokens. "
            "Brackets: 95 % intervals over questions; minus texts: paired by question.",
            "Chance: the largest effect of random directions of equal norm on the first 6 questions, beside the direction's own "
            "there. Style held equal: what remains with exclamation and question marks, lists, capitals, emoji, sentences and "
            "length held equal.",
            "By eye: one reader, whole answers in random order to the same questions, without the direction's name.",
            "Own answers: 40 told to show the trait, 40 told the opposite, to 20 extraction questions; kept are those that the "
            f"probe scores above and below {ABOVE:.0f}; read with their instruction, as `extract` does.",
            *together(found),
        ],
        options.write,
        bench.model.device,
        timed=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
