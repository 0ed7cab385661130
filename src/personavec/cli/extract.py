"""`personavec extract`: the main job."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options as o
from personavec.errors import UserError


def extract(
    trait: o.TraitArgument,
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    model: o.Model = None,
    description: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text, help="What the trait is, for one that is not in the library.", show_default=False
        ),
    ] = None,
    traits_from: o.TraitsFrom = None,
    pairs: Annotated[int | None, typer.Option(help="Instruction pairs for the extraction.")] = None,
    questions: Annotated[int | None, typer.Option(help="Extraction questions.")] = None,
    rollouts: Annotated[int | None, typer.Option(help="Responses per question, pair and side.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest response.")] = None,
    judge: o.Judge = "contrast",
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    layer: Annotated[str, typer.Option(help="auto, or a layer number.")] = "auto",
    random_directions: Annotated[
        int | None, typer.Option(help="Random directions that are steered by as the null.")
    ] = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Turn a trait into a persona vector, and measure what it does to the model."""
    chosen = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(judge, judge_price, judge_rpm)
    if layer != "auto" and not layer.isdigit():
        raise UserError(f"--layer {layer!r} is not understood.", "Choose auto, or a layer number such as 14.")
    chat = o.open_model(model, device, dtype, thinking=thinking)

    from personavec.extraction.job import Settings
    from personavec.extraction.job import extract as run_extraction

    given: dict[str, Any] = {
        "pairs": pairs,
        "questions": questions,
        "rollouts": rollouts,
        "max_new_tokens": max_new_tokens,
        "random_directions": random_directions,
    }
    settings = replace(
        Settings.suited(chat, chosen),
        **{name: value for name, value in given.items() if value is not None},
        judge=judge,
        layer=layer if layer == "auto" else int(layer),
        seed=seed,
    )
    result = run_extraction(chat, chosen, out, settings, terms=terms)
    run, file = result.run, out / "vector.safetensors"
    if json:
        o.print_json(
            {
                "trait": run["trait"]["name"],
                "model": run["model"]["id"],
                "layer": run["layer"],
                "vector": str(file),
                "kept": run["rollouts"]["kept"],
                "rollouts": run["rollouts"]["extraction"],
                "judge_auc": run["judge"]["auc"],
                "dose_response": run["dose_response"],
                "seconds": run["seconds"],
            }
        )
    else:
        _show(run, out, file)


def _show(run: dict[str, Any], out: Path, file: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{run['trait']['name']} on {run['model']['id']}, layer {run['layer']}", title_justify="left")
    for heading in ("coefficient", "trait score", "coherence", "n"):
        table.add_column(heading, justify="right")
    for point in run["dose_response"]:
        table.add_row(
            f"{point['coefficient']:+g}",
            _interval(point["score"]),
            _interval(point["coherence"]),
            str(point["score"]["n"]),
        )
    console.print(table)
    for example in run["examples"]:
        console.print(f"\n{example['question']}", style="bold", markup=False)
        for answer in example["answers"]:
            console.print(f"  {answer['coefficient']:+g}  {' '.join(answer['text'].split())}", markup=False)
    console.print()
    for sentence in [*run["verdict"], *run["warnings"]]:
        console.print(f"- {sentence}", markup=False)
    best = run["recommended_coefficient"] or 1.0
    console.print(f"\nReport: {out / 'report.html'}\nNext:", markup=False)
    for line in (
        f'personavec generate "Tell me about your day." --steer {file}={best:g} --compare',
        f"personavec chat --steer {file}={-best:g}",
        f"personavec evaluate {run['trait']['name']} --steer {file}={best:g} --out {out}-evaluated",
        f"personavec vectors show {file}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"
