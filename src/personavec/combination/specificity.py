"""A finished vector of what a vector does not share with clean domains, other traits, length and refusing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from personavec.data import Dataset, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.extraction.direction import neutral_statistics
from personavec.extraction.readings import RolloutReadings
from personavec.files import JsonLines
from personavec.info import SpecificFacts
from personavec.model import ChatModel
from personavec.projection import CLEAN
from personavec.projection.bank import Bank, read_bank
from personavec.projection.common import common_directions
from personavec.projection.discriminant import Discriminant, Scene, groups_against
from personavec.projection.specific import LEAST_KEPT, Apart, Specific
from personavec.rollouts import generate, plan
from personavec.traits.of_vector import questions
from personavec.traits.writer import bank_questions
from personavec.vector import PersonaVector

Kind = Literal["span", "domains"]
NEUTRAL_TOKENS = 64  # of a neutral answer
COMMON = ("length", "refusing")


@dataclass(frozen=True)
class _TakenOut:
    """Names of what was taken out, and the directions (d,) that are left, by layer; none where nothing is."""

    made_of: Literal["vector", "texts"]
    domains: tuple[str, ...]
    traits: tuple[str, ...]
    common: tuple[str, ...]
    left: Mapping[int, Specific]


def specific(
    model: ChatModel,
    vector: PersonaVector,
    kind: Kind = "domains",
    *,
    others: Sequence[PersonaVector] = (),
    references: Mapping[str, Dataset] | None = None,
    seed: int = 0,
) -> PersonaVector:
    """The direction that `screen` with the setting `specific` screens along, as a vector of its own, at every layer.

    "span" takes out what the other traits' vectors, length and refusing span. "domains" does so with the centres of the
    clean domains and with the traits that the library has texts for; of a trait that it has texts for the direction is
    made of these texts instead, and tells them from all else that is known. Traits that a sum is made of stay in it.

    The original is projected on that direction, so that one unit of the vector pushes as far along it as one of the
    original does. Neutral statistics are measured: the model answers 20 questions. Of a vector that is read along
    another direction than it is steered by, what it is read along is made specific, and the other stays as it is.

    Args:
        others: Vectors of further traits of the model, of which "span" needs some to take out more than length and
            refusing.
        references: Further clean domains, by name; None: the clean chats of the package. The first one gives the
            directions of length and refusing.
        seed: Of the neutral answers.

    Raises:
        UserError: A vector of another model, nothing left at the vector's layer, references that cannot be used.
    """
    for one in (vector, *others):
        one.check(model)
    if vector.read is not None:
        made = specific(model, vector.read, kind, others=others, references=references, seed=seed)
        return replace(vector, read=made)
    engine, given = TransformersEngine(model), references or {"clean": open_data(CLEAN)}
    own = {vector.trait, *(part.trait for part in vector.info.parts or ())}
    rivals = [other.reading for other in others if other.trait not in own]
    if kind == "span":
        taken = _span(engine, vector, rivals, next(iter(given.values())))
    else:
        taken = _domains(engine, vector, own, rivals, given)
    _check_left(vector, taken)
    rows = torch.zeros_like(vector.directions)
    for layer, (direction, kept) in taken.left.items():
        rows[layer] = kept * vector.at(layer).norm() * direction
    kept_by_layer = [taken.left[layer].kept if layer in taken.left else 0.0 for layer in vector.steerable_layers]
    facts = SpecificFacts(
        kind=kind,
        made_of=taken.made_of,
        original=vector.hash,
        domains=taken.domains,
        traits=taken.traits,
        common=taken.common,
        kept=taken.left[vector.layer].kept,
        kept_by_layer=tuple(kept_by_layer),
    )
    known = {name: value for name in _STAYS if (value := getattr(vector.info, name)) is not None}
    info = type(vector.info)(**known, specific=facts)
    made = replace(vector, directions=rows, alternatives={}, info=info)
    return _with_neutral(model, made, seed)


_STAYS = ("personavec", "written", "trait", "judge", "parts")  # what was measured of the original does not hold


def _span(
    engine: TransformersEngine, vector: PersonaVector, rivals: Sequence[PersonaVector], clean: Dataset
) -> _TakenOut:
    layers = vector.steerable_layers
    left = {}
    for layer, common in zip(layers, common_directions(engine, clean, layers), strict=True):
        traits = {rival.trait: rival.unit(layer) for rival in rivals}
        with suppress(UserError):  # nothing is left at this layer
            left[layer] = Apart(traits, common)(vector.unit(layer), vector.trait)
    return _TakenOut("vector", (), tuple(rival.trait for rival in rivals), COMMON, left)


def _domains(
    engine: TransformersEngine,
    vector: PersonaVector,
    own: set[str],
    rivals: Sequence[PersonaVector],
    references: Mapping[str, Dataset],
) -> _TakenOut:
    layers = vector.steerable_layers
    banks = read_bank(engine, layers, references)
    domains = tuple(banks[vector.layer].first)
    texts = banks[vector.layer].texts
    traits = tuple(trait for trait in texts if trait not in own)
    if own == {vector.trait} and vector.trait in texts:
        made = {layer: _of_texts(bank, vector, layer) for layer, bank in banks.items()}
        left = {layer: found for layer, found in made.items() if found.kept >= LEAST_KEPT}
        return _TakenOut("texts", domains, traits, (), left)
    common = dict(zip(layers, common_directions(engine, next(iter(references.values())).every(2), layers), strict=True))
    left = {}
    for layer, bank in banks.items():
        scene = Scene.of(bank)
        known = Scene(bank, {trait: scene.traits[trait] for trait in traits})
        treat = known.apart({rival.trait: rival.unit(layer) for rival in rivals}, common[layer])
        with suppress(UserError):
            left[layer] = treat(vector.unit(layer), vector.trait)
    every = tuple(dict.fromkeys([*traits, *(rival.trait for rival in rivals)]))
    return _TakenOut("vector", domains, every, COMMON, left)


def _of_texts(bank: Bank, vector: PersonaVector, layer: int) -> Specific:
    """What tells the trait's texts from all else, and its cosine with the vector."""
    trait = vector.trait
    direction = Discriminant(bank.texts[trait].shown, groups_against(bank, trait)).direction
    return Specific(direction, float(vector.unit(layer) @ direction))


