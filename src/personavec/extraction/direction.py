"""From readings to a persona vector: the difference of means, and what neutral answers read along it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from personavec.extraction.readings import RolloutReadings, token_projections
from personavec.extraction.workbench import Workbench
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from personavec.vector import PersonaVector


def mean_difference(
    model: ChatModel, trait: str, extraction: Sequence[Rollout], readings: RolloutReadings
) -> PersonaVector:
    """Mean of kept positives minus mean of kept negatives, float32 (paper section 2.2).

    Args:
        trait: Name.
        readings: Of the extraction rollouts.
    """
    positive = readings.where([bool(r.kept) and r.side == "positive" for r in extraction])
    negative = readings.where([bool(r.kept) and r.side == "negative" for r in extraction])
    return PersonaVector(
        trait=trait,
        directions=positive.response_mean.mean(0) - negative.response_mean.mean(0),
        layer=max(1, model.n_layers // 2),
        model={
            "id": model.id,
            "weights": model.weights_hash,
            "template": model.template.hash,
            "n_layers": model.n_layers,
            "hidden_size": model.hidden_size,
        },
        alternatives={
            "prompt_mean": positive.prompt_mean.mean(0) - negative.prompt_mean.mean(0),
            "prompt_last": positive.prompt_last.mean(0) - negative.prompt_last.mean(0),
        },
    )


def with_neutral(
    bench: Workbench, vector: PersonaVector, neutral: Sequence[Rollout], readings: RolloutReadings
) -> PersonaVector:
    """See `neutral_statistics`; the time it takes is counted."""
    with bench.timings.stage("read"):
        return neutral_statistics(bench.model, vector, neutral, readings)


def neutral_statistics(
    model: ChatModel, vector: PersonaVector, neutral: Sequence[Rollout], readings: RolloutReadings
) -> PersonaVector:
    """Add the statistics of neutral answers: of whole answers, of last prompt tokens, of single tokens.

    Args:
        readings: Of the neutral rollouts.
    """
    answers = along(vector, readings.response_mean)
    prompts = along(vector, readings.prompt_last)
    tokens = token_projections(model, neutral, vector.directions)
    return replace(
        vector,
        neutral_mean=answers.mean(0),
        neutral_deviation=answers.std(0),
        neutral_prompt_mean=prompts.mean(0),
        neutral_prompt_deviation=prompts.std(0),
        neutral_token_mean=tokens.mean(0),
        neutral_token_deviation=tokens.std(0),
        residual_norm=readings.response_mean.norm(dim=-1).mean(0),
    )


def along(vector: PersonaVector, readings: Tensor) -> Tensor:
    """Projections (n, n_layers + 1) of readings (n, n_layers + 1, d) on the vector's direction at each layer."""
    units = torch.nn.functional.normalize(vector.directions, dim=-1)
    return torch.einsum("nld,ld->nl", readings, units)
