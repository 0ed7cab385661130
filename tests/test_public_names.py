"""What the package says it exports is there, documented, and nothing else is."""

import importlib
import inspect
import pkgutil

import pytest

import personavec

PACKAGES = [
    "personavec",
    *(f"personavec.{found.name}" for found in pkgutil.iter_modules(personavec.__path__) if found.ispkg),
]


@pytest.mark.parametrize("name", PACKAGES)
def test_exported_names_exist_once(name: str) -> None:
    package = importlib.import_module(name)
    exported = getattr(package, "__all__", [])
    assert len(exported) == len(set(exported))
    assert [missing for missing in exported if not hasattr(package, missing)] == []


@pytest.mark.parametrize("name", personavec.__all__)
def test_public_names_are_documented(name: str) -> None:
    """A class inherits no docstring here: `object` has one, and dataclasses make one of their signature."""
    thing = getattr(personavec, name)
    said = inspect.getdoc(thing) or ""
    assert len(said.split()) >= 4 and not said.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_the_home_of_every_public_name_is_known() -> None:
    assert sorted(personavec._MODULE) == sorted(personavec.__all__)
    assert dir(personavec) == personavec.__all__
