"""Random directions in the vector's place: what chance gives when it may choose its layer as the vector did."""

from collections.abc import Sequence

import torch
from torch import Tensor

from personavec.extraction.effects import NATURAL_SHARE, by_direction, layer_effects
from personavec.extraction.sweep import Sweep
from personavec.extraction.workbench import Workbench
from personavec.model.edits import Intervention
from personavec.operations import ADD
from personavec.rollouts import Rollout
from personavec.stats.nulls import covariance_directions

NULL_QUESTIONS = 6  # evaluation questions that random directions are steered on
NULL_SWEEP_QUESTIONS = 2  # extraction questions on which each of them chooses its layer


def chance_rollouts(
    bench: Workbench,
    sweep: Sweep,
    natural: float,
    readings: Tensor,
    extraction: Sequence[Rollout],
) -> list[Rollout]:
    """Answers to evaluation questions under random directions of the vector's norm.

    Each has the covariance of the readings, and chooses its layer on extraction questions, as the vector did.

    Args:
        sweep: Of the vector. Steering is by plus and minus its coefficient.
        natural: Mean coherence of neutral answers, in points.
        readings: Response means (n, n_layers + 1, d) of the extraction rollouts.
    """
    layers, settings, vector, scale = bench.candidates, bench.settings, sweep.vector, sweep.scale
    sides = [str(r.side) for r in extraction]
    random = covariance_directions(readings[:, layers], sides, settings.random_directions, settings.seed + 2)
    norms = torch.stack([vector.at(layer).norm() for layer in layers])
    random = torch.nn.functional.normalize(random, dim=-1) * norms[:, None]
    names = [f"random{number:02}" for number in range(len(random))]

    def steered(stage: str, number: int, layer: int, questions: Sequence[str]) -> list[Rollout]:
        direction = random[number, layers.index(layer)]
        rollouts: list[Rollout] = []
        for coefficient in (-scale, scale):
            edits = [Intervention(ADD, layer, coefficient * direction, settings.positions)]
            rollouts += bench.steered(stage, edits, questions, layer, coefficient, names[number])
        return rollouts

    tries: list[Rollout] = []
    if len(layers) > 1:
        questions = bench.trait.extraction_questions[:NULL_SWEEP_QUESTIONS]
        for number in range(len(random)):
            for layer in layers:
                tries += steered("null-sweep", number, layer, questions)
        bench.generate(tries, "5/5 Steering by random directions at every layer")
        bench.score(tries, "5/5 Judging")
    groups = by_direction(tries)
    null: list[Rollout] = []
    for number, name in enumerate(names):
        layer = _best_layer(groups.get(name, []), scale, natural) or vector.layer
        null += steered("null", number, layer, bench.trait.evaluation_questions[:NULL_QUESTIONS])
    bench.generate(null, "5/5 Steering by random directions")
    bench.score(null, "5/5 Judging")
    return null


def _best_layer(tries: Sequence[Rollout], scale: float, natural: float) -> int | None:
    """Where a direction's effect is largest; None: nowhere was there one to measure.

    Where no layer stays coherent, one that does not is better than no null at all.
    """
    effects = layer_effects(tries, scale, NATURAL_SHARE * natural) or layer_effects(tries, scale, 0.0)
    return max(effects, key=lambda layer: abs(effects[layer])) if effects else None
