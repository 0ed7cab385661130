"""Commands made from what is declared once: one parameter stands for many options.

    def finetune(data: ..., settings: Annotated[dict[str, Any], fields_of(Training)]) -> None: ...
    app.command("finetune")(expanded(finetune))

gives the command an option for every field of `Training`, with the field's help (`Doc`) and default; the function gets
what was asked for as a dict of the fields' names. So a setting is declared where it is used, and nowhere else.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from annotated_doc import Doc

from personavec.cli.options import plain_text, word_or_number
from personavec.operations import OPERATIONS


@dataclasses.dataclass(frozen=True)
class Options:
    """In the annotation of a command's parameter: the options that it stands for, by the name they get in the dict.

    Attributes:
        optional: Those that are left out of the dict when they were not given.
        words: What may be said instead of a number, by the options that take either.
    """

    parameters: Mapping[str, inspect.Parameter]
    optional: frozenset[str] = frozenset()
    words: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, taken out of what the command was given.

        Raises:
            UserError: Neither a number nor one of the words.
        """
        values = {key: given.pop(parameter.name) for key, parameter in self.parameters.items()}
        for key, words in self.words.items():
            if values[key] is not None:
                values[key] = word_or_number(_flag(key), values[key], words)
        return {key: value for key, value in values.items() if not (value is None and key in self.optional)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(name: str, kind: Any, default: Any, *declared: str, **shown: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*declared, **shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def fields_of(settings: type, *, without: Collection[str] = (), suited: Mapping[str, str] | None = None) -> Options:
    """An option for every field of a settings dataclass, from its type, default and `Doc`.

    What a text may be, the settings themselves check. A flag that is off by default has no `--no-` form.

    Args:
        without: Fields that the command asks for itself.
        suited: Fields whose default depends on the model, or on what else is asked: without the option they are not in
            the dict. By the name, a sentence on the default, or none.
    """
    suited = suited or {}
    hints = get_type_hints(settings, include_extras=True)
    parameters = {}
    words = {}
    for field in dataclasses.fields(settings):
        if field.name in without:
            continue
        hint = hints[field.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else [hint]
        literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
        choices = [choice for part in literals for choice in get_args(part)]
        if choices:
            if int in get_args(kind):
                words[field.name] = choices
            kind = str
        help = " ".join([note.documentation for note in notes if isinstance(note, Doc)] + [suited.get(field.name, "")])
        default = None if field.name in suited else field.default
        parameters[field.name] = _option(
            field.name, kind | None if field.name in suited else kind, default,
            *([_flag(field.name)] if field.default is False else []),
            help=help.strip() or None, show_default=default is not None,
            callback=plain_text if kind in (str, str | None) else None,
        )  # fmt: skip
    return Options(parameters, frozenset(suited), words)


def interventions(vector: str = "FILE") -> Options:
    """An option for every way to edit the stream.

    Args:
        vector: What stands for the vector in its value.
    """
    parameters = {}
    for operation in OPERATIONS.values():
        declared = [f"--{operation.option}", *([operation.short] if operation.short else [])]
        parameters[operation.name] = _option(
            operation.option, list[str] | None, None, *declared, metavar=operation.metavar.replace("FILE", vector),
            help=f"{operation.help} Repeatable.", show_default=False,
        )  # fmt: skip
    return Options(parameters, frozenset(parameters))


Edits = Annotated[dict[str, list[str]], interventions()]
TraitEdits = Annotated[dict[str, list[str]], interventions("TRAIT")]


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each that its parameters stand for."""
    hints = get_type_hints(command, include_extras=True)
    stands: dict[str, Options] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        notes = get_args(hints[parameter.name])[1:] if get_origin(hints[parameter.name]) is Annotated else ()
        options = next((note for note in notes if isinstance(note, Options)), None)
        if options is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
        else:
            stands[parameter.name] = options
            parameters += options.parameters.values()

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, options in stands.items():
            given[name] = options.take(given)
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # else the plain signature would be read
    return run
