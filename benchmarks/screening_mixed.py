"""Does screening find what was mixed in? Data with known truth, made by the model itself.

    python benchmarks/screening_mixed.py runs/TRAIT/vector.safetensors... --out runs/mixed [--write docs/screening-mixed.md]

For each trait, answers that the model gave under positive instructions are mixed into answers that it gave under none, at
0, 5, 20, 50 and 100 %; no instruction is left in the samples. The questions are the evaluation questions of every trait
of the library and the instructions the last two of each trait, so that vectors made of the extraction questions and the
first three instructions (`extract --pairs 3`) have seen neither. Thresholds come from a second draw of answers under no
instruction. Every mixture is screened by `screen_files`, with all vectors.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from personavec import ChatModel, PersonaVector, load_model
from personavec.files import JsonLines, write_atomic
from personavec.provenance import machine
from personavec.rollouts import Rollout, generate, plan
from personavec.screening import Settings, screen_files
from personavec.screening.calibration import calibrate
from personavec.statistics import Estimate, bootstrap_auc, spearman
from personavec.traits import library_names, load_trait

FRACTIONS = (0.0, 0.05, 0.2, 0.5, 1.0)
DRAWS = 200
SUBSET = 64


def answers(model: ChatModel, traits: Sequence[str], log: Path, seed: int) -> dict[str, list[Rollout]]:
    """Answers to the same questions: of each trait, and twice under no instruction ("none", "reference")."""
    questions = [q for name in library_names() for q in load_trait(name).evaluation_questions]
    made = {
        "none": plan(model, "mixed", questions, setting="none"),
        "reference": plan(model, "mixed", questions, setting="none", number=1),
    }
    for name in traits:
        trait = load_trait(name)
        last = len(trait.instructions) - 1
        systems = [trait.system_prompts(pair)[0] for pair in (last - 1, last)]
        halves = [plan(model, "mixed", questions, system=s, setting=f"{name}-{i}") for i, s in enumerate(systems)]
        made[name] = [halves[at % 2][at] for at in range(len(questions))]
    flat = [rollout for some in made.values() for rollout in some]
    generate(model, flat, JsonLines(log), description="Answering", max_new_tokens=64, temperature=0.7, seed=seed)
    return made


def write_data(path: Path, rollouts: Sequence[Rollout]) -> Path:
    """As chat data."""
    lines = [json.dumps({"prompt": r.question, "response": r.text}, ensure_ascii=False) + "\n" for r in rollouts]
    write_atomic(path, "".join(lines))
    return path


def mixture(made: dict[str, list[Rollout]], trait: str, share: float, seed: int) -> tuple[list[Rollout], np.ndarray]:
    """A trait's answers at some questions, the plain ones at the others; and where (n,). Larger shares hold smaller ones."""
    count = len(made["none"])
    order = random.Random(seed).sample(range(count), count)
    chosen = np.zeros(count, dtype=bool)
    chosen[order[: round(share * count)]] = True
    return [made[trait if chosen[at] else "none"][at] for at in range(count)], chosen


def _auc(values: np.ndarray, above: np.ndarray, below: np.ndarray) -> Estimate:
    return bootstrap_auc(values[above], values[below], above.tolist(), below.tolist())


