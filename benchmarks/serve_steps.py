"""What steering and reading cost in a step of the server: every row steered in its own way and read along four vectors.

    python benchmarks/serve_steps.py [--rows 1,8,32] [--pairs 24] [--model M] [--write]

Steps of one batch, in pairs: the same tokens with and without, the order by turns. A step is what the server does between
two tokens: blocks, head, draw, and readings as numbers.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from common import arguments, now, publish, side_by_side, times
from personavec import ChatModel, PersonaVector, load_model
from personavec.interventions import steering
from personavec.model.edits import Intervention, SteeringPlan
from personavec.model.places import Places, read_piece
from personavec.model.sampling import draw
from personavec.serving.readings import Meter
from personavec.traits import library_names, load_trait
from serve import push, random_vectors

WARM = 2  # steps whose seconds do not count


def started(model: ChatModel, rows: int, steps: int) -> Places:
    """Places with as many questions of library traits, read to their last token."""
    questions = [q for name in library_names() for q in load_trait(name).evaluation_questions][:rows]
    prompts = [model.prompt_ids([{"role": "user", "content": question}]) for question in questions]
    places = Places(model.blocks, rows, max(map(len, prompts)) + steps)
    for place, prompt in enumerate(prompts):
        cache = DynamicCache()
        read_piece(model.blocks, cache, prompt[:-1], SteeringPlan([[]]))
        places.put(place, prompt, cache)
    return places


@torch.inference_mode()
def measured(model: ChatModel, meter: Meter, edits: Sequence[list[Intervention]], pairs: int) -> list[str]:
    """A row of the table."""
    rows = len(edits)
    places = started(model, rows, pairs + WARM + 1)
    plans = {"plain": SteeringPlan([[]] * rows), "steered and read": SteeringPlan(edits)}
    drawn: list[int] = []

    def step(name: str) -> float:
        begun = now()
        seen: dict[int, torch.Tensor] = {}
        reads = name != "plain"
        with model.blocks.watching(meter.edits(seen) if reads else {}):
            states = places.step(plans[name], [False] * rows)
        if reads:
            meter.readings(seen, rows)
        drawn[:] = draw(model.head(states), [0.0] * rows, [0.5] * rows)
        return now() - begun

    def way(name: str, turn: int) -> float:
        if order[turn].index(name) == 1:  # both have read it
            spent = step(name)
            places.advance(drawn)
            return spent
        return step(name)

    names = list(plans)
    order = [names if turn % 2 == 0 else names[::-1] for turn in range(pairs + WARM)]
    found = side_by_side({name: lambda turn, name=name: way(name, turn) for name in names}, pairs + WARM)
    plain, other = (found[name][WARM:] for name in names)
    return [str(rows), f"{1000 * np.median(plain):.0f}", times(other, plain).show(".3f"), str(pairs)]


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--pairs", type=int, default=24)
    options = parser.parse_args()
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        vectors = [PersonaVector.load(path) for path in random_vectors(model, Path(folder))]
    meter, size, table = Meter(vectors), push(model), []
    for rows in map(int, options.rows.split(",")):
        edits = [steering(vectors[i % len(vectors)], size * (-1) ** i * (1 + i / 64)) for i in range(rows)]
        table.append(measured(model, meter, edits, options.pairs))
        print(" | ".join(table[-1]), flush=True)
    header = ["responses side by side", "ms a plain step", "steered and read, times plain", "pairs of steps"]
    notes = [f"{model.id}, {model.model.dtype}; {len(vectors)} vectors. Goal: at most 1.03."]
    publish("serve_steps", "A step of the server", header, table, notes, options.write, model.device)


if __name__ == "__main__":
    main()
