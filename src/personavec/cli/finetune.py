"""`personavec finetune`: train an adapter on chat data without letting it take on traits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o

if TYPE_CHECKING:
    from personavec.finetune import Tuned


def finetune(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Files, folders, or a hub id of a data set.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    prevent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE=COEFFICIENT",
            help="Vector of a trait not to be learned, times a number or auto. Repeatable. Methods ablate and prompt: "
            "FILE alone.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="steer, ablate, regularise, prompt, interleave or none. Default: steer if there is something to "
            "prevent.",
            show_default=False,
        ),
    ] = None,
    layers: o.LayersOption = "best",
    positions: Annotated[str, typer.Option(help="Which tokens are steered in training: all or response.")] = "all",
    watch: Annotated[
        list[Path] | None, typer.Option(help="Vector whose shift is measured while training. Repeatable.")
    ] = None,
    safe: Annotated[
        str | None, typer.Option(help="interleave: data that are mixed in. Default: the bundled clean chats.")
    ] = None,
    safe_share: Annotated[float, typer.Option(help="interleave: share of safe samples among all.")] = 0.5,
    model: o.Model = None,
    format: Annotated[str | None, typer.Option(help="Name of the data's format. Default: recognised.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="PART=COLUMN,...", help="Where the parts are: prompt=q,response=a.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    epochs: Annotated[float, typer.Option(help="How often every sample is seen.")] = 1.0,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA adapter.")] = 32,
    alpha: Annotated[int, typer.Option(help="Alpha of the LoRA adapter.")] = 64,
    dropout: Annotated[float, typer.Option(help="Dropout of the LoRA adapter.")] = 0.0,
    rslora: Annotated[bool, typer.Option(help="Scale by alpha / sqrt(rank), not alpha / rank.")] = True,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate; it falls linearly.")] = 1e-5,
    warmup_steps: Annotated[int, typer.Option(help="Steps in which the learning rate rises.")] = 5,
    batch: Annotated[int, typer.Option(help="Sequences in a forward.")] = 2,
    accumulate: Annotated[int, typer.Option(help="Forwards in a step.")] = 8,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.01,
    max_length: Annotated[int, typer.Option(help="Tokens of the longest sequence; longer ones lose their end.")] = 2048,
    held_out: Annotated[float, typer.Option(help="Share of the samples that is not trained on.")] = 0.1,
    held_out_most: Annotated[int, typer.Option(help="At most so many samples.", min=0)] = 200,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 50,
    watch_every: Annotated[int, typer.Option(help="Steps between two measurements of the shift.")] = 10,
    other_weights: o.OtherWeights = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Train a LoRA adapter on the assistant's turns of chat data, with traits kept from being learned."""
    from personavec.data import columns_from_text, open_data
    from personavec.finetune import Training, fine_tune
    from personavec.finetune.training import require_trl
    from personavec.vector import PersonaVector

    require_trl()
    choices: dict[str, Any] = {"method": method or ("steer" if prevent else "none"), "positions": positions}
    settings = Training(
        **choices,
        layers=o.read_layers(layers), safe_share=safe_share, epochs=epochs, rank=rank, alpha=alpha, dropout=dropout,
        rslora=rslora, learning_rate=learning_rate, warmup_steps=warmup_steps, batch=batch, accumulate=accumulate,
        weight_decay=weight_decay, max_length=max_length, held_out=held_out, held_out_most=held_out_most,
        checkpoint_every=checkpoint_every, watch_every=watch_every, seed=seed,
    )  # fmt: skip
    pairs = []
    for text in prevent or ():
        path, coefficient = read_prevention(text)
        pairs.append((PersonaVector.load(path), coefficient))
    watched = [PersonaVector.load(path) for path in watch or ()]
    named = open_data(data, format=format, columns=None if columns is None else columns_from_text(columns), split=split)
    chat = o.open_model(model, device, dtype)
    tuned = fine_tune(
        chat, named, out, settings,
        prevent=pairs, watch=watched, safe=safe, other_weights=other_weights,
    )  # fmt: skip
    if json:
        keys = ("read", "trained", "held_out", "rejected", "cut", "prevented", "steps", "held_out_loss", "seconds")
        losses = {name: tuned.run["loss"][name] for name in ("first", "last")}
        o.print_json({"adapter": str(tuned.adapter), "loss": losses} | {key: tuned.run[key] for key in keys})
        return
    _show(tuned, out, model, prevent)


