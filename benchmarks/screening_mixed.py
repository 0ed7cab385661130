"""Does screening find what was mixed in? Data with known truth, made by the model itself.

    python benchmarks/screening_mixed.py runs/TRAIT/vector.safetensors... --out runs/mixed [--write docs/screening-mixed.md]

For each trait, answers that the model gave under positive instructions are mixed into answers that it gave under none, to
the same questions, at 0, 5, 20, 50 and 100 %; no instruction is left in the samples. Of the answers under instructions only
those are taken that show the trait: that the probe judge, who learnt from texts and not from the vector, scores above 50.
The questions are the trait's evaluation questions, which the vectors were not made from. Thresholds come from a further draw
of answers under no instruction. Every mixture is screened by `screen_files`, with all vectors; the half-and-half ones in
every way of --specific.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from common import table
from personavec import ChatModel, PersonaVector, load_model
from personavec.files import JsonLines, write_atomic
from personavec.judges.kinds import open_judge
from personavec.judges.of_vector import trait_judges
from personavec.provenance import machine
from personavec.rollouts import Rollout, generate, plan
from personavec.screening import ScreeningRun, ScreenSettings, screen_files
from personavec.screening.settings import Baseline, Specific
from personavec.stats.bootstrap import bootstrap_auc
from personavec.stats.estimate import Estimate
from personavec.traits import load_trait

FRACTIONS = (0.0, 0.05, 0.2, 0.5, 1.0)


def answers(model: ChatModel, vector: PersonaVector, log: Path, repeats: int, seed: int) -> dict[str, list[Rollout]]:
    """Answers to the same questions in the same order: under none ("none", "reference") and of the trait ("trait")."""
    trait = load_trait(vector.trait)
    questions = trait.evaluation_questions
    made: dict[str, list[Rollout]] = {"none": [], "trait": [], "reference": []}
    for number in range(repeats):
        pair = number % len(trait.instructions)
        system = trait.system_prompts(pair)[0]
        made["none"] += plan(model, trait.name, questions, setting="none", number=number)
        made["reference"] += plan(model, trait.name, questions, setting="reference", number=number)
        made["trait"] += plan(model, trait.name, questions, system=system, number=number, pair=pair, side="positive")
    flat = [rollout for some in made.values() for rollout in some]
    generate(model, flat, JsonLines(log), description="Answering", max_new_tokens=64, temperature=0.7, seed=seed)
    trait_judges(open_judge("probe", model), [vector])[vector.trait].score(made["trait"])
    shown = [at for at, rollout in enumerate(made["trait"]) if (rollout.score or 0) > 50 and rollout.text.strip()]
    return {name: [some[at] for at in shown] if name != "reference" else some for name, some in made.items()}


def write_data(path: Path, rollouts: Sequence[Rollout]) -> Path:
    """As chat data."""
    lines = [json.dumps({"prompt": r.question, "response": r.text}, ensure_ascii=False) + "\n" for r in rollouts]
    write_atomic(path, "".join(lines))
    return path


def mixture(made: dict[str, list[Rollout]], share: float, seed: int) -> tuple[list[Rollout], np.ndarray]:
    """A trait's answers at some questions, the plain ones at the others; and where (n,). Larger shares hold smaller ones."""
    count = len(made["none"])
    order = random.Random(seed).sample(range(count), count)
    chosen = np.zeros(count, dtype=bool)
    chosen[order[: round(share * count)]] = True
    return [made["trait" if chosen[at] else "none"][at] for at in range(count)], chosen


def _auc(values: np.ndarray, chosen: np.ndarray, asked: np.ndarray) -> Estimate:
    return bootstrap_auc(values[chosen], values[~chosen], asked[chosen].tolist(), asked[~chosen].tolist())


