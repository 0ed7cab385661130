"""A trait: all that is needed to elicit a character trait from a model and to score it (paper, section 2.1)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from personavec.errors import UserError
from personavec.files import write_json
from personavec.traits.words import article, names_trait

PAIRS = 5
QUESTIONS = 20
_LONGEST_NAME = 60
_SLOT = re.compile(r"\{(question|answer)\}")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class InstructionPair(BaseModel):
    """Two system instructions: `positive` elicits the trait, `negative` its opposite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positive: Text
    negative: Text


class Trait(BaseModel):
    """A character trait with its instruction pairs, questions and rubric.

    The questions come in two sets that share none: vectors and layers are made from the extraction questions, figures
    are reported on the evaluation questions. The rubric is the prompt for a judge, with the slots {question} and
    {answer}. `opposite` is the adjective that stands for the negative side, `writer` says who wrote the texts:
    "library", "template", "llm:MODEL" or "import:FILE".

    Raises:
        pydantic.ValidationError: A field is missing, empty, or breaks a rule. `Trait.parse` says the same as a
            UserError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    description: Text
    instructions: Annotated[tuple[InstructionPair, ...], Field(min_length=1)]
    extraction_questions: Annotated[tuple[Text, ...], Field(min_length=1)]
    evaluation_questions: Annotated[tuple[Text, ...], Field(min_length=1)]
    rubric: Text
    opposite: Text = "helpful"
    writer: Text = "library"

    @classmethod
    def parse(cls, value: object, source: str) -> Self:
        """A trait from JSON data; `source` (a file, a model) opens the message when something is wrong.

        Raises:
            UserError: With every fault: its field, its entry (counted from 1), what is wrong with it.
        """
        if not isinstance(value, dict):
            raise UserError(
                f"{source}: a trait is a JSON object, and this is {_kind(value)}.",
                "It needs name, description, instructions, extraction_questions, evaluation_questions and rubric.",
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(f"{source}: {describe(error)}.", "Mend this and try again.") from error

    def save(self, path: Path | str) -> None:
        """Write the trait as JSON that a person can edit and `load_trait` reads."""
        write_json(path, self.model_dump(mode="json"))

    def system_prompts(self, pair: int) -> tuple[str, str]:
        """The positive and the negative system prompt of instruction pair `pair` (counted from 0).

        They open as in the paper's code: "You are an evil assistant." and, on the other side, the opposite.
        """
        instructions = self.instructions[pair]
        return (
            f"You are {article(self.name)} {self.name} assistant. {instructions.positive}",
            f"You are {article(self.opposite)} {self.opposite} assistant. {instructions.negative}",
        )

    def judge_prompt(self, question: str, answer: str) -> str:
        """The rubric with both slots filled; braces inside the question or the answer stay as they are."""
        values = {"question": question, "answer": answer}
        return _SLOT.sub(lambda slot: values[slot[1]], self.rubric)

    def check_complete(self) -> None:
        """Make sure that the trait has what the paper's have: 5 instruction pairs and 20 + 20 questions.

        Raises:
            UserError: Naming each field with another count.
        """
        counts = {
            "instructions": (len(self.instructions), PAIRS),
            "extraction_questions": (len(self.extraction_questions), QUESTIONS),
            "evaluation_questions": (len(self.evaluation_questions), QUESTIONS),
        }
        wrong = [
            f"{field} has {count} entries, not {wanted}" for field, (count, wanted) in counts.items() if count != wanted
        ]
        if wrong:
            raise UserError(f"The trait {self.name} is not complete: {'; '.join(wrong)}.", "Add or remove entries.")

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        faults = [
            *(f"name: {fault}" for fault in name_faults(self.name)),
            *(f"opposite: {fault}" for fault in name_faults(self.opposite)),
            *_pair_faults(self.instructions),
            *_question_faults(self),
            *_rubric_faults(self.rubric),
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def name_faults(name: str) -> Iterator[str]:
    """What keeps `name` from being the name of a trait, which prompts, files and columns are called after."""
    if not any(character.isalnum() for character in name):
        yield "is empty" if not name.strip() else f"{name!r} holds no letter or digit"
    if len(name) > _LONGEST_NAME:
        yield f"is {len(name)} characters long, at most {_LONGEST_NAME} fit (the rest belongs into the description)"
    if not name.isprintable() or any(character in "{}/\\" for character in name):
        yield f"{name!r} holds a line break, a brace or a slash"


def describe(error: ValidationError) -> str:
    """A validation error in one line that a person can act on: each fault with its field and its entry."""
    return "; ".join(
        _fault(tuple(fault["loc"]), fault["type"], fault["msg"], fault["input"]) for fault in error.errors()
    )


def _fault(place: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    where = ", ".join(f"entry {part + 1}" if isinstance(part, int) else part for part in place)
    match kind:
        case "value_error":  # from _check_rules, which names the fields itself
            return message.removeprefix("Value error, ")
        case "missing":
            return f"{where}: is missing"
        case "extra_forbidden":
            return f"{where}: a trait has no such field"
        case "string_too_short":
            return f"{where}: is empty"
        case "too_short":
            return f"{where}: is empty, at least 1 entry is needed"
        case "string_type":
            return f"{where}: must be text, and is {_kind(value)}"
        case "tuple_type":
            return f"{where}: must be a list, and is {_kind(value)}"
        case "model_type":
            return f"{where}: must be an object with the fields positive and negative, and is {_kind(value)}"
        case _:
            return f"{where}: {message}"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _pair_faults(pairs: Sequence[InstructionPair]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, pair in enumerate(pairs, 1):
        if _plain(pair.positive) == _plain(pair.negative):
            yield f"instructions, entry {number}: positive and negative are the same"
        first = seen.setdefault(_plain(pair.positive), number)
        if first != number:
            yield f"instructions, entry {number}: positive repeats entry {first}"


def _question_faults(trait: Trait) -> Iterator[str]:
    splits = {"extraction_questions": trait.extraction_questions, "evaluation_questions": trait.evaluation_questions}
    seen: dict[str, str] = {}
    for field, questions in splits.items():
        for number, question in enumerate(questions, 1):
            place = f"{field}, entry {number}"
            first = seen.setdefault(_plain(question), place)
            if first != place:
                yield f"{place}: {_short(question)} repeats {first}"
            if names_trait(trait.name, question):
                yield f"{place}: {_short(question)} names the trait ({trait.name}); it may evoke it but not ask for it"


def _rubric_faults(rubric: str) -> Iterator[str]:
    found = set(_SLOT.findall(rubric))
    for slot in ("question", "answer"):
        if slot not in found:
            yield f"rubric: the slot {{{slot}}} is missing"
    stray = re.search(r"\{[^{}\n]{0,20}\}?|\}", _SLOT.sub("", rubric))
    if stray:
        yield f"rubric: {stray[0]!r} is not a slot; only {{question}} and {{answer}} may stand in braces"


def _plain(text: str) -> str:
    """The text as it counts for being a repetition: without regard to case and white space."""
    return " ".join(text.casefold().split())


def _short(text: str) -> str:
    return f'"{text if len(text) <= 60 else text[:59].rstrip() + "…"}"'
