"""Does the layer that reads a trait best also steer best? Ready vectors, pushed at other layers by as much.

    python benchmarks/steering_layers.py --out runs/layers [--traits evil optimistic] [--write]

The vector of a trait is added, plus and minus a quarter of the mean residual norm there, at its own layer (chosen by how
well it reads), at others, and in equal parts at all layers that may be chosen. Two judges score the answers to the
evaluation questions. Of the layers the one with the largest effect by the probe on the even questions is compared with
the vector's own on the odd ones, so that the choice is not tried on what it was made by. What is done is kept in --out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import arguments, publish
from common import show_estimate as show
from models import Bench, Reader
from personavec import ChatModel, PersonaVector
from personavec.errors import UserError
from personavec.extraction.effects import effect
from personavec.extraction.given.reading import DEPTHS
from personavec.extraction.given.steering import EFFECT
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge, LikelihoodJudge
from personavec.judges.of_vector import state_of
from personavec.model.edits import Intervention
from personavec.operations import ADD
from personavec.ready import find_ready
from personavec.rollouts import Rollout, plan
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits import Trait, library_names, load_trait

EVERY = 3  # layers from one that is tried to the next
SPREAD = "all"
Answers = Mapping[str, Sequence[Rollout]]  # by judge, coherence among them


def places(model: ChatModel, vector: PersonaVector) -> dict[str, list[int]]:
    """The layers that a push is shared among, by name."""
    low, high = (int(share * model.n_layers) for share in DEPTHS)
    middle = list(range(low, high + 1))
    single = sorted({*range(low - EVERY, high + EVERY + 1, EVERY), vector.layer})
    return {**{str(layer): [layer] for layer in single}, SPREAD: middle}


def pushed(vector: PersonaVector, layers: Sequence[int], share: float) -> list[Intervention]:
    """By a share of the mean residual norm in all."""
    assert vector.residual_norm is not None
    return [
        Intervention(ADD, layer, share / len(layers) * float(vector.residual_norm[layer]) * vector.unit(layer))
        for layer in layers
    ]


def judges(reader: Reader, trait: Trait, vector: PersonaVector) -> dict[str, Judge]:
    """Those of the vector's extraction."""
    state = state_of(vector)
    return {
        "probe": reader.probe(trait.name),
        "contrast": ContrastJudge(reader.model, trait, state.calibration, alone=True),
        "coherence": LikelihoodJudge(reader.model, state.coherence),
    }


def answers(bench: Bench, reader: Reader, name: str) -> dict[str, Answers]:
    """Of a trait, by place and judge."""
    trait, vector = load_trait(name), PersonaVector.load(find_ready(name).path)
    vector.check(reader.model)
    asked = [
        replace(rollout, coefficient=share)
        for place, layers in places(reader.model, vector).items()
        for share in (-EFFECT, EFFECT)
        for rollout in plan(
            reader.model, "layers", trait.evaluation_questions, interventions=pushed(vector, layers, share),
            setting=f"{name}, {place}, {share:+g}",
        )
    ]  # fmt: skip
    bench.answer(asked, name)
    scored = {
        judge: bench.score(lambda of=of: of, f"{judge}/{name}", None, asked)
        for judge, of in judges(reader, trait, vector).items()
    }
    return {
        place: {judge: [r for r in some if r.setting.split(", ")[1] == place] for judge, some in scored.items()}
        for place in places(reader.model, vector)
    }


def moved(rollouts: Sequence[Rollout], odd: bool | None = None) -> Estimate | None:
    """From minus to plus, on all questions or on every second."""
    some = [r for r in rollouts if odd is None or r.question_index % 2 == odd]
    try:
        return effect(some, EFFECT)
    except UserError:
        return None


def lead(best: Sequence[Rollout], own: Sequence[Rollout]) -> Estimate:
    """Effect of one place minus that of another, on the odd questions that both have scores of."""

    def by_question(rollouts: Sequence[Rollout]) -> dict[int, float]:
        scores = {(r.question_index, r.coefficient): r.score for r in rollouts if r.score is not None}
        asked = {question for question, _ in scores if question % 2}
        both = [q for q in asked if {(q, EFFECT), (q, -EFFECT)} <= scores.keys()]
        return {q: scores[q, EFFECT] - scores[q, -EFFECT] for q in both}

    first, second = by_question(best), by_question(own)
    return bootstrap_mean([first[q] - second[q] for q in sorted(first.keys() & second.keys())])


def coherence(rollouts: Sequence[Rollout]) -> Estimate:
    known = [(r.coherence, r.question_index) for r in rollouts if r.coherence is not None]
    return bootstrap_mean([value for value, _ in known], [question for _, question in known])


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/layers"))
    parser.add_argument("--traits", nargs="+", default=library_names())
    options = parser.parse_args()
    reader = Reader()
    bench = Bench("default", options.out)
    rows, notes = [], []
    for name in options.traits:
        found, own = answers(bench, reader, name), str(find_ready(name).layer)
        for place, some in found.items():
            figures = [show(moved(some[judge])) for judge in ("probe", "contrast")]
            rows.append([name, f"**{place}**" if place == own else place, *figures, show(coherence(some["coherence"]))])
            print(*rows[-1], flush=True)
        singles = {place: moved(some["probe"], odd=False) for place, some in found.items()}
        best = max(singles, key=lambda place: singles[place].mean if singles[place] else -np.inf)
        leads = [
            f"{judge} {show(lead(found[best][judge], found[own][judge]), '+.1f')}" for judge in ("probe", "contrast")
        ]
        notes.append(
            f"{name}: best on the even questions at {best}; there against its own layer {own}, on the odd ones: {', '.join(leads)}."
        )
        print(notes[-1], flush=True)
    publish(
        "steering_layers",
        "The same push at other layers",
        ["trait", "layer", "moved by, probe", "moved by, contrast", "coherence"],
        rows,
        [
            f"Points from minus to plus {EFFECT:.0%} of the mean residual norm, 20 evaluation questions a trait, with 95 % intervals over "
            f"questions. Bold: the vector's own layer, where it reads best. {SPREAD}: in equal parts at each of the layers that may be chosen.",
            *notes,
        ],
        options.write,
        timed=False,
    )


if __name__ == "__main__":
    main()
