"""`personavec evaluate`: how strongly a model shows a trait."""

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options as o


def evaluate(
    trait: o.TraitArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: a new one in runs.", show_default=False)
    ] = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    description: Annotated[
        str | None, typer.Option(help="What the trait is, for one that is not in the library.", show_default=False)
    ] = None,
    traits_from: o.TraitsFrom = None,
    steer: o.Steer = None,
    ablate: o.Ablate = None,
    cap: o.Cap = None,
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
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Score the model's answers to a trait's 20 evaluation questions: trait and coherence, with 95 % intervals."""
    chosen = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(judge, judge_price, judge_rpm)
    chat = o.open_model(model, device, dtype, adapter, thinking)
    edits, words, vectors = o.read_interventions(chat, steer, ablate, cap, layers, positions, other_weights)

    from personavec.evaluation import evaluate as run_evaluation
    from personavec.vector import PersonaVector

    if scale_from is not None:
        vectors = [PersonaVector.load(scale_from), *vectors]

    settings = (chosen, chat.id, words, scale_from, judge, rollouts, max_new_tokens, seed)
    folder = out or o.default_folder("evaluate", chosen.name, *settings)
    run = run_evaluation(
        chat, chosen, folder, interventions=edits, description=words, vectors=vectors, judge=judge, terms=terms,
        rollouts=rollouts, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    if json:
        o.print_json({"trait": run["trait"], "score": run["score"], "coherence": run["coherence"]})
        return
    for what in ("score", "coherence"):
        e = run[what]
        name = chosen.name if what == "score" else what
        print(f"{name}: {e['mean']:.1f} [{e['low']:.1f}, {e['high']:.1f}] (95 % interval, n = {e['n']} questions)")
    print(f"Steering: {'; '.join(words) or 'none'}. Judge: {run['judge']}.\nReport: {folder / 'report.html'}")
