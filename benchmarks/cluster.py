"""What spreading over a Ray cluster costs and gains: the same work by a plain loop, one worker, and two workers.

    python benchmarks/cluster.py [--samples N] [--rounds N] [--write]

The work is that of a screening: readings of pairs of answers, and own answers of 32 tokens. The worker alone has all
processors of the machine, as the plain loop has; two workers have half of them each. Wall-clock time, also on one thread:
needs a quiet machine. Loading the models is not timed.
"""

import time
from functools import partial

import torch

from common import answer_pairs, arguments, conversations, publish, side_by_side, times
from personavec import load_model
from personavec.engine import Engine
from personavec.engine.choice import open_engine
from personavec.engine.cluster import RayEngine
from personavec.engine.transformers import TransformersEngine
from personavec.model.checkpoint import open_checkpoint

NEW_TOKENS = 32


def main() -> None:
    """Time the three ways in turns and print the table."""
    parser = arguments("A plain loop, one Ray worker, two Ray workers.")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    model = load_model()
    pairs = answer_pairs(model, options.samples // 2)
    texts, prompts = conversations(pairs), [prompt for prompt, _ in pairs]
    layer = len(model.blocks) // 2
    make = partial(open_engine, "transformers")

    def spread(workers: int) -> RayEngine:
        return RayEngine("local", make, open_checkpoint(None), workers)

    engines: dict[str, Engine] = {"plain loop": TransformersEngine(model), "1 worker": spread(1)}
    found: dict[str, tuple[torch.Tensor, list[list[int]]]] = {}
    seconds: dict[str, list[float]] = {}

    def work(name: str, _: int) -> float:
        start = time.perf_counter()
        readings = engines[name].read(texts, [layer])
        answers = engines[name].answer(prompts, NEW_TOKENS)
        taken = time.perf_counter() - start
        found[name] = readings, answers
        return taken

    # Two workers reserve the processors of the one, so each count has rounds of its own beside the plain loop.
    rows = []
    for workers in (1, 2):
        name = f"{workers} worker{'s' * (workers > 1)}"
        engines[name] = engines.get(name) or spread(workers)
        work(name, 0)
        seconds = side_by_side({"plain loop": partial(work, "plain loop"), name: partial(work, name)}, options.rounds)
        torch.testing.assert_close(found[name][0], found["plain loop"][0], rtol=0.02, atol=0.02)
        same = sum(a == b for a, b in zip(found[name][1], found["plain loop"][1], strict=True))
        rows.append(
            [
                name,
                f"{len(texts) / min(seconds['plain loop']):.1f}",
                f"{len(texts) / min(seconds[name]):.1f}",
                times(seconds["plain loop"], seconds[name]).show(),
                f"{same} of {len(prompts)}",
            ]
        )
        del engines[name]
    publish(
        "cluster",
        "Screening's work over a Ray cluster on one machine",
        [
            "",
            "plain loop, samples a second",
            "Ray, samples a second",
            "Ray against the plain loop, times as fast",
            "answers equal",
        ],
        rows,
        [
            f"{len(texts)} samples read at layer {layer} and {len(prompts)} own answers of {NEW_TOKENS} tokens a round; "
            f"{options.rounds} rounds (fewer than 6: brackets are the lowest and the highest); rates are those of the best "
            "round.",
            "Times here are wall-clock times, whatever the last note says.",
        ],
        options.write,
    )


if __name__ == "__main__":
    main()