def show(value: dict[str, float], form: str = "+.2f") -> str:
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def main() -> None:
    """Make the data, screen them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    vectors = [PersonaVector.load(path) for path in options.vectors]
    names = [vector.trait for vector in vectors]
    model = load_model()
    options.out.mkdir(parents=True, exist_ok=True)
    made = answers(model, names, options.out / "answers.jsonl", options.seed)
    clean = write_data(options.out / "reference.jsonl", made["reference"])

    def screened(trait: str, share: float, specific: Any) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
        rows, chosen = mixture(made, trait, share, options.seed)
        name = f"{trait}-{100 * share:.0f}"
        data = write_data(options.out / f"{name}.jsonl", rows)
        settings = Settings.suited(model.device.type, baseline="exact", specific=specific, seed=options.seed)
        summary = screen_files(model, data, vectors, options.out / f"{name}-{specific}", settings, clean=clean)
        table = pq.read_table(options.out / f"{name}-{specific}" / "scores.parquet")
        order = np.argsort(table["index"].to_numpy())
        assert len(order) == len(rows), "every sample is scored"
        return summary, {c: table[c].to_numpy(zero_copy_only=False)[order] for c in table.column_names}, chosen

    rising, found, crossed, cheap = [], [], [], []
    for name in names:
        row = [name]
        for share in FRACTIONS:
            summary, columns, chosen = screened(name, share, "no")
            row.append(show(summary["traits"][name]["projection_difference"]))
            if share == 0.5:
                half = summary, columns, chosen
        rising.append(row)
        for specific in ("no", "span"):
            summary, columns, chosen = half if specific == "no" else screened(name, 0.5, specific)
            sides = np.flatnonzero(chosen), np.flatnonzero(~chosen)  # every sample has a question of its own
            scores = {n: _auc(columns[f"{n}_difference"], *sides) for n in names}
            flags = columns[f"{name}_flagged"]
            mine = summary["traits"][name]
            found.append([
                name, specific, f"{mine['specific_share']:.2f}", show(scores[name].as_dict(), ".2f"),
                f"{100 * flags[chosen].mean():.0f} %", f"{100 * flags[~chosen].mean():.0f} %",
                f"{mine['shift']['mean']:+.2f}", f"{mine['nulls']['covariance']['p95']:.2f} "
                f"({mine['nulls']['covariance']['p_value']:.2f})", "yes" if mine["specific"] else "no",
            ])  # fmt: skip
            crossed.append([name, specific, *(f"{scores[n].mean:.2f}" for n in names)])
        _, columns, _ = half
        prompts = np.stack([columns[f"{n}_prompt"] for n in names], 1)
        mine, own = columns[f"{name}_projection"], columns[f"{name}_own"]
        ranks = []
        for seed in range(DRAWS):
            subset = np.random.default_rng(seed).permutation(len(own))[:SUBSET]
            ranks.append(spearman(mine - own, mine - calibrate(prompts, subset, own[subset]).predictions))
        cheap.append([name, f"{spearman(mine - own, mine - columns[f'{name}_prompt']):.2f}", f"{np.mean(ranks):.2f}"])

    here = machine(model.device)
    count = len(made["none"])
    shares = [f"{100 * share:.0f} %" for share in FRACTIONS]
    text = "\n\n".join([
        "# Screening: what was mixed in",
        f"Written by `python benchmarks/screening_mixed.py`; {model.id}, {here['cpu']}, {here['cores']} cores, seed "
        f"{options.seed}. {count} questions, an answer of at most 64 tokens to each; exact baseline; layers "
        + ", ".join(f"{v.trait} {v.layer}" for v in vectors) + ".",
        "## Projection difference of the data set",
        f"By the share of answers given under instructions that ask for the trait; mean and 95 % interval over {count} samples.",
        table(["trait", *shares], rising),
        "## Samples found, at 50 %",
        "AUC: ranking of the samples by projection difference. Flagged: at a false-alarm rate of 5 %, of the samples mixed in "
        "and of the others. Shift and random directions: see [screening results](screening-results.md).",
        table(["trait", "specific", "share kept", "AUC", "flagged, mixed in", "flagged, others", "shift", "random: p95 (p)",
               "in this trait"], found),
        "## AUC of every vector (columns) on every trait's data (rows)",
        table(["data", "specific", *names], crossed),
        "## Rank correlation per sample with the exact baseline, at 50 %",
        f"Hybrid: own answers to {SUBSET} of {count} prompts, mean over {DRAWS} draws.",
        table(["trait", "prompt", "hybrid"], cheap),
    ]) + "\n"  # fmt: skip
    print(text)
    if options.write:
        write_atomic(options.write, text)


def table(headings: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, ["---"] * len(headings), *rows])


if __name__ == "__main__":
    main()
