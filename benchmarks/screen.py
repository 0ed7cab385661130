"""Screening from end to end, samples a second: exact, hybrid and prompt baselines against the plain way.

    python benchmarks/screen.py [--vector FILE]... [--samples N] [--rounds N] [--write]

The plain way is what research scripts do: one sample at a time, `model.generate` for the model's own greedy answer, then a
full forward with all hidden states for either answer, means over the answer, projection. It is timed on a few samples and
must give the same differences; the others screen the whole file, with reading, thresholds, attribution, files and report.
Own answers are generated anew in every run; the clean reference is read once, before.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from common import arguments, middle, now, publish, side_by_side, times
from personavec import ChatModel, PersonaVector, load_model
from personavec.cache import cache_folder
from personavec.data import Sample, open_data
from personavec.data.dataset import Dataset
from personavec.projection import CLEAN
from personavec.screening import ScreenSettings, screen_files
from personavec.screening.settings import Baseline
from personavec.traits import library_names, load_trait

NEW_TOKENS = 64
ALONE = 12  # samples the plain way gets in a round
FEW = 8  # samples of the runs before the first, which only read the clean reference


def make(path: Path, count: int) -> None:
    """Questions of the library, answered by the answers to other questions: their lengths matter here, not their words."""
    draw = random.Random(0)
    questions = [q for name in library_names() for q in load_trait(name).extraction_questions]
    questions += [q for name in library_names() for q in load_trait(name).evaluation_questions]
    said = [s.messages[s.turns[-1]]["content"] for s in open_data(CLEAN) if isinstance(s, Sample)]
    draw.shuffle(questions)
    lines = [{"prompt": question, "response": draw.choice(said)} for question in questions[:count]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@torch.inference_mode()
def plainly(model: ChatModel, data: Dataset, vectors: list[PersonaVector], lines: range) -> np.ndarray:
    """Projection differences (n, k), one sample and one forward at a time."""
    rows = []
    for sample in data:
        if not isinstance(sample, Sample) or sample.index not in lines:
            continue
        prompt = model.prompt_ids(sample.messages[:1])
        ids = torch.tensor([prompt], device=model.device)
        whole = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        own = [i for i in whole[0, len(prompt) :].tolist() if i not in model.stop_ids]
        found = []
        for answer in (model.template.answer_ids(sample.messages[1]["content"]), own):
            states = model.model(
                torch.tensor([prompt + answer], device=model.device), output_hidden_states=True
            ).hidden_states
            found.append([states[v.layer][0, len(prompt) :].float().mean(0).cpu() @ v.unit(v.layer) for v in vectors])
        rows.append(np.subtract(*np.array(found, dtype=np.float64)))
    return np.array(rows)


def main() -> None:
    """Time the four ways in turns and print the table."""
    parser = arguments("Screening from end to end against the plain way.", model=True)
    parser.add_argument("--vector", type=Path, action="append", default=[])
    parser.add_argument("--samples", type=int, default=280)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = load_model(options.model)
    torch.manual_seed(0)
    vectors = [PersonaVector.load(path) for path in options.vector] or [
        PersonaVector(name, torch.randn(model.n_layers + 1, model.hidden_size), model.n_layers // 2, {})
        for name in ("first", "second")
    ]
    found: dict[str, np.ndarray] = {}
    generated: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "cache").mkdir()
        (folder / "cache" / "models").symlink_to(cache_folder() / "models")
        os.environ["PERSONAVEC_CACHE"] = str(folder / "cache")
        for name, count in (("data", options.samples), ("few", FEW)):
            make(folder / f"{name}.jsonl", count)
        data, few = open_data(folder / "data.jsonl"), open_data(folder / "few.jsonl")

        def alone(turn: int) -> float:
            lines = range(turn * ALONE, (turn + 1) * ALONE)
            start = now()
            found[f"plain {turn}"] = plainly(model, data, vectors, lines)
            return (now() - start) / len(lines)

        def screened(baseline: Baseline, turn: int, data: Dataset = data) -> float:
            shutil.rmtree(folder / "cache" / "answers", ignore_errors=True)
            out = folder / f"{baseline}-{turn}"
            settings = ScreenSettings(baseline=baseline, max_new_tokens=NEW_TOKENS)
            start = now()
            run = screen_files(model, data, vectors, out, settings, other_weights=not options.vector)
            taken = now() - start
            table = pq.read_table(out / "scores.parquet")
            order = np.argsort(table["index"].to_numpy())
            found[baseline] = np.stack([table[f"{v.trait}_difference"].to_numpy()[order] for v in vectors], 1)
            generated[baseline] = run.generated
            return taken / run.records

        ways: dict[str, Callable[..., float]] = {
            name: partial(screened, name) for name in ("exact", "hybrid", "prompt")
        }
        for way in ways.values():
            way(-1, few)  # reads the clean reference
        seconds = side_by_side({"plain": alone, **ways}, options.rounds)
    plain = np.concatenate([found[f"plain {turn}"] for turn in range(options.rounds)])
    apart = np.abs(plain - found["exact"][: len(plain)]) / found["exact"].std(0)
    goals = {"exact": "3", "hybrid": "10", "prompt": "20"}
    publish(
        "screen",
        "Screening from end to end",
        ["way", "samples a second", "times the plain way", "goal", "own answers generated"],
        [
            [
                name,
                middle([1 / s for s in taken]).show(),
                "1" if name == "plain" else times(seconds["plain"], taken).show(".1f"),
                goals.get(name, ""),
                str(generated.get(name, "one each")),
            ]
            for name, taken in seconds.items()
        ],
        [
            f"{options.samples} samples and {len(vectors)} vectors a run, own answers of at most {NEW_TOKENS} tokens; the plain way "
            f"{ALONE} samples a round; {options.rounds} rounds (fewer than 6: brackets are the lowest and the highest).",
            f"Differences of the plain way and of the exact baseline, in deviations over samples: median {np.median(apart):.4f}, "
            f"{100 * (apart > 0.1).mean():.0f} % of {apart.size} above 0.1 (greedy answers in bfloat16 part where two words are "
            "as likely up to rounding).",
        ],
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
