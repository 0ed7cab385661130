"""Packages that import what they offer when it is asked for.

`import personavec` loads no PyTorch. Neither does the command line before it knows what to do: it reads the settings of
every job, which live beside the jobs.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def offering(package: str, home: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, `__name__`, that offers names of its modules.

    Args:
        home: Names by the module, below the package, that they live in.
    """
    modules = {name: module for module, names in home.items() for name in names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(modules)
