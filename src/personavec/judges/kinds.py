"""The kinds of judges, by the names that users give them."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from personavec.errors import UserError
from personavec.judges.api.terms import ApiTerms

if TYPE_CHECKING:
    from personavec.judges.base import JudgeModel
    from personavec.model import ChatModel


@dataclass(frozen=True)
class Kind:
    """How judges of one kind are named and opened.

    Attributes:
        spelling: What the user writes; what is in brackets may be left out.
        module: Its `open_model(which, surroundings)` opens what stands behind the colon, as a `JudgeModel`.
        answers: It is the model that gave the answers, and can be no other.
    """

    spelling: str
    module: str
    answers: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What a judge may make use of.

    Attributes:
        model: The model that gives the answers, without steering; None where it is not in this process.
        terms: Of a judge that is paid.
        device, dtype: For a model that is loaded to judge, see `load_model`.
    """

    model: "ChatModel | None" = None
    terms: ApiTerms = field(default_factory=ApiTerms)
    device: str | None = None
    dtype: str | None = None


KINDS = {
    "contrast": Kind("contrast", "personavec.judges.contrast", answers=True),
    "probe": Kind("probe[:TEXTS]", "personavec.judges.probe", answers=True),
    "local": Kind("local:MODEL", "personavec.judges.local"),
    "api": Kind("api:MODEL", "personavec.judges.api.client"),
    "classifier": Kind("classifier:MODEL#LABEL", "personavec.judges.classifier"),
}


def spellings(*, any_answers: bool = False) -> str:
    """All kinds, as an enumeration for people.

    Args:
        any_answers: Only those that judge answers of a model that is not there.
    """
    *first, last = [kind.spelling for kind in KINDS.values() if not (any_answers and kind.answers)]
    return f"{', '.join(first)} or {last}"


def find_kind(name: str, *, any_answers: bool = False) -> Kind | None:
    """The kind of the judge that a user names; None for a name that is none.

    Args:
        any_answers: As for `spellings`.
    """
    key, _, which = name.partition(":")
    kind = KINDS.get(key)
    if kind is None or (any_answers and kind.answers):
        return None
    fits = "[" in kind.spelling or bool(which) == (":" in kind.spelling)
    return kind if fits and not name.endswith(":") else None


def open_judge(
    name: str,
    model: "ChatModel | None" = None,
    *,
    terms: ApiTerms | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> "JudgeModel":
    """Open the judge that the user names, once for a run.

    Args:
        name: One of `spellings`: "contrast" (the model that answers), "probe" or "probe:TEXTS" (a regression on what
            it reads, made of the library's texts or of a file's), "local:MODEL" (any chat model that `load_model`
            takes), "api:MODEL" (behind the endpoint that OPENAI_BASE_URL names, with the key in OPENAI_API_KEY),
            "classifier:MODEL" or "classifier:MODEL#LABEL" (a sequence classifier).
        model: The model that answers; None where it is not in this process.
        terms: For "api:MODEL".
        device, dtype: For a model that is loaded to judge.

    Raises:
        UserError: No such judge, or it cannot be opened.
    """
    kind = find_kind(name)
    if kind is None:
        raise UserError(f"Unknown judge {name!r}.", f"Choose {spellings()}.")
    surroundings = Surroundings(model, terms or ApiTerms(), device, dtype)
    opened: JudgeModel = import_module(kind.module).open_model(name.partition(":")[2], surroundings)
    return opened
