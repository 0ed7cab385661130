"""How well cheap baselines do the work of the exact one, on data sets that were screened with `--baseline exact`.

    personavec screen DATA --baseline exact --vector ... --reference CLEAN --out runs/DATA      (for each data set, first)
    personavec screen DATA --baseline exact --specific span ... --out runs/DATA-span            (if wanted)
    python benchmarks/screening.py runs/DATA... [--write docs/screening-results.md]

First table: what each data set was found to be, with and without specific directions. Second, from the stored own answers
of every sample: rank correlation per sample, coverage of the hybrid's 95 % interval over random subsets, and how many
generations plain subsampling would need for the same width. Nothing is generated here.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from common import table
from personavec.files import write_atomic
from personavec.screening import ScreeningRun
from personavec.screening.estimate import generations_needed, hybrid_difference, plain_difference
from personavec.stats.bootstrap import spearman
from personavec.stats.ridge import calibrate

DRAWS = 200


def measured(folder: Path, size: int) -> list[list[str]]:
    """A row per trait of how the cheap baselines do."""
    run = ScreeningRun.read(folder)
    found = pq.read_table(folder / "scores.parquet")
    columns = {name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names}
    names = list(run.traits)
    known = np.all([np.isfinite(columns[f"{name}_own"]) for name in names], axis=0)
    prompts = np.stack([columns[f"{name}_prompt"][known] for name in names], 1)
    rows = []
    for name in names:
        answers, own = columns[f"{name}_projection"][known], columns[f"{name}_own"][known]
        exact = answers - own
        held, widths, needed, ranks, explained = [], [], [], [], []
        for seed in range(DRAWS):
            subset = np.random.default_rng(seed).permutation(len(own))[:size]
            hybrid = hybrid_difference(answers, prompts, subset, own[subset])
            plain = plain_difference(answers, subset, own[subset])
            held.append(abs(hybrid.mean - exact.mean()) <= hybrid.generation)
            widths.append(hybrid.generation / plain.generation)
            needed.append(generations_needed(hybrid, plain))
            fit = calibrate(prompts, subset, own[subset])
            explained.append(float(fit.r_squared))
            ranks.append(spearman(exact, answers - fit.predictions))
        rows.append(
            [
                folder.name, name, str(len(own)), f"{exact.mean():+.2f}",
                f"{spearman(exact, answers - prompts[:, names.index(name)]):.2f}", f"{np.mean(ranks):.2f}",
                f"{np.mean(explained):.2f}", f"{100 * np.mean(held):.1f} %", f"{np.mean(widths):.2f}",
                f"{np.median(needed):.0f}",
            ]
        )  # fmt: skip
    return rows


def found(folder: Path) -> list[list[str]]:
    """A row per trait of what a run says."""
    run = ScreeningRun.read(folder)
    kind = run.settings.specific
    rows = []
    for name, trait in run.traits.items():
        chance = trait.nulls.covariance
        rows.append(
            [
                folder.name.removesuffix(f"-{kind}"), name, kind, f"{trait.specific_share:.2f}", f"{trait.shift:+.2f}",
                f"{chance.p95:.2f} ({chance.p_value:.2f})", f"{trait.auc:.2f}",
                f"{100 * trait.flagged / trait.shift.n:.0f} %", "yes" if trait.specific else "no",
            ]
        )  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=64, help="own answers of the hybrid baseline")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    runs = [ScreeningRun.read(folder) for folder in options.runs]
    first = runs[0]
    plain = [folder for folder, run in zip(options.runs, runs, strict=True) if run.settings.specific == "no"]
    sections = [
        "# Screening: results",
        f"Written by `python benchmarks/screening.py`; {first.model.id}, {first.machine.cpu}, "
        f"{first.machine.cores} cores, {first.written[:10]}, personavec {first.personavec}, seed "
        f"{first.settings.seed}. Own answers of at most {first.settings.max_new_tokens} tokens; clean reference of "
        f"{first.clean.samples} samples.",
        "## What each data set was found to be",
        "Shift: data minus clean, in deviations of clean samples. Random: what 95 in 100 random directions with the covariance of "
        "clean readings shift at most, and this vector's p among them. Flagged: of the samples, at a false-alarm rate of "
        f"{100 * first.settings.false_alarm_rate:g} %. In this trait: whether the shift exceeds random directions and the "
        "other traits' vectors and is not explained by length and refusals.",
        table(
            ["data", "trait", "specific", "share kept", "shift", "random: p95 (p)", "AUC against clean", "flagged",
             "in this trait"],
            [row for folder in options.runs for row in found(folder)],
        ),
        "## Cheap baselines against the exact one",
        f"Hybrid: own answers to {options.size} random prompts, {DRAWS} draws; coverage is of the exact figure of the data set.",
        table(
            ["data", "trait", "samples", "exact difference", "rank correlation with exact, prompt", "the same, hybrid", "R^2",
             "coverage of the 95 % interval", "width against plain subsampling",
             f"generations plain subsampling needs instead of {options.size}"],
            [row for folder in plain for row in measured(folder, options.size)],
        ),
    ]  # fmt: skip
    text = "\n\n".join(sections)
    print(text)
    if options.write:
        write_atomic(options.write, text + "\n")


if __name__ == "__main__":
    main()
