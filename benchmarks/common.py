"""What the benchmarks share: samples, timing side by side, and tables with what is needed to judge them."""

import argparse
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from scipy.stats import binom

from personavec import ChatModel, Conversation
from personavec.files import write_atomic
from personavec.provenance import PACKAGES, machine
from personavec.stats.estimate import Estimate
from personavec.traits import library_names, load_trait

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Middle:
    """A median of n values and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def show(self, form: str = ".2f") -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, ["---"] * len(headings), *rows])


def show_estimate(estimate: Estimate | None, form: str = ".0f") -> str:
    """With its interval, where it has one."""
    if estimate is None:
        return "-"
    if not estimate.bounded:
        return f"{estimate.mean:{form}}"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def middle(values: Sequence[float]) -> Middle:
    """The median with the interval between order statistics that covers it in at least 95 % of cases, whatever the
    distribution (from 6 values on; below that the lowest and the highest value, which cover less)."""
    ordered = sorted(values)
    cut = max(int(binom.ppf(0.025, len(ordered), 0.5)) - 1, 0)
    return Middle(median(ordered), ordered[cut], ordered[-1 - cut], len(ordered))


def now() -> float:
    """Seconds on the clock, once the GPU has done what it was given; without a GPU and with a single PyTorch thread
    (OMP_NUM_THREADS=1) seconds of processor time, which other processes on a busy machine do not lengthen."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def side_by_side(ways: Mapping[str, Callable[[int], float | None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round: A B C, B C A, C A B, ...; neighbours in time share the machine's mood.

    A way is called with the number of the round. It may return the seconds itself if not all of it is to be timed.
    """
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in ways}
    order = list(ways)
    for turn in range(rounds):
        for name in order:
            start = now()
            own = ways[name](turn)
            seconds[name][turn] = now() - start if own is None else own
        order.append(order.pop(0))
    return seconds


def times(slow: Sequence[float], fast: Sequence[float]) -> Middle:
    """How many times as long the one took as the other, from the ratio of each round."""
    return middle([a / b for a, b in zip(slow, fast, strict=True)])


def answer_pairs(model: ChatModel, count: int, seed: int = 0) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts (instruction and question of a library trait) with two answers of 30 to 150 tokens each, as token ids.

    The answers are strings of other questions: their words do not matter for speed, their lengths do.
    """
    draw = random.Random(seed)
    traits = [load_trait(name) for name in library_names()]
    questions = [q for trait in traits for q in (*trait.extraction_questions, *trait.evaluation_questions)]
    pairs = []
    for _ in range(count):
        trait = draw.choice(traits)
        system = draw.choice(trait.system_prompts(draw.randrange(len(trait.instructions))))
        prompt = model.prompt_ids(
            [{"role": "system", "content": system}, {"role": "user", "content": draw.choice(questions)}]
        )
        answers = [
            model.template.answer_ids(" ".join(draw.sample(questions, 14)))[: draw.randint(30, 150)] for _ in range(2)
        ]
        pairs.append((prompt, answers))
    return pairs


def conversations(pairs: Sequence[tuple[list[int], list[list[int]]]]) -> list[Conversation]:
    """One conversation per answer, whose span is the answer."""
    return [
        Conversation([*prompt, *answer], [(len(prompt), len(prompt) + len(answer))])
        for prompt, answers in pairs
        for answer in answers
    ]


def arguments(description: str, *, model: bool = False) -> argparse.ArgumentParser:
    """Of a benchmark; `model`: it runs on any, not on the bundled one alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help="store the table under benchmarks/results")
    if model:
        parser.add_argument("--model", help="default: the bundled one")
    return parser


def publish(
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    write: bool,
    device: torch.device | None = None,
    *,
    timed: bool = True,
) -> None:
    """Print the table, with the machine it comes from; store it as `results/NAME.md` (`NAME-gpu.md`) if asked.

    `timed`: cells come from rounds in which the ways took turns, and time is what they tell.
    """
    gpu = device is not None and device.type == "cuda"
    here = machine(device or torch.device("cpu"))
    clock = "processor time" if torch.get_num_threads() == 1 and not gpu else "wall-clock time"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    lines = [
        f"# {title}",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {note}" for note in notes),
        *(
            [
                "- Cells with brackets: median [95 % interval of the median] over rounds in which the ways took turns. Ratios "
                "are taken within a round."
            ]
            if timed
            else []
        ),
        f"- {time.strftime('%Y-%m-%d')}; {here.device + ', ' if gpu else ''}{here.cpu}, {here.cores} cores, {torch.get_num_threads()} PyTorch threads; "
        f"{f'load average at the end {load} (1, 5, 15 minutes); {clock}; ' if timed else ''}"
        + ", ".join(f"{package} {version(package)}" for package in ("personavec", *PACKAGES[:2]))
        + ".",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        write_atomic(RESULTS / f"{name}{'-gpu' if gpu else ''}.md", text)
