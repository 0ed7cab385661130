"""Perplexity on general text: forty bundled passages of ordinary English."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from personavec.capability.result import Perplexity
from personavec.errors import UserError
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats

PASSAGES = Path(__file__).with_name("passages.jsonl")


def passages() -> list[str]:
    """The texts, one paragraph each, on as many subjects; written for this package."""
    return [json.loads(line)["text"] for line in PASSAGES.read_text(encoding="utf-8").splitlines()]


def passage_losses(
    model: ChatModel,
    interventions: Sequence[Intervention] = (),
    *,
    first: int | None = None,
    name: str = "Perplexity of general text",
) -> Floats:
    """Mean negative log-likelihood (n,), in nats per token, of every bundled passage, in the order of the file.

    The text stands by itself, without a chat template, after the tokenizer's BOS token if it has one (without one the
    first token is not predicted). An adapter counts as it is.

    Args:
        interventions: Steering. It acts on every token, whatever its positions, since a text has no prompt and no
            response.
        first: Only so many passages; None: all.
        name: For the progress bar.

    Raises:
        UserError: The likelihoods are not finite numbers.
    """
    start = model.tokenizer.bos_token_id
    ids = [
        ([] if start is None else [start]) + list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in passages()[:first]
    ]
    ids = [row[: model.context_length] for row in ids]
    losses = sequence_losses(model, ids, ids, interventions, name=name, unit="passages")
    if not np.isfinite(losses).all():
        raise UserError(
            f"The likelihood of {int((~np.isfinite(losses)).sum())} of {len(losses)} passages is not a finite number.",
            "Lower the coefficient, or load the model with `dtype` float32.",
        )
    return losses


def perplexities(before: ArrayLike, after: ArrayLike, seed: int = 0) -> Perplexity:
    """Both sides and their ratio, from the losses (n,) of the same passages by two models.

    The ratio is that of each passage: `exp` of the mean difference of the losses.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    return Perplexity(before=perplexity(old, seed), after=perplexity(new, seed), ratio=perplexity(new - old, seed))


def perplexity(losses: ArrayLike, seed: int = 0) -> Estimate:
    """Perplexity `exp(mean loss)` of passages whose losses (n,) are given, every passage counting the same.

    The interval is that of the mean loss, bootstrapped over passages, with `exp` of both bounds. Passages differ far
    more than models do: for the change between two models bootstrap the differences of their losses instead, and take
    `exp` of that for the ratio of the perplexities.

    Raises:
        ValueError: No losses, or losses that are not finite.
    """
    loss = bootstrap_mean(losses, seed=seed)
    return Estimate(math.exp(loss.mean), math.exp(loss.low), math.exp(loss.high), loss.n)
