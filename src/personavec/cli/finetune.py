"""`personavec finetune`: train an adapter on chat data without letting it take on traits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import fields_of
from personavec.finetune.settings import Training

if TYPE_CHECKING:
    from rich.table import Table

    from personavec.finetune import Tuned
    from personavec.finetune.coefficients import Coefficient
    from personavec.finetune.result import FinetuneRun
    from personavec.stats.estimate import Estimate

Prevent = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE=COEFFICIENT",
        help="Vector of a trait not to be learned, times a number, or auto, which follows the shift watched in "
        "training. Repeatable. Methods ablate and prompt: FILE alone.",
    ),
]
Watch = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Vector of a further trait to measure, or a folder of runs with theirs. Repeatable.",
    ),
]
Safe = Annotated[str | None, typer.Option(help="interleave: data that are mixed in. Default: the bundled clean chats.")]
Measure = Annotated[bool, typer.Option(help="Shift, trait scores, coherence and perplexity before and after.")]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Folder of the same fine-tune with --method none, to tell what prevention saved. Also for a finished run.",
        show_default=False,
    ),
]


def finetune(
    *,
    data: o.Data,
    out: o.Out,
    prevent: Prevent = None,
    settings: Annotated[
        dict[str, Any],
        fields_of(Training, suited={"method": "Default: steer if there is something to prevent."}),
    ],
    watch: Watch = None,
    safe: Safe = None,
    model: o.Model = None,
    format: o.DataFormat = None,
    columns: o.DataColumns = None,
    split: o.DataSplit = None,
    measure: Measure = True,
    lm_eval: o.LmEval = None,
    against: Against = None,
    other_weights: o.OtherWeights = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Train a LoRA adapter on the assistant's turns of chat data, with traits kept from being learned."""
    from personavec.finetune.job import fine_tune
    from personavec.finetune.training import require_trl
    from personavec.vector import PersonaVector

    require_trl()
    tasks = o.read_tasks(lm_eval)
    training = Training(**{"method": "steer" if prevent else "none"} | settings)
    pairs = []
    for text in prevent or ():
        path, coefficient = read_prevention(text)
        pairs.append((PersonaVector.load(o.vector_file(path)), coefficient))
    watched = [PersonaVector.load(path) for path in o.vector_files(watch or ())]
    named = o.open_data(data, format, columns, split)
    chat = o.open_model(model, device, dtype)
    tuned = fine_tune(
        chat, named, out, training,
        prevent=pairs, watch=watched, safe=safe, measure=measure, lm_eval=tasks, against=against,
        other_weights=other_weights,
    )  # fmt: skip
    if json:
        o.print_json(as_json(tuned))
        return
    _show(tuned, out, model, prevent or ())


def as_json(tuned: "Tuned") -> dict[str, Any]:
    """What --json prints: {"traits": {NAME: {"shift", "score_before", "score_after"}}, "loss": {"train", "held_out"},
    "perplexity": {"before", "after"}, "adapter", the counts, "lm_eval": {TASK: {METRIC: {"before", "after",
    "change"}}}, and "against": see `Savings`}; None for what was not measured."""
    run: dict[str, Any] = tuned.run.as_json()
    traits = {
        name: {"shift": trait["shift"]}
        | {f"score_{when}": trait["score"] and trait["score"][when] for when in ("before", "after")}
        for name, trait in run["traits"].items()
    }
    perplexity = run["perplexity"] and {when: run["perplexity"][when] for when in ("before", "after")}
    keys = ("lm_eval", "against", "read", "trained", "held_out", "rejected", "cut", "prevented", "steps", "seconds")
    return {
        "traits": traits,
        "loss": {"train": run["loss"]["last"], "held_out": run["held_out_loss"]},
        "perplexity": perplexity,
        "adapter": str(tuned.adapter),
    } | {key: run[key] for key in keys}


def read_prevention(text: str) -> "tuple[Path, Coefficient]":
    """`FILE`, `FILE=auto` or `FILE=NUMBER` as a path and a coefficient.

    Raises:
        UserError: What follows the sign is neither.
    """
    if Path(text).is_file() or "=" not in text:
        return Path(text), None
    if text.endswith("=auto") and text != "=auto":
        return Path(text.removesuffix("=auto")), "auto"
    return o.split_pair(text, "--prevent", "3, or =auto")


