"""`personavec extract`: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o
from personavec.cli.expand import fields_of
from personavec.errors import UserError
from personavec.extraction.given.settings import TextSettings
from personavec.extraction.settings import ExtractionSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personavec.extraction.given.result import Push, TextsRun
    from personavec.extraction.result import ExtractionRun
    from personavec.model import ChatModel
    from personavec.texts import Texts
    from personavec.traits import Trait

_SUITED = {
    **dict.fromkeys(("pairs", "questions", "rollouts", "max_new_tokens", "random_directions"), ""),
    "judge": f"Default: {ExtractionSettings.judge}.",
    "gate": "Default: on.",
    "positions": f"Default: {ExtractionSettings.positions}.",
}
_SHARED = frozenset(ExtractionSettings.__dataclass_fields__.keys() & TextSettings.__dataclass_fields__.keys())
_SHOWN = 3  # questions whose answers are printed

TextsFrom = Annotated[
    str | None,
    typer.Option(
        "--texts",
        metavar="library|FILE",
        callback=o.plain_text,
        help="Make the vector of texts that show the trait and texts that lack it, in place of the model's own "
        "rollouts: the library's, or those of a file.",
        show_default=False,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="local:MODEL|api:MODEL",
        callback=o.plain_text,
        help="Have a stronger model write such texts first, to the trait's questions; --judge-price tells its costs.",
        show_default=False,
    ),
]


def extract(
    trait: o.TraitArgument,
    *,
    out: o.Out,
    model: o.Model = None,
    description: o.Description = None,
    traits_from: o.TraitsFrom = None,
    texts: TextsFrom = None,
    teacher: Teacher = None,
    settings: Annotated[dict[str, Any], fields_of(ExtractionSettings, without={"temperature"}, suited=_SUITED)],
    of_texts: Annotated[
        dict[str, Any], fields_of(TextSettings, without=_SHARED, suited={"tokens": f"Default: {TextSettings.tokens}."})
    ],
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Turn a trait into a persona vector, and measure what it does to the model."""
    chosen = o.find_trait(trait, description, traits_from)
    if texts is not None or teacher is not None:
        if texts is not None and teacher is not None:
            raise UserError("`texts` and `teacher` exclude each other.", "A teacher writes texts of its own.")
        if foreign := sorted(settings.keys() - _SHARED):
            source = "texts" if teacher is None else "teacher"
            raise UserError(f"`{foreign[0]}` does not go with `{source}`.", "It is about the model's own rollouts.")
        asked_for = TextSettings(**settings, **of_texts)
        terms = o.read_terms(teacher or "probe", judge_price, judge_rpm)
        given: Texts | str = texts or ""
        if teacher is not None:  # before the model that reads is loaded: one at a time
            from personavec.extraction.given.teacher import taught_texts

            o.quiet()
            given = taught_texts(chosen, teacher, out, terms=terms, device=device, dtype=dtype, seed=asked_for.seed)
        _from_texts(o.open_model(model, device, dtype, thinking=thinking), chosen, given, out, asked_for, json)
        return
    if of_texts:
        raise UserError("`tokens` goes with `texts` or `teacher` only.", "Leave it out, or say which texts.")
    ExtractionSettings(**settings)  # what no model could do is refused before one is loaded
    terms = o.read_terms(settings.get("judge", ExtractionSettings.judge), judge_price, judge_rpm)
    chat = o.open_model(model, device, dtype, thinking=thinking)

    from personavec.extraction.job import extract as run_extraction

    result = run_extraction(chat, chosen, out, ExtractionSettings.suited(chat, chosen, **settings), terms=terms)
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
                "judge_auc": run.judge.auc,
                "elicitation": run.elicitation,
                "dose_response": [point.as_json() for point in run.dose_response],
                "prompting": run.prompting,
                "seconds": run.seconds,
            }
        )
    else:
        _show(run, out)


