"""`personavec evaluate`: how strongly a model shows a trait."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options as o


def evaluate(
    trait: o.TraitArgument,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: a new one in runs.", show_default=False)
    ] = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    description: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text, help="What the trait is, for one that is not in the library.", show_default=False
        ),
    ] = None,
    traits_from: o.TraitsFrom = None,
    asked: o.Edits,
    layers: o.LayersOption = "best",
    positions: o.PositionsOption = "response",
    other_weights: o.OtherWeights = False,
    judge: o.Judge = "contrast",
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    scale_from: Annotated[
        Path | None,
        typer.Option(
            help="Vector of this trait whose extraction sets the scale of the scores, so that plain, steered and "
            "fine-tuned models can be compared. Default: a steering vector of the trait, else a fresh calibration."
        ),
    ] = None,
    rollouts: Annotated[int, typer.Option(help="Answers per question.", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 48,
    lm_eval: o.LmEval = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Score the model's answers to a trait's 20 evaluation questions: trait and coherence, with 95 % intervals.

    With steering or an adapter also what that costs: perplexity of general text without and with it.
    """
    tasks = o.read_tasks(lm_eval)
    chosen = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(judge, judge_price, judge_rpm)
    chat = o.open_model(model, device, dtype, adapter, thinking)
    edits, words, vectors = o.read_interventions(chat, asked, layers, positions, other_weights)

    from personavec.evaluation.job import evaluate as run_evaluation
    from personavec.vector import PersonaVector

    if scale_from is not None:
        vectors = [PersonaVector.load(scale_from), *vectors]

    settings = (chosen, chat.id, words, scale_from, judge, rollouts, max_new_tokens, seed, *tasks)
    folder = out or o.default_folder("evaluate", chosen.name, *settings)
    run = run_evaluation(
        chat, chosen, folder, interventions=edits, description=words, vectors=vectors, judge=judge, terms=terms,
        rollouts=rollouts, max_new_tokens=max_new_tokens, lm_eval=tasks, seed=seed,
    )  # fmt: skip
    if json:
        o.print_json({key: run[key] for key in ("trait", "score", "coherence", "perplexity", "lm_eval")})
        return
    for what in ("score", "coherence"):
        e = run[what]
        name = chosen.name if what == "score" else what
        print(f"{name}: {e['mean']:.1f} [{e['low']:.1f}, {e['high']:.1f}] (95 % interval, n = {e['n']} questions)")
    if run["perplexity"] is not None:
        _print_sides("perplexity of general text", run["perplexity"], ".2f", "ratio")
    for task, metrics in (run["lm_eval"] or {}).items():
        for metric, found in metrics.items():
            _print_sides(f"{task}, {metric}", found, ".3f", "change")
    print(f"Steering: {'; '.join(words) or 'none'}. Judge: {run['judge']}.\nReport: {folder / 'report.html'}")


def _print_sides(name: str, found: Mapping[str, Any], form: str, last: str) -> None:
    """A line of what was measured without and with adapter and steering; or of the model as it is."""
    told = []
    for side, word in (("before", "plain" if "after" in found else ""), ("after", "as asked"), (last, last)):
        if side in found:
            e = found[side]
            told.append(f"{word} {e['mean']:{form}} [{e['low']:{form}}, {e['high']:{form}}]".strip())
    print(f"{name}: {', '.join(told)} (n = {found['before']['n']})")
