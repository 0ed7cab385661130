"""How well cheap baselines do the work of the exact one, on data sets that were screened with `--baseline exact`.

    personavec screen DATA --baseline exact --vector ... --out runs/exact-DATA      (for each data set, first)
    python benchmarks/screening.py runs/exact-* [--write docs/screening-results.md]

From the stored own answers of every sample: rank correlation per sample, coverage of the hybrid's 95 % interval over
random subsets, and how many generations plain subsampling would need for the same width. Nothing is generated here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from personavec.files import write_atomic
from personavec.screening.calibration import calibrate
from personavec.screening.estimate import generations_needed, hybrid_difference, plain_difference
from personavec.statistics import spearman

DRAWS = 200
SIZE = 64


def measured(folder: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """The summary of a run, and a row per trait."""
    summary = json.loads((folder / "summary.json").read_text())
    table = pq.read_table(folder / "scores.parquet")
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    names = list(summary["traits"])
    known = np.all([np.isfinite(columns[f"{name}_own"]) for name in names], axis=0)
    prompts = np.stack([columns[f"{name}_prompt"][known] for name in names], 1)
    rows = []
    for name in names:
        answers, own = columns[f"{name}_projection"][known], columns[f"{name}_own"][known]
        exact = answers - own
        held, widths, needed, ranks, explained = [], [], [], [], []
        for seed in range(DRAWS):
            subset = np.random.default_rng(seed).permutation(len(own))[:SIZE]
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
    return summary, rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    results = [measured(folder) for folder in options.runs]
    first = results[0][0]
    headings = [
        "data", "trait", "samples", "exact difference", "rank correlation with exact: prompt", "hybrid", "R^2",
        f"coverage of the 95 % interval, {DRAWS} subsets of {SIZE}", "width against plain subsampling",
        f"generations plain subsampling needs for the width of {SIZE}",
    ]  # fmt: skip
    lines = [headings, ["---"] * len(headings), *(row for _, rows in results for row in rows)]
    text = (
        f"Written by `python benchmarks/screening.py`; {first['model']['id']}, {first['machine']['cpu']}, "
        f"{first['written'][:10]}, own answers of at most {first['arguments']['max_new_tokens']} tokens.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
    )
    print(text)
    if options.write:
        write_atomic(options.write, text + "\n")


if __name__ == "__main__":
    main()
