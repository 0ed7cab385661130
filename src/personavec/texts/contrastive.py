"""Contrastive texts from the library or from a file."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from personavec.data.record import Record
from personavec.data.sources import find_sources
from personavec.errors import UserError
from personavec.rollouts import Side
from personavec.traits import Trait

LEAST = 5  # texts of a side, in either half
MIDDLE = 50.0  # points: a scored text at or above it shows the trait
_SIDES: Mapping[str, Side] = {"positive": "positive", "pos": "positive", "negative": "negative", "neg": "negative"}
_LIBRARY = resources.files("personavec.traits").joinpath("library")
_ENDING = ".texts.jsonl"
_CHAT_ENDING = ".chat.jsonl"
_SPLITS = ("extract", "test")


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that somebody wrote.

    Attributes:
        question, answer: As written.
        side: "positive" if it shows the trait, "negative" if it lacks it.
        score: 0..100, where a judge or a person gave one.
        split: "extract" or "test"; None: not said.
    """

    question: str
    answer: str
    side: Side
    score: float | None = None
    split: str | None = None


@dataclass(frozen=True)
class Texts:
    """Contrastive texts for one trait, in two halves that share no question.

    Attributes:
        source: Where they are from: "library", the file as the user named it, or the model that wrote them.
        extract: What vectors and probes are made of.
        test: What their figures are taken on.
        rejected: Records that are no such text: line, reason.
    """

    source: str
    extract: tuple[Text, ...]
    test: tuple[Text, ...]
    rejected: tuple[tuple[Record, str], ...] = ()

    @classmethod
    def of(cls, source: str, texts: Sequence[Text], rejected: Sequence[tuple[Record, str]] = ()) -> "Texts":
        """In halves as the texts say, else by every other question.

        Raises:
            UserError: A half has too few texts of a side, or a question is in both.
        """
        places: dict[str, int] = {}
        for text in texts:
            places.setdefault(text.question, len(places))
        halves: dict[str, list[Text]] = {split: [] for split in _SPLITS}
        for text in texts:
            halves[text.split or _SPLITS[places[text.question] % 2]].append(text)
        both = {t.question for t in halves["extract"]} & {t.question for t in halves["test"]}
        if both:
            raise UserError(
                f"{source}: the question {min(both)!r} is in both splits, and in {len(both) - 1} more cases.",
                "Give all answers to a question the same split, or leave `split` out.",
            )
        for name, half in halves.items():
            for side in ("positive", "negative"):
                if (count := sum(text.side == side for text in half)) < LEAST:
                    raise UserError(
                        f"{source} holds {count} {side} texts for the split {name!r}"
                        + (f" ({len(rejected)} records were rejected, the first: {rejected[0][1]})" if rejected else "")
                        + ".",
                        f"Give at least {LEAST} answers of each side in each half, to different questions.",
                    )
        return cls(source, tuple(halves["extract"]), tuple(halves["test"]), tuple(rejected))

    @property
    def hash(self) -> str:
        """Of all that decides what is made of them."""
        parts = [(t.question, t.answer, t.side, t.score) for half in (self.extract, self.test) for t in half]
        return hashlib.sha256(repr((len(self.extract), parts)).encode()).hexdigest()


def has_library_texts(trait: str) -> bool:
    """Whether the library holds texts for a trait."""
    return _library_file(trait).is_file()


def _library_file(trait: str, ending: str = _ENDING) -> Traversable:
    return _LIBRARY.joinpath(f"{trait.strip().casefold()}{ending}")


def library_texts(trait: str) -> Texts:
    """The library's texts for one of its traits.

    Raises:
        UserError: It has none for this trait.
    """
    file = _library_file(trait)
    if not file.is_file():
        names = [entry.name for entry in _LIBRARY.iterdir()]
        known = sorted(name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING))
        raise UserError(
            f"The library holds no texts for the trait {trait!r}, only for {', '.join(known)}.",
            "Give a file of answers that show it and answers that lack it.",
        )
    with resources.as_file(file) as path:
        found = read_texts(path)
    return Texts("library", found.extract, found.test)


def chat_texts(trait: str) -> tuple[Text, ...]:
    """Further texts of the library, as chat models write that are told to show a trait, or to be its opposite.

    A trait's direction for screening is made of them, and the library's other texts stand against it. Vectors and
    probes are made of those others, in many voices. Empty: the library has none for this trait.
    """
    file = _library_file(trait, _CHAT_ENDING)
    if not file.is_file():
        return ()
    with resources.as_file(file) as path:
        source = find_sources([path], None).sources[0]
        return tuple(text for record in source.records() if isinstance(text := _text(record.value), Text))


def find_texts(source: str | Path, trait: Trait) -> Texts:
    """The library's, or those of a file. Raises as either."""
    return library_texts(trait.name) if str(source) == "library" else read_texts(source)


def read_texts(source: str | Path) -> Texts:
    """Contrastive texts from a file of any format that data sets have (JSONL, JSON, CSV, Parquet, packed or not).

    A record holds `question` (or `prompt`), `answer` (or `response`) and either `side` ("positive" or "negative") or
    `score` (0..100; from 50 on a text counts as positive); it may hold `split` ("extract" or "test"). Records that do
    not are left out and kept with the reason, and so are those that give a reason themselves, in `left_out`.

    Raises:
        UserError: There is no such file, or too few texts of a side are in it.
    """
    texts: list[Text] = []
    rejected: list[tuple[Record, str]] = []
    for file in find_sources([source], None).sources:
        for record in file.records():
            made = record.reason if record.reason is not None else _text(record.value)
            if isinstance(made, str):
                rejected.append((record, made))
            else:
                texts.append(made)
    return Texts.of(str(source), texts, rejected)


def _text(value: Any) -> Text | str:
    """The text of a record, or why it holds none."""
    if not isinstance(value, dict):
        return "no object with named fields"
    if value.get("left_out"):
        return str(value["left_out"])
    question, answer = (_first(value, names) for names in (("question", "prompt"), ("answer", "response")))
    for name, found in (("question", question), ("answer", answer)):
        if not isinstance(found, str) or not found.strip():
            return f"`{name}` is missing or empty"
    split = value.get("split") or None
    if split is not None and split not in _SPLITS:
        return f"`split` is {split!r}, neither 'extract' nor 'test'"
    score = _score(value.get("score"))
    if isinstance(score, str):
        return score
    side = _SIDES.get(str(value.get("side") or "").strip().casefold())
    if side is None:
        if value.get("side") not in (None, ""):
            return f"`side` is {value['side']!r}, neither 'positive' nor 'negative'"
        if score is None:
            return "neither `side` nor `score` says whether it shows the trait"
        side = "positive" if score >= MIDDLE else "negative"
    return Text(str(question).strip(), str(answer).strip(), side, score, split)


def _first(value: Mapping[str, Any], names: Sequence[str]) -> object:
    return next((value[name] for name in names if name in value), None)


def _score(value: object) -> float | str | None:
    """0..100; None where there is none, or what is wrong with it."""
    if value is None or value == "":
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = math.nan
    return score if 0 <= score <= 100 else f"`score` is {value!r}, not a number from 0 to 100"
