"""The traits that come with the package, and traits in files."""

import difflib
import json
from importlib import resources
from pathlib import Path

from personavec.errors import UserError
from personavec.traits.trait import Trait


def library_names() -> list[str]:
    """The names of the library's traits: the seven of the paper, in our own words."""
    folder = resources.files("personavec.traits").joinpath("library")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_library(name: str) -> Trait:
    """The library's trait of this name.

    Raises:
        UserError: There is none; the message lists the close matches and all names.
    """
    names = library_names()
    wanted = name.strip().casefold()
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, n=2)
        guess = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(
            f"There is no trait {name!r} in the library, and no such file.{guess}",
            f"The library holds {', '.join(names)}. For another trait give a JSON file or a description.",
        )
    text = resources.files("personavec.traits").joinpath("library", f"{wanted}.json").read_text(encoding="utf-8")
    return Trait.parse(json.loads(text), f"library/{wanted}.json")


def load_trait(name_or_path: str | Path) -> Trait:
    """A trait by its name in the library or by the path of a JSON file; the library goes first.

    Raises:
        UserError: The name is unknown, or the file cannot be read, is not JSON, or breaks a rule (with the field).
    """
    path = Path(name_or_path)
    known = isinstance(name_or_path, str) and name_or_path.strip().casefold() in library_names()
    if not known and (path.suffix.casefold() == ".json" or len(path.parts) > 1 or _is_file(path)):
        return _read(path)
    return load_library(str(name_or_path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a whole description given as a name is longer than a file name can be
        return False


def _read(path: Path) -> Trait:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.", "Check the path, or name a trait of the library.") from error
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror or error}.", "Name a trait file that you may read."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8.", "Save it as UTF-8 JSON.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}).",
            "Mend the file and try again.",
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply for a trait.", "Give a trait file.") from error
    if isinstance(value, dict) and {"instruction", "eval_prompt"} <= value.keys():
        raise UserError(
            f"{path}: this is a trait file of the paper's public code, with fields of other names.",
            f"Import it first: personavec traits import {path}",
        )
    return Trait.parse(value, str(path))
