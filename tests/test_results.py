"""Results: typed, read back as they were written, refused with a sentence where they are not what they should be."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

import personavec
from personavec.errors import UserError
from personavec.results import (
    Figure,
    Machine,
    ModelFacts,
    Number,
    Provenance,
    Result,
    Run,
    descriptions,
    read_summary,
    schema,
)
from personavec.stats.estimate import Estimate

FACTS = Provenance(
    personavec="0.1.0",
    arguments={"seed": 0, "layers": ["best"]},
    versions={"python": "3.11"},
    machine=Machine(cpu="x", cores=2, device="cpu"),
    written="2026-01-01T00:00:00+0000",
    model=ModelFacts(id="m", weights="a", template="b", n_layers=2, hidden_size=8, dtype="float32", device="cpu"),
)


class Part(Result):
    """A part.

    Attributes:
        score: Points of 100, over
            questions.
        low, high: Ends of something, in points.
    """

    score: Figure
    low: Number
    high: Number


class Trial(Run):
    """A run.

    Attributes:
        parts: By trait.
    """

    COMMAND: ClassVar[str] = "trial"
    parts: dict[str, Part]


def trial() -> Trial:
    part = Part(score=Estimate(1 / 3, 0.25, 0.123456789, 20), low=2 / 3, high=1)
    return Trial.of(FACTS, parts={"evil": part})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    run = trial()
    run.write(tmp_path)
    assert Trial.read(tmp_path) == run
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["parts"]["evil"] == {
        "score": {"mean": 0.3333, "low": 0.25, "high": 0.1235, "n": 20},
        "low": 0.6667,
        "high": 1.0,
    }
    assert (stored["command"], stored["schema_version"]) == ("trial", 1)
    assert run.parts["evil"].score.mean == 0.3333  # in memory as in the file
    assert run.with_(parts={}).parts == {} and run.parts


def test_nothing_without_a_name_and_nothing_changed() -> None:
    with pytest.raises(ValidationError):
        Trial.of(FACTS, parts={}, more=1)
    with pytest.raises(ValidationError):
        trial().parts = {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no finished run"),
        ("{", "is damaged"),
        ("[]", "no JSON object"),
        ({"command": "other"}, "was written by personavec other"),
        ({"schema_version": 0}, "another version"),
        ({"schema_version": None}, "another version"),
        ({"parts": {"evil": {}}}, r"is damaged \(parts.evil.score: Field required"),
    ],
)
def test_another_file_is_refused_with_a_sentence(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "run.json"
    if isinstance(content, dict):
        content = json.dumps(trial().as_json() | content)
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        Trial.read(tmp_path)


def test_a_summary_of_any_job_can_be_looked_at(tmp_path: Path) -> None:
    trial().write(tmp_path)
    assert read_summary(tmp_path)["command"] == "trial"


def test_the_schema_says_what_the_docstrings_say() -> None:
    assert descriptions(Part) == {
        "score": "Points of 100, over questions.",
        "low": "Ends of something, in points.",
        "high": "Ends of something, in points.",
    }
    made: Any = schema(Trial)
    assert made["$defs"]["Part"]["properties"]["score"]["description"] == "Points of 100, over questions."
    assert made["properties"]["parts"]["description"] == "By trait."
    assert made["properties"]["machine"] and made["properties"]["command"]["description"] == "The job that wrote it."


def results() -> list[type[Result]]:
    for module in pkgutil.walk_packages(personavec.__path__, "personavec."):
        if module.name.endswith(".result"):
            importlib.import_module(module.name)
    found, queue = [], [Result]
    while queue:
        for kind in queue.pop().__subclasses__():
            queue.append(kind)
            if kind.__module__.startswith("personavec."):
                found.append(kind)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__name__}")


@pytest.mark.parametrize("kind", results(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_field_of_a_result_is_described(kind: type[Result]) -> None:
    assert sorted(kind.model_fields.keys() - descriptions(kind).keys()) == []
