"""What a vector's file tells of the machine that it was made on: the folders of local models, taken off."""

import os
import re
from dataclasses import replace

from pydantic import JsonValue

from personavec.info import VectorInfo
from personavec.vector import PersonaVector

_BEGINS_AS_PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")
_SEPARATOR = re.compile(r"[/\\]")


def without_folders(name: str) -> str:
    """A name with local paths cut to their last part; hub ids stay.

    Example:
        >>> without_folders("/home/me/models/tiny+/home/me/adapter")
        'tiny+adapter'
        >>> without_folders("local:~/models/judge")
        'local:judge'
    """
    return "+".join(_last_part(part) for part in name.split("+"))


def _last_part(name: str) -> str:
    if _is_path(name):
        return _SEPARATOR.split(name.rstrip("/\\"))[-1]
    kind, colon, rest = name.partition(":")  # of a judge
    return f"{kind}:{_last_part(rest)}" if colon else name


def _is_path(name: str) -> bool:
    # os.path: what cannot be a path at all, such as a long text, is an error to pathlib.
    there = _SEPARATOR.search(name) is not None and os.path.exists(name)  # noqa: PTH110
    return there or _BEGINS_AS_PATH.match(name) is not None


def without_paths(vector: PersonaVector) -> PersonaVector:
    """The vector with `without_folders` of all that its file says of models, arguments and judges.

    The trait's own texts stay; hashes of weights tell which model it is of.

    Returns:
        The very same vector where it says of none.
    """
    model, info, trait = dict(vector.model), vector.info.as_stored(), vector.info.trait or {}
    told = {name: value if name == "trait" else _stripped(value) for name, value in info.items()}
    if "writer" in trait:
        told["trait"] = {**trait, "writer": _stripped(trait["writer"])}
    public = {name: _stripped(value) for name, value in model.items()}
    read = None if vector.read is None else without_paths(vector.read)
    if (public, told) == (model, info) and read is vector.read:
        return vector
    return replace(vector, model=public, info=VectorInfo.parse(told), read=read)


def _stripped(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, dict):
        return {name: _stripped(one) for name, one in value.items()}
    return [_stripped(one) for one in value] if isinstance(value, list) else value
