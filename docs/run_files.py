"""Writes run-files.md: what stands in every job's run.json, from the docstrings of the results.

python docs/run_files.py
"""

import sys
from pathlib import Path
from typing import Any

from personavec.cli.schema import ROOMS, run_of
from personavec.results import schema

PAGE = Path(__file__).with_name("run-files.md")
HEAD = """# What a run leaves

Every run folder has `run.json`: the job's result, as the Python function returns it, with what is needed to repeat it.
This page is made from the sources (`python docs/run_files.py`); `personavec schema JOB` prints the same as a JSON
schema. A field whose meaning changes raises the file's `schema_version`; a file of another version is refused with a
sentence.

Wherever a field is an *Estimate* it holds `mean`, `low`, `high` (its 95 % interval; null where n is too small for one)
and `n`, the number of independent units.
"""


def kind(given: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in given:
        return f"*{given['$ref'].rpartition('/')[2]}*"
    if "anyOf" in given:
        return " or ".join(dict.fromkeys(kind(one) for one in given["anyOf"]))
    if "const" in given:
        return repr(given["const"])
    if "enum" in given:
        return " or ".join(map(repr, given["enum"]))
    if given.get("type") == "array":
        inside = given.get("prefixItems")
        if inside:
            return f"({', '.join(map(kind, inside))})"
        return f"list of {kind(given.get('items', {}))}"
    if given.get("type") == "object":
        inside = given.get("additionalProperties")
        return f"{{name: {kind(inside)}}}" if isinstance(inside, dict) and inside else "object"
    return str(given.get("type", "any"))


def table(part: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{name}` | {kind(field)} | {field.get('description', '').replace('|', chr(92) + '|')} |"
        for name, field in part.get("properties", {}).items()
    ]
    return ["| field | type | meaning |", "|---|---|---|", *rows]


def page() -> str:
    lines = [HEAD]
    parts: dict[str, dict[str, Any]] = {}
    for job in ROOMS:
        made: Any = schema(run_of(job))
        lines += [f"## `personavec {run_of(job).COMMAND}`", "", made.get("description", ""), "", *table(made), ""]
        parts |= {name: part for name, part in made.get("$defs", {}).items() if "properties" in part}
    lines += ["## Parts", ""]
    for name, part in sorted(parts.items()):
        lines += [f"### {name}", "", part.get("description", ""), "", *table(part), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines", file=sys.stderr)
