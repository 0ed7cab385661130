"""Does preventative steering keep a trait out of the weights, whatever the seed? Three trainings of every way.

    python benchmarks/prevention.py --vector runs/optimistic/vector.safetensors --out runs/prevention [--seeds 3] [--write]

The data are texts that neither the vector nor the probe is made of, blended with arithmetic (see `personavec study
finetune`); nobody's scores chose them. A seed draws the samples, their order, the adapter, the random vector and the answers.
Vectors are made of texts (`personavec extract TRAIT --texts library`). What is interrupted goes on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common import publish
from common import show_estimate as show
from personavec import PersonaVector, load_model
from personavec.files import RunFolder
from personavec.provenance import identity
from personavec.stats.bootstrap import bootstrap_mean
from personavec.study.given import source_of, text_sets
from personavec.study.laboratory import Laboratory
from personavec.study.prevention import PreventionTrial, Way
from personavec.study.result import Arm, OtherScores, TraitPrevention
from personavec.study.settings import StudySettings

SHARE, COST = 70, 5  # the goal: percent of the rise prevented, percent more loss on the task


class FourWays(PreventionTrial):
    """None, the two of interest, and a random vector of the same length."""

    inference = ()

    def ways(self) -> dict[str, Way]:
        """See `PreventionTrial.ways`."""
        return {
            "none": Way("none"),
            "steer auto": Way("steer", "auto"),
            "steer 2": Way("steer", 2.0),
            "random 2": Way("random", 2.0),
        }


def outcome(vector: PersonaVector, out: Path, settings: StudySettings) -> TraitPrevention:
    """Every way, once."""
    model = load_model()
    source = source_of(vector)
    assert source is not None, "the vector is not made of texts"
    with RunFolder(out, {**asdict(settings), **identity(model), "vector": vector.identity}) as folder:
        lab = Laboratory(model, [vector], folder, settings)
        lab.ask(model, "base", lab.both_sheets(vector.trait, settings.prevention_questions))
        text_sets(vector, source, folder / "data", settings.samples, settings.seed)
        trial = FourWays(lab, vector)
        trial.train()
        lab.answers.judge()
        return trial.outcome()


def prevented(base: OtherScores, plain: OtherScores, arm: OtherScores) -> str:
    """Share of a judge's rise that is gone, of means; no share is taken of a rise that is not there."""
    both = [
        (a, b, c)
        for a, b, c in zip(base.by_question, plain.by_question, arm.by_question, strict=True)
        if None not in (a, b, c)
    ]
    rise, gone = sum(b - a for a, b, _ in both), sum(b - c for _, b, c in both)
    return f"{100 * gone / rise:.0f} %" if rise > 0 else "no rise"


def rows(trait: str, found: Sequence[TraitPrevention]) -> list[list[str]]:
    """One of each way and seed."""
    made = []
    for seed, one in enumerate(found):
        plain, start = one.plain, one.base.plain
        made.append(
            [
                trait,
                str(seed),
                "before training",
                "",
                show(start.score),
                show(start.others["contrast"].score),
                show(start.coherence),
                "",
                "",
                "",
                "",
            ]
        )
        made += [
            [
                trait, str(seed), arm.arm, "" if arm.coefficient is None else f"{arm.coefficient:.2f}", show(arm.score),
                show(arm.others["contrast"].score), show(arm.coherence), show(arm.shift, ".1f"),
                *(("", "", "") if arm is plain else (show(arm.prevented), prevented(start.others["contrast"], plain.others["contrast"], arm.others["contrast"]), show(arm.task_change))),
            ]
            for arm in one.arms
        ]  # fmt: skip
    return made


def over_seeds(trait: str, found: Sequence[TraitPrevention]) -> str:
    """What all seeds together say of the goal."""
    said = []
    for name in ("steer auto", "steer 2", "random 2"):
        arms: list[Arm] = [next(arm for arm in one.arms if arm.arm == name) for one in found]
        shares = [arm.prevented.mean for arm in arms if arm.prevented is not None]
        costs = [arm.task_change.mean for arm in arms]
        met = sum(a.prevented is not None and a.prevented.mean >= SHARE and a.task_change.mean <= COST for a in arms)
        mean = bootstrap_mean(shares) if len(shares) > 1 else None
        said.append(
            f"{name}: prevented {', '.join(f'{x:.0f}' for x in shares) or 'no rise to prevent'} % by seed"
            f"{f' (mean {mean.mean:.0f})' if mean else ''}, loss on the task {', '.join(f'{x:+.0f}' for x in costs)} %; "
            f"{SHARE} % at no more than {COST} % in {met} of {len(found)} seeds."
        )
    return f"{trait}: " + " ".join(said)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vector", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table: list[list[str]] = []
    notes: list[str] = []
    for path in options.vector:
        vector = PersonaVector.load(path)
        found = []
        for seed in range(options.seeds):
            settings = StudySettings(
                samples=options.samples, questions=2, prevention_questions=20, epochs=options.epochs,
                learning_rate=options.learning_rate, seed=seed,
            )  # fmt: skip
            found.append(outcome(vector, options.out / vector.trait / f"seed-{seed}", settings))
            print("\n".join(" | ".join(row) for row in rows(vector.trait, found)), flush=True)
        table += rows(vector.trait, found)
        notes.append(over_seeds(vector.trait, found))
    publish(
        "prevention",
        "Prevention: every way three times",
        [
            "trait",
            "seed",
            "training",
            "coefficient",
            "score, probe",
            "score, contrast",
            "coherence",
            "shift",
            "% of the rise prevented, probe",
            "the same, contrast",
            "% more loss on the task",
        ],
        table,
        [
            f"{options.samples} texts that show the trait blended with as many sums, a quarter held out; {options.epochs:g} epochs of 2 samples a step at a learning rate of {options.learning_rate:g}.",
            "Brackets: 95 % intervals over 20 questions (scores, shift, share) and 24 unseen sums (loss); what another seed changes is seen between rows.",
            *notes,
        ],
        options.write,
        timed=False,
    )


if __name__ == "__main__":
    main()
