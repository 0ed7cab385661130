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


@pytest.mark.parametrize("name", [name for name in PACKAGES if "__dir__" in vars(importlib.import_module(name))])
def test_a_package_that_imports_late_offers_what_it_exports(name: str) -> None:
    package = importlib.import_module(name)
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match=f"{name!r} has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
