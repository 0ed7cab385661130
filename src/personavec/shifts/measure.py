"""What a fine-tune did to the character: the fine-tuning shift, for any two checkpoints or an adapter."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.template import Template
from personavec.readout import read
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.nulls import covariance_directions, isotropic_directions, place
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector, check_one_per_trait

log = logging.getLogger(__name__)

DIRECTIONS = 200  # random directions of each kind

PromptReadings = Mapping[tuple[str, str | None], Tensor]  # by trait and system prompt: (questions, layers, d)


def shift(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    tuned: ChatModel | None = None,
    *,
    systems: Sequence[str] = (),
    seed: int = 0,
    other_weights: bool = False,
) -> dict[str, dict[str, Any]]:
    """The shift of a fine-tune along each vector: `compare` of what `prompt_readings` reads.

    Args:
        model: The model before; or the model with a PEFT adapter on it, if `tuned` is None.
        vectors: Of the model before.
        tuned: The model after.
        systems: System prompts under which the shift is measured too: a trait may hide behind one.
        other_weights: See `PersonaVector.check`.

    Both read the very same tokens, in the chat template of the model before: what another template does is no change
    of the weights. Where the tuned model has another one, a warning is logged.

    Raises:
        UserError: No adapter and no second model, models of different shape, or what `prompt_readings` raises.
    """
    for vector in vectors:
        vector.check(model, other_weights=other_weights)
    if tuned is None:
        if model.adapter_hash is None:
            raise UserError("There is nothing to compare with.", "Name the tuned model, or an adapter (--adapter).")
        with model.unadapted():
            before = prompt_readings(model, vectors, systems)
        return compare(vectors, before, prompt_readings(model, vectors, systems), seed)
    for note in template_notes(model.template, tuned.template):
        log.warning(note)
    before = prompt_readings(model, vectors, systems)
    return compare(vectors, before, prompt_readings(tuned, vectors, systems, model.template), seed)


def template_notes(before: Template, after: Template) -> list[str]:
    """A sentence for the user where two models have different chat templates."""
    if before.hash == after.hash:
        return []
    return [
        "The tuned model has another chat template. Both models read their prompts in that of the model before, so "
        "that the shift is that of the weights; in its own template the tuned model may behave otherwise."
    ]


def check_traits(vectors: Sequence[PersonaVector]) -> None:
    """Refuse no vectors, and two of one trait."""
    if not vectors:
        raise UserError("No vector was named.", "Name one with --vector FILE, several for several traits.")
    check_one_per_trait(vectors)


def prompt_readings(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    systems: Sequence[str] = (),
    template: Template | None = None,
) -> PromptReadings:
    """Readings of the last prompt token of every trait's evaluation questions, at the layers of all vectors.

    Args:
        template: Writes the prompts: that of the model before, where this is a model after. None: the model's own.

    Raises:
        UserError: No vectors, two of one trait, a trait whose questions are not known, or a template whose tokens are
            others in this model.
    """
    template = template or model.template
    check_traits(vectors)
    layers = depths(vectors)
    found = {}
    for vector in vectors:
        for system in (None, *systems):
            first = [] if system is None else [{"role": "system", "content": system}]
            prompts = [template.prompt_ids([*first, {"role": "user", "content": q}]) for q in questions(vector)]
            used = sorted({token for ids in prompts for token in ids})
            if template.tokenizer.convert_ids_to_tokens(used) != model.tokenizer.convert_ids_to_tokens(used):
                raise UserError(
                    "The models have different tokenizers: the same tokens are not the same words to both.",
                    "Compare a model with a fine-tune of itself.",
                )
            ends = [Conversation(ids, [(len(ids) - 1, len(ids))]) for ids in prompts]
            found[vector.trait, system] = read(model, ends, layers=layers).means
    return found


def depths(vectors: Sequence[PersonaVector]) -> list[int]:
    """The layers of the vectors, in order."""
    return sorted({vector.layer for vector in vectors})


def compare(
    vectors: Sequence[PersonaVector], before: PromptReadings, after: PromptReadings, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """The fine-tuning shift along each vector (paper section 4.2), beside what chance gives:

        shift_l = (mean over the trait's evaluation questions of h_l(last prompt token), after minus before) . v^_l

    at the vector's own layer l. Random directions, isotropic and with the covariance of the readings before, are tried
    on the same changes: nearly any fine-tune moves the stream somewhat along any direction.

    Returns:
        {trait: {"layer", "shift": estimate over questions, "neutral_deviations": the shift in deviations of the neutral
        answers' prompts, None if the vector's file has none, "nulls": {"isotropic", "covariance"}: see `Place`,
        "others": {trait: the same change along its vector}, "systems": [{"system", "shift": estimate}]}}

    Raises:
        UserError: The models have different shapes.
    """
    layers = depths(vectors)
    result = {}
    for vector in vectors:
        at = layers.index(vector.layer)
        old, new = before[vector.trait, None][:, at], after[vector.trait, None][:, at]
        if old.shape != new.shape:
            raise UserError(
                f"The models read {tuple(old.shape)} and {tuple(new.shape)}: they are not of one kind.",
                "Compare a model with a fine-tune of itself.",
            )
        change = new - old
        unit = vector.unit(vector.layer)
        draws = {
            "isotropic": isotropic_directions((1, len(unit)), DIRECTIONS, seed)[:, 0],
            "covariance": covariance_directions(old[:, None], ["all"] * len(old), DIRECTIONS, seed + 1)[:, 0],
        }
        mean = change.mean(0)
        own = float(mean @ unit)
        deviation = vector.neutral_prompt_deviation
        result[vector.trait] = {
            "layer": vector.layer,
            "shift": _along(change, unit, seed),
            "neutral_deviations": None if deviation is None else round(own / float(deviation[vector.layer]), 4),
            "nulls": {
                name: {
                    key: round(value, 4)
                    for key, value in asdict(
                        place(own, (torch.nn.functional.normalize(some, dim=-1) @ mean).tolist())
                    ).items()
                }
                for name, some in draws.items()
            },
            "others": {
                other.trait: round(float(mean @ other.unit(vector.layer)), 4)
                for other in vectors
                if other is not vector
            },
            "systems": [
                {
                    "system": system,
                    "shift": _along(after[trait, system][:, at] - before[trait, system][:, at], unit, seed),
                }
                for trait, system in before
                if trait == vector.trait and system is not None
            ],
        }
    return result


def _along(change: Tensor, unit: Tensor, seed: int) -> dict[str, Any]:
    return bootstrap_mean((change @ unit).double().numpy(), seed=seed).as_dict()
