"""Steering at candidate layers: where the vector works best, and how much of it the model bears."""

from dataclasses import dataclass

from personavec.errors import UserError
from personavec.extraction.effects import NATURAL_SHARE, layer_effects
from personavec.extraction.workbench import Workbench
from personavec.interventions import steering
from personavec.rollouts import Rollout
from personavec.vector import PersonaVector

SWEEP_QUESTIONS = 8
SCALES = (2.0, 1.0, 0.5, 0.25, 0.125)  # coefficients: the first at which some layer stays coherent is taken


@dataclass(frozen=True)
class Sweep:
    """What the sweep chose.

    Attributes:
        vector: At the chosen layer.
        scale: The coefficient, in multiples of the vector.
        rollouts: All answers of the sweep.
    """

    vector: PersonaVector
    scale: float
    rollouts: list[Rollout]


def choose_layer(bench: Workbench, vector: PersonaVector, natural: float) -> Sweep:
    """Steer at candidate layers by plus and minus one coefficient, on extraction questions; choose the layer.

    The coefficient is the largest of `SCALES` at which some layer stays coherent, so that it suits any model. The
    layer is the coherent one with the largest effect: score at plus minus score at minus (paper appendix B.4, with
    both signs, since some traits start near their ceiling).

    Args:
        natural: Mean coherence of neutral answers, in points.

    Raises:
        UserError: No layer stays coherent at any coefficient.
    """
    questions, layers = bench.questions[:SWEEP_QUESTIONS], bench.candidates
    rollouts: list[Rollout] = []
    for scale in SCALES:
        batch: list[Rollout] = []
        for layer in layers:
            for coefficient in (-scale, scale):
                edits = steering(vector, coefficient, layers=layer, positions=bench.settings.positions)
                batch += bench.steered("sweep", edits, questions, layer, coefficient)
        bench.generate(batch, f"4/5 Steering at {len(layers)} layers by {scale:g}")
        bench.score(batch, "4/5 Judging")
        rollouts += batch
        effects = layer_effects(batch, scale, NATURAL_SHARE * natural)
        if effects:
            return Sweep(vector.using(max(effects, key=lambda layer: effects[layer])), scale, rollouts)
    raise UserError(
        f"Steering by the vector of {vector.trait!r} breaks {bench.model.id} at every layer and coefficient tried "
        f"({', '.join(f'{s:g}' for s in SCALES)}).",
        "The vector is not usable. Raise `rollouts` or `questions`, or look at the trait's instructions.",
    )
