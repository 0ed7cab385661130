"""`personavec judges`: do two judges agree?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import options as o
from personavec.errors import UserError
from personavec.judges.kinds import find_kind, open_judge, spellings

if TYPE_CHECKING:
    from personavec.judges.base import JudgeModel

app = typer.Typer(help="Compare judges.", no_args_is_help=True)


@app.callback()
def judges() -> None:
    """Compare judges."""


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
        o.print_json(result.model_dump())
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