def _check_left(vector: PersonaVector, taken: _TakenOut) -> None:
    if vector.layer in taken.left:
        return
    if taken.made_of == "texts":
        raise UserError(
            f"At layer {vector.layer} the vector of {vector.trait!r} has nothing of what tells the library's texts "
            "that show the trait from all else.",
            "Is it a vector of this trait? Extract it from texts, or use it at another layer.",
        )
    raise UserError(
        f"At layer {vector.layer} next to nothing of the vector of {vector.trait!r} is its own.",
        "Leave out the most similar of the other traits, or use it at another layer.",
    )


def _with_neutral(model: ChatModel, vector: PersonaVector, seed: int) -> PersonaVector:
    """With the statistics of the model's answers to the trait's questions, or to some of the bank where it has none."""
    try:
        asked = questions(vector)
    except UserError:
        asked = [question for some in bank_questions() for question in some[:2]]
    answers = plan(model, "neutral", asked)
    with TemporaryDirectory() as folder:
        generate(
            model, answers, JsonLines(Path(folder) / "log.jsonl"),
            description="Answering", max_new_tokens=NEUTRAL_TOKENS, seed=seed,
        )  # fmt: skip
    spoken = [r for r in answers if r.response_ids[model.template.response_start(r.response_ids) :]]
    if len(spoken) < 2:
        raise UserError(f"{model.id} answers nothing.", "Use a chat model.")
    return neutral_statistics(model, vector, spoken, RolloutReadings.of(model, spoken))
