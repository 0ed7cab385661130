"""What is known beforehand of answers: how clean domains read, and how texts read that show a trait or lack it.

Of every answer the first tokens are read, as those of `personavec.texts` are. Readings are kept in the cache folder, by
model, layer and content.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from personavec.cache import folder_in_cache
from personavec.data import Dataset, Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.files import replacing
from personavec.model import Conversation
from personavec.progress import progress
from personavec.projection.domains import load_domains
from personavec.projection.measure import readings, tokenise
from personavec.texts import TOKENS, Text, chat_texts, library_texts
from personavec.traits import library_names

MOST = 400  # samples of a domain that are read


@dataclass(frozen=True)
class TextSides:
    """Readings (n, d) of texts that show a trait, and of texts that lack it.

    Attributes:
        chat: Those in a chat model's words, the last of either side; None: there are none.
    """

    positive: Tensor
    negative: Tensor
    chat: "TextSides | None" = None

    @property
    def shown(self) -> Tensor:
        """What the trait's own direction is made of: the data to be screened are a model's answers as well."""
        return self.positive if self.chat is None else self.chat.positive


@dataclass(frozen=True)
class Bank:
    """Readings at one layer.

    Attributes:
        first, second: By domain, those (n, d) of every other sample, and of the others: directions are made of the one
            half, and every figure is taken on the other.
        texts: By trait.
        given: Names of the domains that the user gave.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    texts: Mapping[str, TextSides]
    given: frozenset[str] = frozenset()

    @classmethod
    def of(cls, domains: Mapping[str, Tensor], texts: Mapping[str, TextSides]) -> "Bank":
        """With domains (n, d) parted."""
        first, second = ({name: rows[at::2] for name, rows in domains.items()} for at in (0, 1))
        return cls(first, second, texts)

    def whole(self, domain: str) -> Tensor:
        """(n, d) of a domain."""
        return torch.cat([self.first[domain], self.second[domain]])


def read_bank(engine: Engine, layers: Sequence[int], beside: Mapping[str, Dataset]) -> dict[int, Bank]:
    """A bank for each layer: the domains and texts that come with personavec, and domains of the user's.

    Raises:
        UserError: A domain of the user's has fewer than four samples that can be read.
    """
    domains, library = read_domains(engine, layers, beside), _library()
    found: dict[int, dict[str, TextSides]] = {layer: {} for layer in layers}
    with progress("Reading texts", total=len(library), unit="sets") as job:
        for trait, texts in library.items():
            positives, negatives = (
                cached_readings(engine, [text_conversation(engine, t) for t in texts.all if t.side == side], layers)
                for side in ("positive", "negative")
            )
            for layer in layers:
                sides = TextSides(positives[layer], negatives[layer])
                found[layer][trait] = replace(sides, chat=_last(sides, texts.chat))
            job.advance(1)
    return {layer: Bank.of(domains[layer], found[layer]) for layer in layers}


def read_domains(
    engine: Engine, layers: Sequence[int], beside: Mapping[str, Dataset] = {}
) -> dict[int, dict[str, Tensor]]:
    """Readings (n, d) of the domains that come with personavec, and of the user's, by layer and name.

    Raises:
        UserError: A domain of the user's has fewer than four samples that can be read.
    """
    domains = {**load_domains(), **beside}
    made: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
    with progress("Reading domains", total=len(domains), unit="sets") as job:
        for name, data in domains.items():
            found = [c for sample in first_samples(data) for c in sample_conversations(engine, sample)]
            if len(found) < 4:
                raise UserError(
                    f"{name}: {len(found)} samples can be read, too few for a domain.", "Give a larger reference set."
                )
            for layer, rows in cached_readings(engine, found, layers).items():
                made[layer][name] = rows
            job.advance(1)
    return made


def bank_digest() -> str:
    """Identity of the domains and texts that come with personavec."""
    told = {
        trait: [[(text.question, text.answer, text.side) for text in kind] for kind in (texts.plain, texts.chat)]
        for trait, texts in _library().items()
    }
    parts = [*(data.digest for data in load_domains().values()), json.dumps(told)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


class _Kinds(NamedTuple):
    """A trait's texts: those that vectors are made of, and those in a chat model's words."""

    plain: Sequence[Text]
    chat: Sequence[Text]

    @property
    def all(self) -> list[Text]:
        return [*self.plain, *self.chat]


def _library() -> dict[str, _Kinds]:
    """All of the library's texts by trait."""
    found = {}
    for trait in library_names():
        with suppress(UserError):  # there are none for it
            texts = library_texts(trait)
            found[trait] = _Kinds([*texts.extract, *texts.test], chat_texts(trait))
    return found


def _last(sides: TextSides, texts: Sequence[Text]) -> TextSides | None:
    """The last readings of either side, as many as there are such texts."""
    positive = sum(text.side == "positive" for text in texts)
    if not texts:
        return None
    return TextSides(sides.positive[-positive:], sides.negative[positive - len(texts) :])


def first_samples(data: Dataset) -> list[Sample]:
    """As many as a domain may have."""
    samples: list[Sample] = []
    for record in data:
        if isinstance(record, Sample):
            samples.append(record)
        if len(samples) == MOST:
            break
    return samples


def sample_conversations(engine: Engine, sample: Sample) -> list[Conversation]:
    """The last turn of a sample; none where the model cannot read it."""
    with suppress(UserError):
        return tokenise(engine, sample, "last", TOKENS).conversations
    return []


def text_conversation(engine: Engine, text: Text) -> Conversation:
    """A text after its question alone."""
    prompt = engine.template.prompt_ids([{"role": "user", "content": text.question}])
    ids = [*prompt, *engine.template.answer_ids(text.answer)[:TOKENS]]
    return Conversation(ids, [(len(prompt) - 1, len(prompt)), (len(prompt), len(ids))])


def cached_readings(engine: Engine, conversations: Sequence[Conversation], layers: Sequence[int]) -> dict[int, Tensor]:
    """(n, d) of the answers, by layer: from the cache, or read now and kept there."""
    told = json.dumps([dict(engine.identity), [[c.ids, c.spans] for c in conversations]], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()[:32]
    folder = folder_in_cache("bank")
    paths = {layer: folder / f"{key}-{layer}.safetensors" for layer in layers}
    if missing := [layer for layer, path in paths.items() if not path.exists()]:
        rows = readings(engine, [[conversation] for conversation in conversations], missing).answers
        for at, layer in enumerate(missing):
            with replacing(paths[layer]) as temporary:
                save_file({"answers": rows[:, at].contiguous()}, temporary)
    return {layer: load_file(path)["answers"] for layer, path in paths.items()}
