"""Lists that a table's cell holds as text, as JSON or as Python prints them, and what other cells hold, in words."""

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from personavec.data.record import parse

SHOWN = 40  # characters of a text that a reason quotes
NUMPY = "a list as NumPy prints it, without commas, which cannot be read back"


def from_text(value: object) -> object:
    """A list that stands in a column of text, as JSON or as Python prints it; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        parsed, reason = parse(value.encode(errors="surrogatepass"))
        if reason is None:
            return parsed
        listed = _python_list(value)
        return value if listed is None else listed
    return value


def _python_list(text: str) -> list[Any] | None:
    """What a Python list of plain values holds; None for any other text.

    Nothing is run. Texts side by side without a comma are one text to Python and two to NumPy, and of a key that stands
    twice one value would be lost: both are None.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing
            tree = ast.parse(text.strip(), mode="eval")
            for node in ast.walk(tree):
                keys = [ast.dump(key) for key in node.keys if key] if isinstance(node, ast.Dict) else []
                if len(set(keys)) < len(keys):
                    return None
            value = json.loads(json.dumps(ast.literal_eval(tree), allow_nan=False))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None  # MemoryError: how the parser says that brackets are nested too deeply
    return value if isinstance(value, list) and not _side_by_side(text) else None


def _side_by_side(text: str) -> bool:
    """Whether two texts stand in a list without a comma between them."""
    if not re.search(r"""['"]\s*\w{0,2}['"]""", text):
        return False
    brackets: list[str] = []
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline)
        if token.type not in (tokenize.NL, tokenize.NEWLINE)
    ]
    for before, token in pairwise(tokens):
        if before.type == tokenize.OP and before.string in "([{":
            brackets.append(before.string)
        elif before.type == tokenize.OP and before.string in ")]}":
            brackets.pop()
        if before.type == token.type == tokenize.STRING and brackets[-1:] == ["["]:
            return True
    return False


def described(value: object) -> str:
    """What a value is, in words: of a list and an object also what is in it, of a text that is a list to nobody why."""
    if isinstance(value, list) and value:
        return f"a list of {described(value[0]).removeprefix('an ').removeprefix('a ')}"
    if isinstance(value, Mapping) and value:
        fields = ", ".join(f"{str(name)!r:.60}" for name in list(value)[:5])
        return f"an object with the fields {fields}"
    if isinstance(value, str) and re.match(r"\s*([\[({]|array\()", value):
        text = " ".join(value.split())
        start = text[:SHOWN] + ("…" if len(text) > SHOWN else "")
        if text[0] in "({":
            return f"text that begins as {'a tuple' if text[0] == '(' else 'an object'}, not as a list: {start}"
        if re.search(r"\}\s*\{|\barray\(|\]\s*\[|['\"]\s+['\"]", value):
            return f"{NUMPY}: {start}"
        reason = parse(value.encode(errors="surrogatepass"))[1]
        return f"text that is no list, neither in JSON ({reason}) nor in Python: {start}" if reason else "text"
    return kind(value)


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for types, name in ((int | float, "a number"), (str, "text"), (list, "a list"), (Mapping, "an object")):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"
