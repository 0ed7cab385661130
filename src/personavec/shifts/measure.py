"""What a fine-tune did to the character: the fine-tuning shift, for any two checkpoints or an adapter."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.template import Template
from personavec.readout import read
from personavec.shifts.result import ShiftNulls, SystemShift, TraitShift
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place, covariance_directions, isotropic_directions, place
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector, check_one_per_trait, reading_sides

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
) -> dict[str, TraitShift]:
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
    vectors = reading_sides(vectors)
    if tuned is None:
        if model.adapter_hash is None:
            raise UserError("There is nothing to compare with.", "Name the tuned model, or an adapter (`adapter`).")
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
        raise UserError("No vector was named.", "Name one with `vector`, several for several traits.")
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
) -> dict[str, TraitShift]:
    """The fine-tuning shift along each vector (paper section 4.2), beside what chance gives, by trait:

        shift_l = (mean over the trait's evaluation questions of h_l(last prompt token), after minus before) . v^_l

    at the vector's own layer l. Random directions, isotropic and with the covariance of the readings before, are tried
    on the same changes: nearly any fine-tune moves the stream somewhat along any direction.

    Raises:
        UserError: The models have different shapes.
    """
    layers = depths(vectors)
    return {
        vector.trait: _trait_shift(vector, vectors, layers.index(vector.layer), before, after, seed)
        for vector in vectors
    }


def _trait_shift(
    vector: PersonaVector,
    vectors: Sequence[PersonaVector],
    at: int,
    before: PromptReadings,
    after: PromptReadings,
    seed: int,
) -> TraitShift:
    """The shift along one of the vectors; `at` is where the readings hold its layer."""
    trait, unit = vector.trait, vector.unit(vector.layer)
    old, new = before[trait, None][:, at], after[trait, None][:, at]
    if old.shape != new.shape:
        raise UserError(
            f"The models read {tuple(old.shape)} and {tuple(new.shape)}: they are not of one kind.",
            "Compare a model with a fine-tune of itself.",
        )
    change = new - old
    mean = change.mean(0)
    own = float(mean @ unit)
    deviation = vector.neutral_prompt_deviation
    return TraitShift(
        layer=vector.layer,
        shift=_along(change, unit, seed),
        neutral_deviations=None if deviation is None else own / float(deviation[vector.layer]),
        nulls=_nulls(own, mean, old, seed),
        others={other.trait: float(mean @ other.unit(vector.layer)) for other in vectors if other is not vector},
        systems=tuple(
            SystemShift(system=system, shift=_along((after[key] - before[key])[:, at], unit, seed))
            for key in before
            for name, system in [key]
            if name == trait and system is not None
        ),
    )


def _nulls(own: float, mean: Tensor, before: Tensor, seed: int) -> ShiftNulls:
    """A shift among those of random directions.

    Args:
        mean: The mean change (d,).
        before: Readings (n, d), whose covariance the one kind of them has.
    """

    def among(directions: Tensor) -> Place:
        return place(own, (torch.nn.functional.normalize(directions, dim=-1) @ mean).tolist())

    return ShiftNulls(
        isotropic=among(isotropic_directions((1, len(mean)), DIRECTIONS, seed)[:, 0]),
        covariance=among(covariance_directions(before[:, None], ["all"] * len(before), DIRECTIONS, seed + 1)[:, 0]),
    )


def _along(change: Tensor, unit: Tensor, seed: int) -> Estimate:
    return bootstrap_mean((change @ unit).double().numpy(), seed=seed)