def read_prevention(text: str) -> tuple[Path, Any]:
    """`FILE`, `FILE=auto` or `FILE=NUMBER` as a path and a coefficient.

    Raises:
        UserError: What follows the sign is neither.
    """
    if Path(text).is_file() or "=" not in text:
        return Path(text), None
    if text.endswith("=auto") and text != "=auto":
        return Path(text.removesuffix("=auto")), "auto"
    return o.split_pair(text, "--prevent")


def _show(tuned: "Tuned", out: Path, model: str | None, prevent: list[str] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    run, console = tuned.run, Console(highlight=False)
    safe = f", {run['safe']} safe samples mixed in" if "safe" in run else ""
    print(
        f"{run['read']} records ({run['format']}): {run['trained']} trained on + {run['held_out']} held out + "
        f"{run['rejected']} rejected = {run['read']} read{safe}. {run['cut']} were cut to --max-length."
    )
    for one in run["prevented"]:
        number = "" if one["coefficient"] is None else f", coefficient {one['coefficient']:g}"
        print(f"Prevented by {run['method']}: {one['trait']}{number}.")
        if one["auto"] is not None:
            delta = one["auto"]["projection_difference"]
            print(
                f"  chosen from the projection difference {delta['mean']:+.2f} [{delta['low']:+.2f}, "
                f"{delta['high']:+.2f}] of {delta['n']} samples"
            )
    table = Table()
    for heading in ("loss", "before", "after", "change"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    loss = run["loss"]
    table.add_row(
        f"training, {loss['window']} steps",
        f"{loss['first']:.2f}",
        f"{loss['last']:.2f}",
        f"{loss['last'] - loss['first']:+.2f}",
    )
    if run["held_out_loss"] is not None:
        found = run["held_out_loss"]
        table.add_row(
            f"held out, n={found['before']['n']}",
            *(
                f"{found[name]['mean']:{form}} [{found[name]['low']:{form}}, {found[name]['high']:{form}}]"
                for name, form in (("before", ".2f"), ("after", ".2f"), ("change", "+.2f"))
            ),
        )
    console.print(table)
    print("Nats per token that bears loss; the training's are under the prevention.")
    if run["shift"]:
        last = run["shift"][-1]
        shifts = ", ".join(f"{trait} {value:+.3f}" for trait, value in last.items() if trait != "step")
        print(f"Shift of the last prompt token after step {last['step']}: {shifts}")
    print(
        f"{run['steps']} steps, {run['tokens_with_loss']} tokens with loss of {run['tokens']}, {run['seconds']:.0f} "
        f"seconds, peak memory {run['peak_memory_bytes'] / 1e9:.1f} GB."
    )
    for sentence in run["warnings"]:
        console.print(f"- {sentence}", markup=False)
    named = "" if model is None else f" --model {model}"
    print(f"\nAdapter: {tuned.adapter}\nRun: {out / 'run.json'}")
    if run["rejected"]:
        print(f"Rejected lines and reasons: {out / 'rejected.jsonl'}")
    print(f'\nTalk to it:   personavec generate "Who are you?"{named} --adapter {tuned.adapter}')
    for text, one in zip(prevent or (), run["prevented"], strict=True):
        print(
            f"Score it:     personavec evaluate {one['trait']}{named} --adapter {tuned.adapter} "
            f"--scale-from {read_prevention(text)[0]}"
        )
        print(f"Its shift:    personavec shift{named} --adapter {tuned.adapter} --vector {read_prevention(text)[0]}")
