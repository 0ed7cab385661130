"""`personavec extract`: the main job."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from personavec.cli import options as o
from personavec.cli.expand import fields_of
from personavec.extraction.settings import Settings

if TYPE_CHECKING:
    from personavec.extraction.result import ExtractionRun

_SUITED = dict.fromkeys(("pairs", "questions", "rollouts", "max_new_tokens", "random_directions"), "")


def extract(
    trait: o.TraitArgument,
    *,
    out: o.Out,
    model: o.Model = None,
    description: o.Description = None,
    traits_from: o.TraitsFrom = None,
    settings: Annotated[dict[str, Any], fields_of(Settings, without={"temperature", "positions"}, suited=_SUITED)],
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Turn a trait into a persona vector, and measure what it does to the model."""
    Settings(**settings)  # what no model could do is refused before one is loaded
    chosen = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(settings["judge"], judge_price, judge_rpm)
    chat = o.open_model(model, device, dtype, thinking=thinking)

    from personavec.extraction.job import extract as run_extraction

    result = run_extraction(chat, chosen, out, Settings.suited(chat, chosen, **settings), terms=terms)
    run, file = result.run, out / "vector.safetensors"
    if json:
        o.print_json(
            {
                "trait": run.trait.name,
                "model": run.model.id,
                "layer": run.layer,
                "vector": str(file),
                "kept": run.rollouts.kept,
                "rollouts": run.rollouts.extraction,
                "judge_auc": asdict(run.judge.auc),
                "dose_response": [point.as_json() for point in run.dose_response],
                "seconds": run.seconds,
            }
        )
    else:
        _show(run, out, file)


def _show(run: "ExtractionRun", out: Path, file: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{run.trait.name} on {run.model.id}, layer {run.layer}", title_justify="left")
    for heading in ("coefficient", "trait score", "coherence", "n"):
        table.add_column(heading, justify="right")
    for point in run.dose_response:
        table.add_row(f"{point.coefficient:+g}", f"{point.score:.1f}", f"{point.coherence:.1f}", str(point.score.n))
    console.print(table)
    for example in run.examples:
        console.print(f"\n{example.question}", style="bold", markup=False)
        for answer in example.answers:
            console.print(f"  {answer.coefficient:+g}  {' '.join(answer.text.split())}", markup=False)
    console.print()
    o.print_sentences(*run.verdict, *run.warnings)
    best = run.recommended_coefficient or 1.0
    console.print(f"\nReport: {out / 'report.html'}\nNext:", markup=False)
    for line in (
        f'personavec generate "Tell me about your day." --steer {file}={best:g} --compare',
        f"personavec chat --steer {file}={-best:g}",
        f"personavec evaluate {run.trait.name} --steer {file}={best:g} --out {out}-evaluated",
        f"personavec vectors show {file}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)