def main() -> None:
    """Make the data, screen them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5, help="answers to each question")
    parser.add_argument("--traits", nargs="+", help="whose data are made, among those of the vectors; default: all")
    parser.add_argument("--specific", nargs="+", default=["no", "span", "domains"], help="ways to make directions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    vectors = [PersonaVector.load(path) for path in options.vectors]
    names = [vector.trait for vector in vectors]
    model = load_model()
    options.out.mkdir(parents=True, exist_ok=True)
    made = {
        v.trait: answers(model, v, options.out / f"{v.trait}-answers.jsonl", options.repeats, options.seed)
        for v in vectors
        if v.trait in (options.traits or names)
    }
    clean = {
        name: write_data(options.out / f"{name}-reference.jsonl", some["reference"]) for name, some in made.items()
    }

    def screened(
        trait: str, share: float, specific: Specific
    ) -> tuple[ScreeningRun, dict[str, np.ndarray], np.ndarray]:
        rows, chosen = mixture(made[trait], share, options.seed)
        name = f"{trait}-{100 * share:.0f}"
        data = write_data(options.out / f"{name}.jsonl", rows)
        baseline: Baseline = "none" if specific == "domains" else "exact"
        settings = ScreenSettings.suited(model.device.type, baseline=baseline, specific=specific, seed=options.seed)
        run = screen_files(model, data, vectors, options.out / f"{name}-{specific}", settings, clean=clean[trait])
        table = pq.read_table(options.out / f"{name}-{specific}" / "scores.parquet")
        order = np.argsort(table["index"].to_numpy())
        assert len(order) == len(rows), "every sample is scored"
        return run, {c: table[c].to_numpy(zero_copy_only=False)[order] for c in table.column_names}, chosen

    rising, found, crossed = [], [], []
    for name in made:
        row = [name, str(len(made[name]["none"]))]
        for share in FRACTIONS:
            run, columns, chosen = screened(name, share, "no")
            row.append(f"{run.traits[name].projection_difference:+.2f}")
            if share == 0.5:
                half = run, columns, chosen
        rising.append(row)
        for specific in options.specific:
            run, columns, chosen = half if specific == "no" else screened(name, 0.5, specific)
            asked = np.array([rollout.question_index for rollout in made[name]["none"]])
            scores = {n: _auc(columns[f"{n}_difference"], chosen, asked) for n in names}
            raw = _auc(columns[f"{name}_projection"], chosen, asked)
            flags = columns[f"{name}_flagged"]
            trait = run.traits[name]
            found.append([
                name, specific, f"{trait.specific_share:.2f}", f"{scores[name]:.2f}", f"{raw:.2f}",
                f"{100 * flags[chosen].mean():.0f} %", f"{100 * flags[~chosen].mean():.0f} %",
                f"{trait.shift.mean:+.2f}", f"{trait.nulls.covariance.p95:.2f} "
                f"({trait.nulls.covariance.p_value:.2f})", "yes" if trait.specific else "no",
            ])  # fmt: skip
            crossed.append([name, specific, *(f"{scores[n].mean:.2f}" for n in names)])

    here = machine(model.device)
    shares = [f"{100 * share:.0f} %" for share in FRACTIONS]
    text = "\n\n".join([
        "# Screening: what was mixed in",
        f"Written by `python benchmarks/screening_mixed.py`; {model.id}, {here.cpu}, {here.cores} cores, seed "
        f"{options.seed}. 20 questions a trait, {options.repeats} answers of at most 64 tokens to each; exact baseline, with `domains` none; layers "
        + ", ".join(f"{v.trait} {v.layer}" for v in vectors) + ".",
        "## Projection difference of the data set",
        "By the share of samples that show the trait; mean and 95 % interval over samples.",
        table(["trait", "samples", *shares], rising),
        "## Samples found, at 50 %",
        "AUC: ranking of the samples by projection difference (with `domains` by the projection, for nothing is subtracted); intervals from resampling questions. Flagged: at a false-alarm rate of 5 %, of the samples mixed in "
        "and of the others. Shift and random directions: see [screening results](screening-results.md).",
        table(["trait", "specific", "share kept", "AUC", "AUC of raw projections", "flagged, mixed in", "flagged, others", "shift", "random: p95 (p)",
               "in this trait"], found),
        "## AUC of every vector (columns) on every trait's data (rows)",
        table(["data", "specific", *names], crossed),
    ]) + "\n"  # fmt: skip
    print(text)
    if options.write:
        write_atomic(options.write, text)


if __name__ == "__main__":
    main()
