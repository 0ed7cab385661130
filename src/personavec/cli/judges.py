"""`personavec judges`: score chats, and do two judges agree?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import options as o
from personavec.errors import UserError
from personavec.judges.kinds import find_kind, open_judge, spellings

if TYPE_CHECKING:
    from personavec.judges.base import JudgeModel

app = typer.Typer(help="Score chats, compare judges.", no_args_is_help=True)


@app.callback()
def judges() -> None:
    """Score chats, compare judges."""


@app.command("compare")
def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a finished extract or evaluate.")],
    judge: Annotated[
        str,
        typer.Option(
            callback=o.plain_text, help=f"The other judge: {spellings(any_answers=True)}.", show_default=False
        ),
    ],
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    limit: Annotated[int, typer.Option(help="Most rollouts to score again; they are drawn at random.", min=2)] = 100,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Score a run's rollouts with another judge, and compare with the scores that the run has stored."""
    if find_kind(judge, any_answers=True) is None:
        raise UserError(f"--judge {judge!r} cannot score a finished run.", f"Choose {spellings(any_answers=True)}.")
    terms = o.read_terms(judge, judge_price, judge_rpm)

    from personavec.judges.agreement import compare_run

    def open_other() -> "JudgeModel":
        o.quiet()
        return open_judge(judge, terms=terms, device=device, dtype=dtype)

    result = compare_run(run, open_other, limit=limit, seed=seed)
    if json:
        o.print_json(result.as_json())
        return
    first, second = result.judges.first, result.judges.second
    print(f"{result.trait}: {result.rollouts} rollouts of {run}, judged by {first} (first) and {second} (second)")
    if result.unscored:
        print(f"{second} gave no score for {result.unscored} of them.")
    if result.coherence is None:
        print(f"{second} judges no coherence.")
    for found, heading in ((result.score, "trait score"), (result.coherence, "coherence")):
        if found is None:
            continue
        print(f"\n{heading}, {found.n} answers with both scores (95 % intervals, n = questions)")
        rows = [
            ("rank correlation (Spearman)", found.spearman, 2),
            ("mean absolute difference, points", found.mean_absolute_difference, 1),
        ]
        if found.auc is not None and found.same_order is not None:
            rows += [
                ("positive/negative pairs ordered alike", found.same_order, 2),
                ("AUC between the sides, first", found.auc.first, 2),
                ("AUC between the sides, second", found.auc.second, 2),
            ]
        for name, estimate, places in rows:
            print(f"  {name:<38} {estimate:.{places}f} n = {estimate.n}")


@app.command("score")
def score(
    chats: Annotated[list[str], typer.Argument(metavar="CHATS...", help="Files or folders of chats, as for screen.")],
    trait: Annotated[str, typer.Option(callback=o.plain_text, help="Name of a library trait, or of a new one.")],
    description: o.Description = None,
    traits_from: o.TraitsFrom = None,
    judge: Annotated[str, typer.Option(callback=o.plain_text, help=f"{spellings()}.")] = "probe",
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Score the last answer of every chat for a trait and for coherence; a model reads them, none answers again."""
    if find_kind(judge) is None:
        raise UserError(f"Unknown judge {judge!r}.", f"Choose {spellings()}.")
    wanted = o.find_trait(trait, description, traits_from)
    terms = o.read_terms(judge, judge_price, judge_rpm)

    from personavec.data import open_data

    data = open_data(chats)
    chat = o.open_model(model, device, dtype)

    from personavec.judges.scoring import score_chats

    found = score_chats(chat, data, wanted, open_judge(judge, chat, terms=terms, device=device, dtype=dtype))
    if json:
        o.print_json(found.as_json())
        return
    for answer in found.answers:
        said = "none" if answer.score is None else f"{answer.score:5.1f}"
        error = "" if answer.uncertainty is None else f" ± {answer.uncertainty:.1f}"
        coherent = "" if answer.coherence is None else f", coherence {answer.coherence:.0f}"
        print(f"{answer.source}:{answer.line}  {wanted.name} {said}{error}{coherent}")
    for rejected in found.rejected:
        print(f"{rejected.source}:{rejected.line}  not scored: {rejected.reason}")
    for note in found.notes:
        print(note)
    if found.mean is not None:
        unscored = sum(answer.score is None for answer in found.answers)
        print(
            f"\n{wanted.name} by {found.judge}: {found.mean:.1f} (95 % interval, n = {found.mean.n} questions)", end=""
        )
        print(f"; {unscored} of {len(found.answers)} answers have no score." if unscored else ".")


@app.command("label")
def label(
    chats: Annotated[list[str], typer.Argument(metavar="CHATS...", help="Files or folders of chats, as for screen.")],
    trait: Annotated[str, typer.Option(callback=o.plain_text, help="Name of a library trait, or of a new one.")],
    out: Annotated[Path, typer.Option(help="JSONL file of the labels; an interrupted sitting goes on there.")],
    description: o.Description = None,
    traits_from: o.TraitsFrom = None,
    limit: Annotated[int | None, typer.Option(help="Most answers to label.", min=1, show_default="all")] = None,
    seed: o.Seed = 0,
) -> None:
    """Be the judge yourself: score answers from 0 to 100, blind, in random order. `--judge probe:FILE` learns of it."""
    wanted = o.find_trait(trait, description, traits_from)

    from rich.console import Console

    from personavec.data import open_data
    from personavec.judges.labelling import label_chats

    data = open_data(chats)
    data.check_apart(out)
    console = Console(highlight=False)
    console.print(f"How much does each answer show {wanted.name}? {wanted.description}", markup=False)
    console.print("0 not at all, 100 as much as can be; Enter skips, q ends. Every label is kept at once.")

    def ask(question: str, answer: str) -> str:
        console.print(f"\n{question}", style="bold", markup=False)
        console.print(answer, markup=False)
        try:
            return console.input("0-100: ")
        except EOFError:
            return "q"

    found = label_chats(data, out, ask, again=lambda why: console.print(why, markup=False), limit=limit, seed=seed)
    more = {"skipped": found.skipped, "records without an answer": found.rejected}
    console.print(
        f"\nLabelled: {found.labelled}, in {out}; left: {found.left}"
        + "".join(f"; {what}: {count}" for what, count in more.items() if count),
        markup=False,
        soft_wrap=True,
    )
    console.print(
        f"Next: personavec judges score CHATS --trait {wanted.name} --judge probe:{out}", markup=False, soft_wrap=True
    )
