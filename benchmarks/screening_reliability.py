"""How well does the exact baseline agree with itself? The ceiling for every estimate of a sample's difference.

    python benchmarks/screening_reliability.py runs/DATA... --vector FILE... [--samples 120] [--write]

Takes data sets of single-turn samples that were screened with `--baseline exact`, lets the model answer each prompt twice
more, drawn at temperature 0.7 in place of greedy, and ranks the samples by the differences from either answer. Intervals
are over samples (prompts), ranks taken anew in every draw.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from common import arguments, publish, show_estimate
from personavec import ChatModel, Conversation, PersonaVector, Request, load_model
from personavec.data import Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.projection.panel import Panel
from personavec.screening import ScreeningRun
from personavec.stats.bootstrap import interval, spearman
from personavec.stats.estimate import Estimate

NEW_TOKENS, TEMPERATURE = 64, 0.7
DRAWS = 1000


def drawn(model: ChatModel, prompts: list[list[int]], panel: Panel, seed: int) -> np.ndarray:
    """Projections (n, k) of answers drawn to the prompts; NaN where the model says nothing."""
    said: list[list[int]] = [[] for _ in prompts]

    def keep(index: int, response: Any) -> None:
        said[index] = response.ids

    requests = [Request(p, NEW_TOKENS, TEMPERATURE, seed + i, ()) for i, p in enumerate(prompts)]
    model.generate(requests, keep)
    texts = [Conversation([*p, *a], [(len(p), len(p) + len(a))]) for p, a in zip(prompts, said, strict=True) if a]
    values = np.full((len(prompts), len(panel.names)), np.nan)
    read = TransformersEngine(model).read(texts, panel.depths, panel.directions()).sum(1)
    values[[bool(answer) for answer in said]] = read.numpy()
    return values


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Rank correlation of (n,) over samples."""
    drawn = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
    low, high = interval(np.array([spearman(x[some], y[some]) for some in drawn]), len(x), (-1.0, 1.0))
    return Estimate(spearman(x, y), low, high, len(x))


def main() -> None:
    """Print the table."""
    parser = arguments("How well the exact baseline agrees with itself.")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--vector", type=Path, action="append", required=True)
    parser.add_argument("--samples", type=int, default=120)
    options = parser.parse_args()
    model = load_model()
    panel = Panel.of([PersonaVector.load(path) for path in options.vector])
    rows = []
    for folder in options.runs:
        run = ScreeningRun.read(folder)
        table = pq.read_table(folder / "scores.parquet")
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        row = {index: at for at, index in enumerate(columns["index"])}
        samples = [s for s in open_data(run.data.split(", ")) if isinstance(s, Sample) and s.index in row]
        samples = [s for s in samples if len(s.turns) == 1][: options.samples]
        prompts = [model.prompt_ids(s.messages[: s.turns[0]]) for s in samples]
        first, second = (drawn(model, prompts, panel, 1000 * turn) for turn in range(2))
        at = [row[s.index] for s in samples]
        for k, name in enumerate(panel.names):
            answers, own = columns[f"{name}_projection"][at], columns[f"{name}_own"][at]
            known = np.isfinite(own) & np.isfinite(first[:, k]) & np.isfinite(second[:, k])
            greedy, one, two = (answers[known] - values[known] for values in (own, first[:, k], second[:, k]))
            rows.append(
                [
                    folder.name,
                    name,
                    str(known.sum()),
                    show_estimate(correlation(greedy, one), ".2f"),
                    show_estimate(correlation(one, two), ".2f"),
                    f"{answers[known].var() / own[known].var():.2f}",
                ]
            )
    publish(
        "screening_reliability",
        "Exact projection differences against themselves",
        [
            "data",
            "trait",
            "samples",
            "rank correlation, greedy and drawn",
            "drawn and drawn again",
            "variance, data's answers to own",
        ],
        rows,
        [
            f"Own answers of at most {NEW_TOKENS} tokens, drawn at temperature {TEMPERATURE}. Where own answers vary far more than "
            "the data's (last column below 1), samples are ranked mostly by what the model happened to answer itself.",
            f"{model.id}; brackets: 95 % intervals over samples.",
        ],
        options.write,
        timed=False,
    )


if __name__ == "__main__":
    main()