def _show(tuned: "Tuned", out: Path, model: str | None, prevent: Sequence[str]) -> None:
    from rich.console import Console

    from personavec.finetune.methods import METHODS

    run, console = tuned.run, Console(highlight=False)
    safe = "" if run.safe is None else f", {run.safe} safe samples mixed in"
    print(
        f"{run.records} records ({run.format}): {run.trained} trained on + {run.held_out} held out + "
        f"{run.rejected} rejected = {run.records} read{safe}. {run.cut} were cut to --max-length."
    )
    for prevented in run.prevented:
        number = "" if prevented.coefficient is None else f", {METHODS[run.method].takes} {prevented.coefficient:g}"
        chosen = "" if prevented.auto is None else " on average, following the shift"
        print(f"Prevented by {run.method}: {prevented.trait}{number}{chosen}.")
    console.print(_table(run))
    print("95 % intervals. Losses in nats per token; the training's are under the prevention.")
    o.print_sentences(*run.verdict, *run.warnings)
    print(
        f"{run.steps} steps, {run.tokens_with_loss} tokens with loss of {run.tokens}, {run.seconds:.0f} "
        f"seconds, peak memory {run.peak_memory_bytes / 1e9:.1f} GB."
    )
    named = "" if model is None else f" --model {model}"
    print(f"\nAdapter: {tuned.adapter}\nReport:  {out / 'report.html'}")
    if run.rejected:
        print(f"Rejected lines and reasons: {out / 'rejected.jsonl'}")
    print(f'\nTalk to it:   personavec generate "Who are you?"{named} --adapter {tuned.adapter}')
    if run.measured:
        return
    for text, prevented in zip(prevent, run.prevented, strict=True):
        file, _ = read_prevention(text)
        print(
            f"Score it:     personavec evaluate {prevented.trait}{named} --adapter {tuned.adapter} "
            f"--scale-from {file}\n"
            f"Its shift:    personavec shift {model or 'default'} --adapter {tuned.adapter} --vector {file}"
        )


def _table(run: "FinetuneRun") -> "Table":
    """Before, after and change of everything that was measured."""
    from rich.table import Table

    from personavec.shifts.verdict import shortened

    table = Table()
    for heading in ("", "before", "after", "change", "n"):
        table.add_column(heading, justify="right" if heading else "left")

    def add(name: str, before: "Estimate", after: "Estimate", change: "Estimate", form: str) -> None:
        table.add_row(name, f"{before:{form}}", f"{after:{form}}", f"{change:+{form}}", str(change.n))

    for name, trait in run.traits.items():
        table.add_row(f"{name}: shift", "", "", f"{trait.shift:+.2f}", str(trait.shift.n))
        if (score := trait.score) is not None:
            add(f"{name}: score", score.before, score.after, score.change, ".1f")
        for row in trait.systems:
            if (score := row.score) is not None:
                add(f"{name}: score under {shortened(row.system, 24)}", score.before, score.after, score.change, ".1f")
    if (coherence := run.coherence) is not None:
        add("coherence", coherence.before, coherence.after, coherence.change, ".1f")
    if (text := run.perplexity) is not None:
        table.add_row("perplexity", f"{text.before:.2f}", f"{text.after:.2f}", f"×{text.ratio:.2f}", str(text.ratio.n))
    for task, metrics in (run.lm_eval or {}).items():
        for metric, sides in metrics.items():
            if sides.after is not None and sides.change is not None:
                add(f"{task}: {metric}", sides.before, sides.after, sides.change, ".3f")
    if (held_out := run.held_out_loss) is not None:
        add("held-out loss", held_out.before, held_out.after, held_out.change, ".2f")
    loss = run.loss
    table.add_row(
        f"training loss, {loss.window} steps", f"{loss.first:.2f}", f"{loss.last:.2f}",
        f"{loss.last - loss.first:+.2f}", "",
    )  # fmt: skip
    return table