def _from_texts(
    chat: "ChatModel", trait: "Trait", texts: "Texts | str", out: Path, settings: TextSettings, as_json: bool
) -> None:
    from personavec.extraction.given.job import extract_from_texts

    run, file = extract_from_texts(chat, trait, texts, out, settings).run, out / "vector.safetensors"
    if not as_json:
        _show_texts(run, out)
        return
    effects = {judge.name: None if judge.steering is None else judge.steering.effect for judge in run.judges}
    o.print_json(
        {
            "trait": run.trait.name,
            "model": run.model.id,
            "layer": run.layer,
            "vector": str(file),
            "texts": run.texts.as_json(),
            "auc": run.separation.auc,
            "effects": effects,
            "pushes": [push.as_json() for push in run.pushes],
            "prompting": run.prompting,
            "seconds": run.seconds,
        }
    )


def _show_texts(run: "TextsRun", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from personavec.extraction.given.steering import EFFECT
    from personavec.extraction.given.verdict import brief

    console = Console(highlight=False)
    title = f"{run.trait.name} on {run.model.id}, layer {run.layer}, from texts ({run.texts.source})"
    table = Table(title=title, title_justify="left")
    names = [judge.name for judge in run.judges]
    for heading in ("push", "coefficient", *(f"score by {name}" for name in names), "coherence", "n"):
        table.add_column(heading, justify="right")
    for push in run.pushes:
        scores = [_points(push, name) for name in names]
        sizes = (f"{100 * push.share:+g} %", f"{push.coefficient:+.2f}")
        table.add_row(*sizes, *scores, f"{push.coherence:.0f}", str(push.coherence.n))
    if (asked := run.prompting) is not None:
        points = ["none" if score is None else f"{score:.0f}" for score in asked.score.values()]
        table.add_row("prompt", "", *points, f"{asked.coherence:.0f}", str(asked.coherence.n))
    console.print(table)
    console.print(f"\nAnswers to {_SHOWN} questions drawn at random, as far as they were written:", markup=False)
    for example in run.examples[:_SHOWN]:
        console.print(f"\n{example.question}", style="bold", markup=False)
        for answer in example.answers:
            if abs(answer.share) in (0, EFFECT):
                console.print(f"  {100 * answer.share:+g} %  {' '.join(answer.text.split())}", markup=False)
    console.print()
    o.print_sentences(*brief(run), "Not shown: that a person would say so. Read the answers above.")
    _end(out, run.warnings, run.recommended_coefficient or EFFECT * run.unit)


def _points(push: "Push", judge: str) -> str:
    """What a judge gave to the answers under a push; a dash where it was not asked."""
    if judge not in push.score:
        return "-"
    score = push.score[judge]
    return "none" if score is None else f"{score:.0f}"


def _end(out: Path, warnings: "Sequence[str]", best: float) -> None:
    more = f" and {len(warnings)} warning{'s' if len(warnings) > 1 else ''}" if warnings else ""
    print(f"\nReport: {out / 'report.html'}, with all figures{more}")
    file = out / "vector.safetensors"
    print(f'Next: personavec generate "Tell me about your day." --steer {file}={best:.3g} --compare')


def _show(run: "ExtractionRun", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from personavec.extraction.verdict import brief

    console = Console(highlight=False)
    table = Table(title=f"{run.trait.name} on {run.model.id}, layer {run.layer}", title_justify="left")
    for heading in ("coefficient", "trait score", "coherence", "n"):
        table.add_column(heading, justify="right")
    for point in run.dose_response:
        table.add_row(f"{point.coefficient:+g}", f"{point.score:.1f}", f"{point.coherence:.1f}", str(point.score.n))
    if (asked := run.prompting) is not None:
        points = ["none" if score is None else f"{score:.1f}" for score in asked.score.values()]
        table.add_row("prompt", *points, f"{asked.coherence:.1f}", str(asked.coherence.n))
    console.print(table)
    for example in run.examples:
        console.print(f"\n{example.question}", style="bold", markup=False)
        for answer in example.answers:
            console.print(f"  {answer.coefficient:+g}  {' '.join(answer.text.split())}", markup=False)
    console.print()
    o.print_sentences(*brief(run))
    _end(out, run.warnings, run.recommended_coefficient or 1.0)
