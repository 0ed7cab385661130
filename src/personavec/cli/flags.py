"""What messages call fields, `learning_rate`, is `--learning-rate` to whoever typed a command."""

import functools
import logging
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_apps: list[Any] = []  # whose options are known
_FIELD = re.compile(r"`([a-z][a-z0-9_]*)`(?: (True|False)\b)?")


class _Flags(NamedTuple):
    """How a field is spelled.

    Attributes:
        off: What turns it off, if anything does.
    """

    flag: str
    off: str | None
    takes_value: bool


def know(app: Any) -> None:
    """Know the options of a typer application, which is complete."""
    _apps.append(app)
    _options.cache_clear()


def with_flags(text: str) -> str:
    """A message with the fields that are options of the command line spelled as such, `measure` False as --no-measure.

    Other words between backquotes stay as they are.
    """
    return _FIELD.sub(_flag, text)


def _flag(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in _options():
        return found[0]
    option = _options()[name]
    if value == "False" and option.off is not None:
        return option.off
    return option.flag if value is None or (value == "True" and not option.takes_value) else f"{option.flag} {value}"


@functools.cache
def _options() -> dict[str, _Flags]:
    """By the field."""
    from typer.main import get_command

    return {
        option.name: _Flags(
            _long(option.opts), _long(option.secondary_opts) if option.secondary_opts else None, not option.is_flag
        )
        for app in _apps
        for option in _of_commands(get_command(app))
    }


def _of_commands(command: Any) -> Iterator[Any]:
    yield from (parameter for parameter in command.params if parameter.param_type_name == "option")
    for below in getattr(command, "commands", {}).values():
        yield from _of_commands(below)


def _long(spellings: list[str]) -> str:
    return next(spelling for spelling in spellings if spelling.startswith("--"))


class Formatter(logging.Formatter):
    """Of what is logged, where it is read by whoever typed a command."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with flags in place of fields."""
        return with_flags(super().format(record))
