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
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from annotated_doc import Doc

from personavec.operations import OPERATIONS


@dataclasses.dataclass(frozen=True)
class Options:
    """In the annotation of a command's parameter: the options that it stands for, by the name they get in the dict.

    Attributes:
        optional: Those that are left out of the dict when they were not given.
    """

    parameters: Mapping[str, inspect.Parameter]
    optional: frozenset[str] = frozenset()


def _option(name: str, kind: Any, default: Any, *declared: str, **shown: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*declared, **shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def fields_of(settings: type, *, without: Collection[str] = (), suited: Collection[str] = ()) -> Options:
    """An option for every field of a settings dataclass, from its type, default and `Doc`.

    Args:
        without: Fields that the command asks for itself.
        suited: Fields whose default depends on the model: without the option they are not in the dict.
    """
    hints = get_type_hints(settings, include_extras=True)
    parameters = {}
    for field in dataclasses.fields(settings):
        if field.name in without:
            continue
        kind, *notes = (
            get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else [hints[field.name]]
        )
        help = next((note.documentation for note in notes if isinstance(note, Doc)), None)
        shown = {"help": help, "show_default": field.default is not None and field.name not in suited}
        if field.name in suited:
            parameters[field.name] = _option(field.name, kind | None, None, **shown)
        else:
            parameters[field.name] = _option(field.name, kind, field.default, **shown)
    return Options(parameters, frozenset(suited))


def interventions() -> Options:
    """An option for every way to edit the stream."""
    parameters = {}
    for operation in OPERATIONS.values():
        declared = [f"--{operation.option}", *([operation.short] if operation.short else [])]
        parameters[operation.name] = _option(
            operation.option, list[str] | None, None, *declared, metavar=operation.metavar,
            help=f"{operation.help} Repeatable.", show_default=False,
        )  # fmt: skip
    return Options(parameters, frozenset(parameters))


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
            values = {key: given.pop(one.name) for key, one in options.parameters.items()}
            given[name] = {k: v for k, v in values.items() if not (v is None and k in options.optional)}
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # else the plain signature would be read
    return run
