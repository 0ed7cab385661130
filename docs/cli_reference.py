"""Writes cli.md: every command with its arguments and options, from the command line itself.

python docs/cli_reference.py
"""

import html
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from personavec.cli.app import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Every command, as `--help` shows it. This page is made from the sources (`python docs/cli_reference.py`). Commands that
end in figures have `--json`; a mistake ends with one message and exit code 2, and a run that was killed goes on when
the same command is given again.
"""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All that do something, with their whole names."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
    for word, each in (below or {}).items():
        yield from commands(each, f"{name} {word}")


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def code(text: str) -> str:
    """Between backquotes GitHub and the site part ways over a "|" in a table."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def table(title: str, records: list[tuple[str, str]]) -> list[str]:
    if not records:
        return []
    return [f"| {title} | |", "|---|---|", *(f"| {code(name)} | {cell(text)} |" for name, text in records), ""]


def section(name: str, command: Any) -> list[str]:
    context = command.context_class(command, info_name=name)
    kinds: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.params:
        if record := parameter.get_help_record(context):
            kinds[parameter.param_type_name].append(record)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    said = inspect.cleandoc(command.help or "")
    tables = [*table("argument", kinds["argument"]), *table("option", kinds["option"])]
    return [f"## {name}", "", said, "", f"    {usage}", "", *tables]


def page() -> str:
    lines = [HEAD]
    for name, command in commands(get_command(app), "personavec"):
        lines += section(name, command)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines", file=sys.stderr)
