"""`personavec evaluate`: how strongly a model shows a trait."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import Edits, fields_of
from personavec.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from personavec.evaluation.result import EvaluationRun
    from personavec.stats.estimate import Estimate

SHOWN = {"trait", "score", "coherence", "plain", "against_plain", "perplexity", "lm_eval"}
ScaleFrom = Annotated[
    Path | None,
    typer.Option(
        help="Vector of this trait whose extraction sets the scale of the scores, so that plain, steered and "
        "fine-tuned models can be compared. Default: a steering vector of the trait, else a fresh calibration."
    ),
]


def evaluate(
    trait: o.TraitArgument,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: a new one in runs.", show_default=False)
    ] = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    description: o.Description = None,
    traits_from: o.TraitsFrom = None,
    asked: Edits,
    layers: o.LayersOption = "best",
    positions: o.PositionsOption = "response",
    other_weights: o.OtherWeights = False,
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    scale_from: ScaleFrom = None,
    settings: Annotated[dict[str, Any], fields_of(EvaluationSettings, without={"temperature", "lm_eval"})],
    lm_eval: o.LmEval = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Score the model's answers to a trait's 20 evaluation questions: trait and coherence, with 95 % intervals.

    With steering or an adapter also the plain model's score, how much of the difference remains with style held equal,
    and what it costs: perplexity of general text without and with it.
    """
    asked_for = EvaluationSettings(**settings, lm_eval=tuple(o.read_tasks(lm_eval)))
    chosen = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(asked_for.judge, judge_price, judge_rpm)
    chat = o.open_model(model, device, dtype, adapter, thinking)
    edits, words, vectors = o.read_interventions(chat, asked, layers, positions, other_weights)

    from personavec.evaluation.job import evaluate as run_evaluation
    from personavec.vector import PersonaVector

    if scale_from is not None:
        vectors = [PersonaVector.load(o.vector_file(scale_from)), *vectors]

    decides = (
        chosen, chat.id, words, scale_from, asked_for.judge, asked_for.rollouts, asked_for.max_new_tokens,
        asked_for.seed, *asked_for.lm_eval,
    )  # fmt: skip
    folder = out or o.default_folder("evaluate", chosen.name, *decides)
    run = run_evaluation(
        chat, chosen, folder, asked_for, interventions=edits, description=words, vectors=vectors, terms=terms
    )
    if json:
        o.print_json(run.model_dump(mode="json", include=SHOWN))
        return
    _show(run, folder)


def _show(run: "EvaluationRun", folder: Path) -> None:
    for name, points in ((run.trait, run.score), ("coherence", run.coherence)):
        print(f"{name}: {points:.1f} (95 % interval, n = {points.n} questions)")
    if (plain := run.against_plain) is not None:
        left = "cannot be told" if plain.remains is None else f"{plain.remains:+.1f}"
        print(
            f"{run.trait} against the plain model: {plain.effect:+.1f} (n = {plain.effect.n}); style held equal: {left}"
        )
    if (cost := run.perplexity) is not None:
        _print_sides("perplexity of general text", cost.before, cost.after, cost.ratio, ".2f", "ratio")
    for task, metrics in (run.lm_eval or {}).items():
        for metric, one in metrics.items():
            _print_sides(f"{task}, {metric}", one.before, one.after, one.change, ".3f", "change")
    print(f"Steering: {'; '.join(run.steer) or 'none'}. Judge: {run.judge}.\nReport: {folder / 'report.html'}")


def _print_sides(
    name: str, before: "Estimate", after: "Estimate | None", change: "Estimate | None", form: str, word: str
) -> None:
    """A line of what was measured without and with adapter and steering; or of the model as it is."""
    sides = f"{before:{form}}"
    if after is not None and change is not None:
        sides = f"plain {sides}, as asked {after:{form}}, {word} {change:{form}}"
    print(f"{name}: {sides} (n = {before.n})")
