"""`personavec serve`: an OpenAI-compatible server whose answers are steered and read."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import TraitEdits, fields_of
from personavec.errors import UserError
from personavec.operations import OPERATIONS
from personavec.serving.settings import ServeSettings


def serve(
    *,
    vector: Annotated[
        list[Path] | None,
        typer.Option(
            "--vector",
            "-v",
            help="Vector file, name of a ready one, or folder of runs. Repeatable.",
            show_default=False,
        ),
    ] = None,
    asked: TraitEdits,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one a line. Default: PERSONAVEC_API_KEY. Needed for hosts that others reach.",
            show_default=False,
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(help="File of watch calibrate: answers that go beyond its limits are told.", show_default=False),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="File that gets a line of readings for every answer.", show_default=False)
    ] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Log question and answer, too.")] = False,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", callback=o.plain_text, help="Where alarms are posted to.", show_default=False),
    ] = None,
    settings: Annotated[dict[str, Any], fields_of(ServeSettings)],
    model: o.Model = None,
    adapter: o.Adapter = None,
    layers: o.LayersOption = "best",
    positions: o.PositionsOption = "response",
    other_weights: o.OtherWeights = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
) -> None:
    """Serve a model to OpenAI's clients: steered as a request asks, or else as the options do; every answer read."""
    try:
        from personavec.serving import api, server
    except ImportError as error:
        raise UserError(f"Serving needs {error.name}.", "Install it with: pip install 'personavec[serve]'") from error
    keys = server.read_keys(api_key)
    hosts = server.hosts_of(host, keys)
    takes, default = ServeSettings(**settings), _numbers(asked)

    from personavec.serving.observer import Observer
    from personavec.serving.persona import Cast
    from personavec.vector import PersonaVector
    from personavec.watching.result import Limits

    vectors = [PersonaVector.load(path) for path in o.vector_files(vector or ())]
    known = Limits.read(limits) if limits else None
    observer = Observer(vectors, limits=known, log=log, log_text=log_text, webhook=webhook)
    chat = o.open_model(model, device, dtype, adapter, thinking)
    chosen: Any = o.word_or_number("--layers", layers, ("best", "all"))
    where: Any = positions
    cast = Cast(chat, vectors, default, layers=chosen, positions=where, other_weights=other_weights)
    service = api.Service(chat, cast, takes, observer)
    o.print_sentences(*cast.notes, *cast.default.doubts)
    if known is not None and tuple(cast.default.words) != known.steering:
        o.print_sentences(
            f"The limits are of answers that are steered in another way ({'; '.join(known.steering) or 'not at all'}): "
            "of others nothing alarms."
        )

    def ready(address: str) -> None:
        print(f"{chat.id} is served at {address}/v1 as {api.NAME}.", flush=True)
        print(
            f"Steering: {'; '.join(cast.default.words) or 'none'}. Read along: {', '.join(cast.traits) or 'nothing'}."
        )
        if not takes.client_steering:
            print("Requests may not steer.")
        print("Ctrl-C ends it.", flush=True)

    server.run(api.create_app(service, keys=keys, hosts=hosts), host, port, ready)


def _numbers(asked: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float | None]]:
    """What TRAIT=NUMBER says, by the option.

    Raises:
        UserError: Not of that form.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, texts in asked.items():
        operation = OPERATIONS[name]
        for text in texts:
            trait, sign, number = text.rpartition("=") if operation.takes != "nothing" else (text, "=", "0")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not sign or not trait or not math.isfinite(value):
                raise UserError(
                    f"--{operation.option} {text!r} is not TRAIT=NUMBER.",
                    f"Write for example --{operation.option} evil={operation.example}, with --vector for its file.",
                )
            found.setdefault(operation.option, {})[trait] = None if operation.takes == "nothing" else value
    return found
