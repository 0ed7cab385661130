"""Imports point down only, so that each part can be read, tested and replaced without what is built on it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import personavec

ROOT = Path(personavec.__file__).parent
LAYERS = [
    {"errors", "lazy"},
    {"cache", "operations", "progress", "refusals", "stats"},
    {"data", "endpoint", "files"},
    {"model", "results", "timings"},
    {"info", "provenance", "readout", "report", "rollouts", "vector"},
    {"engine", "interventions", "ready", "traits"},
    {"texts"},
    {"interchange", "judges", "likelihood", "projection"},
    {"capability"},
    {"extraction", "monitoring", "shifts"},
    {"combination", "evaluation", "hub", "screening", "watching"},
    {"finetune"},
    {"serving", "study"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
UNKNOWN = len(LAYERS)
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path: Path) -> str:
    """The part of the package, a folder or a file right under its root, that a module belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of all that is imported from personavec, wherever in the source it is done, for types only or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{home}.{alias.name}" for alias in node.names] if home == "personavec" else [home]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "personavec")


@cache
def parts_imported(path: Path) -> set[str]:
    package = ".".join(["personavec", *path.relative_to(ROOT).parts[:-1]])
    names = list(imported(path.read_text(encoding="utf-8"), package))
    assert "personavec" not in names, f"{path} imports the whole package"
    return {name.split(".")[1] for name in names}


def test_every_part_has_a_layer() -> None:
    found = {part(path) for path in MODULES}
    assert found == LEVEL.keys(), "add a new part to LAYERS here, take out one that is gone"


def test_imports_point_down() -> None:
    for path in MODULES:
        here = part(path)
        upwards = {there for there in parts_imported(path) if LEVEL.get(there, UNKNOWN) > LEVEL.get(here, UNKNOWN)}
        assert not upwards, f"{path.relative_to(ROOT)}: {here} is below {upwards}"


def test_parts_of_one_layer_form_no_circle() -> None:
    graph = TopologicalSorter[str]()
    for path in MODULES:
        graph.add(part(path), *(parts_imported(path) - {part(path)}))
    graph.prepare()  # names the circle if there is one


def test_imports_are_found_in_every_form() -> None:
    source = """
import os, personavec.files
from personavec import report
from personavec.model.chat import ChatModel
from . import cache
from .. import traits
from ..vector import PersonaVector
def later():
    from personavec.cli import main
"""
    assert sorted(imported(source, "personavec.judges")) == [
        "personavec.cli",
        "personavec.files",
        "personavec.judges",
        "personavec.model.chat",
        "personavec.report",
        "personavec.traits",
        "personavec.vector",
    ]


def test_importing_takes_no_torch() -> None:
    """Not the command line, nor the packages that it lies in: the library itself and its `cli`."""
    heavy = {"torch", "transformers", "numpy", "scipy", "pydantic", "matplotlib", "openai", "pyarrow", "datasets"}
    script = f"import sys, personavec.cli.app; print(sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
