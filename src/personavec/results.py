"""What every job gives back and writes: typed, one file a run, its schema with a version.

A job's result is a subclass of `Run` in the job's own `result` module, a docstring and a unit for every field. It is
what the Python function returns, what stands in `run.json`, and what pages, the command line and later runs read.
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, ValidationError

from personavec.errors import UserError
from personavec.files import SUMMARY as SUMMARY
from personavec.files import write_json
from personavec.stats.estimate import Estimate

_FIELD = re.compile(r"(\w+(?:, \w+)*): (.*)")


def _rounded(value: float) -> float:
    return round(value, 4)


Figure = Annotated[Estimate, AfterValidator(Estimate.rounded)]  # an estimate as files hold it
Number = Annotated[float, AfterValidator(_rounded)]  # four digits after the point


class Result(BaseModel):
    """A part of what a job found: not to be changed, and nothing in it that has no name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> dict[str, JsonValue]:
        """As JSON values."""
        found: dict[str, JsonValue] = self.model_dump(mode="json")
        return found


class ModelFacts(Result):
    """Which model a run was made with.

    Attributes:
        id: What the user called it.
        weights, template: Short hashes.
        n_layers, hidden_size: Its shape.
        dtype, device: As it ran.
    """

    id: str
    weights: str
    template: str
    n_layers: int
    hidden_size: int
    dtype: str
    device: str


class Machine(Result):
    """What a run was made on.

    Attributes:
        cpu: Name of the processor.
        cores: How many of them the run could use.
        device: The accelerator, or "cpu".
    """

    cpu: str
    cores: int
    device: str


class Provenance(Result):
    """What somebody else needs to repeat a run.

    Attributes:
        personavec: Version.
        arguments: What decides the result.
        versions: Of Python and of the packages that decide figures, by name.
        machine: What it was made on.
        written: When, as in ISO 8601.
        model: What it was made with.
    """

    personavec: str
    arguments: dict[str, JsonValue]
    versions: dict[str, str]
    machine: Machine
    written: str
    model: ModelFacts


class Filed(Result):
    """What is a JSON file of its own.

    Subclasses name their `COMMAND` and raise `SCHEMA` when a field changes its meaning.

    Attributes:
        schema_version: Of the file.
        command: The job that wrote it.
    """

    COMMAND: ClassVar[str]
    SCHEMA: ClassVar[int] = 1

    schema_version: int
    command: str

    @classmethod
    def read_file(cls, path: Path) -> Self:
        """What was written into a file.

        Raises:
            UserError: It is damaged, of another job, or of another version of personavec.
        """
        found = _read_object(path)
        if found.get("command") != cls.COMMAND:
            raise UserError(
                f"{path} was written by personavec {found.get('command', '(no command named)')}.",
                f"Name what a finished personavec {cls.COMMAND} has left.",
            )
        if found.get("schema_version") != cls.SCHEMA:
            raise UserError(
                f"{path} has the form of another version of personavec.",
                "Repeat the run in another folder, or use the version that wrote it.",
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path} is damaged ({place}: {first['msg']}).", "Repeat the run in another folder."
            ) from error


class Run(Filed, Provenance):
    """A job's result with its provenance: the content of the run's `run.json`."""

    @classmethod
    def of(cls, provenance: Provenance, **found: Any) -> Self:
        """A result with its provenance."""
        facts = {name: getattr(provenance, name) for name in Provenance.model_fields}
        return cls(schema_version=cls.SCHEMA, command=cls.COMMAND, **facts, **found)

    def with_(self, **changed: Any) -> Self:
        """The same with other values of some fields, checked as the first ones were."""
        facts = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**facts | changed)

    def write(self, folder: Path) -> None:
        """Write the run's summary file, atomically."""
        write_json(folder / SUMMARY, self.as_json())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote into a run folder.

        Raises:
            UserError: No such file, one that is damaged, of another job, or of another version of personavec.
        """
        read_summary(folder)
        return cls.read_file(folder / SUMMARY)


def read_summary(folder: Path) -> Mapping[str, JsonValue]:
    """The summary file of a run, of whatever job and version.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise UserError(f"{folder} holds no finished run (no {SUMMARY}).", "Name the folder that was its `out`.")
    return _read_object(path)


def _read_object(path: Path) -> Mapping[str, JsonValue]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}).", "Repeat the run in another folder.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (no JSON object).", "Repeat the run in another folder.")
    return found


def descriptions(result: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a class says of its fields and those it inherits, by their names."""
    found: dict[str, str] = {}
    for owner in reversed(result.__mro__):
        section = (owner.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        names: list[str] = []
        for line in inspect.cleandoc("\n" + section).splitlines():
            opening = _FIELD.match(line)
            if opening:
                names = opening[1].split(", ")
                found |= dict.fromkeys(names, opening[2])
            elif line.startswith(" ") and names:
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            elif line.strip():
                break  # another section
    return {name: text for name, text in found.items() if name in result.model_fields}


def schema(run: type[Filed]) -> dict[str, JsonValue]:
    """The JSON schema of a job's file, with what the docstrings say of every field."""
    made: dict[str, Any] = run.model_json_schema()
    for name, part in _parts(run).items():
        where = made if part is run else made["$defs"].get(name)
        if where is None:
            continue
        where["description"] = (part.__doc__ or "").partition("\n")[0]
        for field, text in descriptions(part).items():
            where["properties"][part.model_fields[field].serialization_alias or field]["description"] = text
    return made


def _parts(result: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A class and all that it is made of, by name."""
    found: dict[str, type[BaseModel]] = {}

    def look(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in kind.model_fields.values():
                look(field.annotation)
        for part in get_args(kind):
            look(part)

    look(result)
    return found
