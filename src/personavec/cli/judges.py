"""`personavec judges`: do two judges agree?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options as o
from personavec.errors import UserError

if TYPE_CHECKING:
    from personavec.judges.scorer import Scorer
    from personavec.traits import Trait

app = typer.Typer(help="Compare judges.", no_args_is_help=True)


@app.callback()
def judges() -> None:
    """Compare judges."""


@app.command("compare")
def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a finished extract or evaluate.")],
    judge: Annotated[
        str, typer.Option(callback=o.plain_text, help="The other judge: local:MODEL or api:MODEL.", show_default=False)
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
    kind, _, which = judge.partition(":")
    if kind not in ("local", "api") or not which:
        raise UserError(f"--judge {judge!r} cannot score a finished run.", "Choose local:MODEL or api:MODEL.")
    terms = o.read_terms(judge, judge_price, judge_rpm)

    from personavec.judges.agreement import compare_run

    def make(trait: "Trait") -> "Scorer":
        from personavec.judges.scorer import RubricScorer

        if kind == "local":
            from personavec.judges.local import local_judges

            return RubricScorer(*local_judges(which, trait, lambda name: o.open_model(name, device, dtype)))
        from personavec.judges.api import ApiScorer, api_judges

        return ApiScorer(*api_judges(which, trait, **vars(terms)))

    result = compare_run(run, make, limit=limit, seed=seed)
    if json:
        o.print_json(result)
        return
    first, second = result["judges"]["first"], result["judges"]["second"]
    print(f"{result['trait']}: {result['rollouts']} rollouts of {run}, judged by {first} (first) and {second} (second)")
    if result["unscored"]:
        print(f"{second} gave no score for {result['unscored']} of them.")
    for what, heading in (("score", "trait score"), ("coherence", "coherence")):
        found = result[what]
        print(f"\n{heading}, {found['n']} answers with both scores (95 % intervals, n = questions)")
        rows = [
            ("rank correlation (Spearman)", found["spearman"], 2),
            ("mean absolute difference, points", found["mean_absolute_difference"], 1),
        ]
        if found["auc"] is not None:
            rows += [
                ("positive/negative pairs ordered alike", found["same_order"], 2),
                ("AUC between the sides, first", found["auc"]["first"], 2),
                ("AUC between the sides, second", found["auc"]["second"], 2),
            ]
        for name, estimate, places in rows:
            print(f"  {name:<38} {_figure(estimate, places)}")


def _figure(e: dict[str, Any], places: int) -> str:
    return f"{e['mean']:.{places}f} [{e['low']:.{places}f}, {e['high']:.{places}f}] n = {e['n']}"
