"""What a request asks of the model's character, as interventions."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from personavec.errors import UserError
from personavec.interventions import check_positions, interventions, noise_doubts
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.operations import ADD, OPERATIONS, Layers, Operation, Positions
from personavec.serving.bodies import PersonaBody
from personavec.serving.failures import RequestError, failure
from personavec.serving.readings import Condition, neutral_of
from personavec.vector import PersonaVector, check_one_per_trait, two_directions

BY_OPTION = {operation.option: operation for operation in OPERATIONS.values()}
Asked = Mapping[str, Mapping[str, float | None]]  # by what the operation is called in requests, numbers by trait
NUMBER = r"[+-]\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Steered:
    """What is done to the stream of one request.

    Attributes:
        steps: Operation, trait and number of each edit.
        words: The same in words.
        doubts: Sentences on what may leave nothing but noise.
        conditions: All of them must hold for the interventions to act. Empty: they always do.
    """

    interventions: list[Intervention]
    steps: list[tuple[Operation, str, float | None]]
    words: list[str]
    doubts: list[str]
    conditions: list[Condition]


class Cast:
    """The persona vectors that are served.

    Args:
        default: What is done where a request does not say otherwise.
        layers, positions: See `interventions`.
        other_weights: See `PersonaVector.check`.

    Raises:
        UserError: A vector of another model, two of one trait, or a default that cannot be.
    """

    def __init__(
        self,
        model: ChatModel,
        vectors: Sequence[PersonaVector],
        default: Asked,
        *,
        layers: Layers = "best",
        positions: Positions = "response",
        other_weights: bool = False,
    ) -> None:
        check_one_per_trait(vectors)
        check_positions(positions)
        for vector in vectors:
            vector.check(model, other_weights=other_weights)
        self.vectors, self.layers, self.positions = list(vectors), layers, positions
        self.notes = two_directions(vectors)
        self._by_trait = {vector.trait: vector for vector in vectors}
        self._default = default
        try:
            self.default = self.steered()
        except RequestError as error:
            raise UserError(error.message.removeprefix("persona.")) from error  # nobody sent a request

    @property
    def traits(self) -> list[str]:
        """Names of the vectors' traits."""
        return list(self._by_trait)

    def steered(self, *asked: Asked, when: Mapping[str, str] | None = None) -> Steered:
        """What is done when all of this is asked, the later going before the earlier.

        A number for a trait takes the place of the one before; 0 for a coefficient and None for a bound mean nothing
        is done. A list of traits takes the place of the list before.

        Args:
            when: Conditions by trait, such as ">3".

        Raises:
            RequestError: A trait that is not served, a number that cannot be, or a condition on nothing.
        """
        numbers: dict[str, dict[str, float | None]] = {option: {} for option in BY_OPTION}
        for one in (self._default, *asked):
            for option, given in one.items():
                if BY_OPTION[option].takes == "nothing":
                    numbers[option] = dict(given)
                else:
                    numbers[option].update(given)
        steps: list[tuple[Operation, str, float | None]] = []
        edits: list[Intervention] = []
        for option, given in numbers.items():
            operation = BY_OPTION[option]
            for trait, number in given.items():
                vector = self.vector(trait, f"persona.{option}")
                if operation.takes != "nothing" and (number is None or (operation is ADD and number == 0)):
                    continue
                try:
                    edits += interventions(operation, vector, number, layers=self.layers, positions=self.positions)
                except UserError as error:
                    raise failure(error, f"persona.{option}.{trait}") from error
                steps.append((operation, trait, number))
        words = [operation.words.format(trait=trait, number=number) for operation, trait, number in steps]
        asked_for = [(operation, self._by_trait[trait], number) for operation, trait, number in steps]
        conditions = self._conditions(when or {}, steps)
        if conditions:
            words.append("while " + " and ".join(f"{name} is {sign}{limit:g}" for name, sign, limit in conditions))
        return Steered(edits, steps, words, noise_doubts(asked_for, self.layers), conditions)

    def _conditions(self, when: Mapping[str, str], steps: Sequence[object]) -> list[Condition]:
        if when and not steps:
            raise RequestError(400, "persona.when: nothing is done to this answer that could wait.", "persona.when")
        if when and self.positions != "response":
            problem = (
                f"this server edits the positions {self.positions!r}, and prompts are read before anything is known"
            )
            raise RequestError(400, f"persona.when: {problem}.", "persona.when")
        found: list[Condition] = []
        for trait, text in when.items():
            vector = self.vector(trait, "persona.when")
            for of in ("prompt", "answer"):
                if neutral_of(vector.reading, of) is None:
                    where = f"persona.when.{trait}"
                    raise RequestError(400, f"{where}: the vector has no neutral statistics to compare with.", where)
            found.append((trait, ">" if text[0] == ">" else "<", float(text[1:])))
        return found

    def vector(self, trait: str, param: str) -> PersonaVector:
        """That of a trait.

        Raises:
            RequestError: It is not served.
        """
        if trait not in self._by_trait:
            served = f"Served are: {', '.join(self._by_trait)}." if self._by_trait else "No vector is served."
            raise RequestError(400, f"{param}: there is no vector of the trait {trait[:60]!r}. {served}", param)
        return self._by_trait[trait]

    def monitored(self, body: PersonaBody | None) -> list[str]:
        """The traits whose readings are told."""
        if body is None or body.monitor is None:
            return self.traits
        for trait in body.monitor:
            self.vector(trait, "persona.monitor")
        return [trait for trait in self.traits if trait in body.monitor]

    def of_alias(self, suffix: str) -> Asked | None:
        """What the end of a model's name asks for, such as "+evil-1.5+humorous+1"; None: it is no such end."""
        traits = "|".join(map(re.escape, sorted(self._by_trait, key=len, reverse=True)))
        one = rf"\+({traits})({NUMBER})"
        if not traits or not re.fullmatch(f"({one})+", suffix):
            return None
        pairs = re.findall(one, suffix)
        asked = {trait: float(number) for trait, number in pairs}
        return {ADD.option: asked} if len(asked) == len(pairs) else None

    def aliases(self) -> list[str]:
        """Ends of names for clients that list models: of each trait the ends of its coherent range, or 1 each way."""
        found = []
        for vector in self.vectors:
            low, high = vector.info.coherent_range or (-1.0, 1.0)
            ends = (math.trunc(10 * number) / 10 for number in (low, high))  # short, and within the range
            found += [f"+{vector.trait}{number:+g}" for number in ends if number]
        return [name for name in found if self.of_alias(name) is not None]


def of_header(text: str) -> Asked:
    """What the header X-Persona-Steer asks for, such as "evil=-1.5, humorous=1"; empty items of it ask for nothing.

    Raises:
        RequestError: Not of this form.
    """
    asked: dict[str, float | None] = {}
    for item in filter(str.strip, text.split(",")):
        trait, _, number = item.strip().rpartition("=")
        if trait.strip() in asked:
            raise RequestError(400, f"The header X-Persona-Steer names {trait.strip():.60} twice.", "X-Persona-Steer")
        if not trait or not re.fullmatch(r"[+-]?\d{1,6}(\.\d{1,9})?", number.strip()):
            raise RequestError(
                400, "The header X-Persona-Steer is of the form TRAIT=COEFFICIENT, ...", "X-Persona-Steer"
            )
        asked[trait.strip()] = float(number)
    return {ADD.option: asked}


def asks_to_steer(header: str, body: PersonaBody | None) -> str | None:
    """The first field of a request, but for its model's name, that has a say in what is done to its answers.

    Also one that only turns off what the server does by itself. None: there is none.
    """
    if header.strip():
        return "X-Persona-Steer"
    fields = () if body is None else (*BY_OPTION, "when")
    return next((f"persona.{field}" for field in fields if getattr(body, field) is not None), None)


def of_body(body: PersonaBody | None) -> Asked:
    """What the field `persona` asks for."""
    if body is None:
        return {}
    given: dict[str, Mapping[str, float | None] | list[str] | None] = {
        option: getattr(body, option) for option in BY_OPTION
    }
    return {
        option: dict.fromkeys(value) if isinstance(value, list) else value
        for option, value in given.items()
        if value is not None
    }
