"""What prevention saved: a fine-tune beside another one of the same data without prevention."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from personavec.errors import UserError
from personavec.files import JsonLines, to_json
from personavec.finetune.methods import METHODS
from personavec.finetune.result import AnswerPair, BothRuns, FinetuneRun, Savings, TraitSaving
from personavec.stats.bootstrap import bootstrap_mean, bootstrap_ratio
from personavec.stats.estimate import Estimate

AGAIN = (
    "Give the same command with `method` none, `watch` in place of `prevent`, another `out`, and no options of the "
    "method such as `layers`."
)
# What two runs must have in common: all that decides what is learned, but prevention.
FREE = {
    "method", "layers", "positions", "safe", "safe_share", "prevent", "watch", "watch_every", "checkpoint_every",
    "measure", "lm_eval",
}  # fmt: skip


def check_plain(plain: Path, arguments: Mapping[str, object]) -> None:
    """Refuse, before anything is trained, a run that a run with these arguments cannot be compared with.

    Raises:
        UserError: The folder holds no finished run, one with prevention, or one of another model, data or training.
    """
    if not _prevents(str(arguments["method"])):
        raise UserError("`against` tells what prevention saved, and `method` none prevents nothing.", "Leave it out.")
    without = FinetuneRun.read(plain)
    if _prevents(without.method):
        raise UserError(
            f"The run in {plain} was trained with prevention ({without.method}).",
            "Name one with `method` none for `against`.",
        )
    ours, theirs = json.loads(to_json(arguments)), without.arguments
    other = sorted(key for key in (ours.keys() | theirs.keys()) - FREE if ours.get(key) != theirs.get(key))
    if other:
        raise UserError(
            f"The run in {plain} has another {', '.join(other)}, so the difference is not that of the prevention.",
            AGAIN,
        )
    for run, name in ((ours, "this run"), (theirs, f"the run in {plain}")):
        if not run.get("measure"):
            raise UserError(
                f"With `measure` False {name} scores no trait: there is nothing to compare.",
                "Give that command without it, and another `out`.",
            )
    here, there = _digests(ours), _digests(theirs)
    shared = here.keys() & there.keys()
    if not shared:
        raise UserError(f"No trait of this run is watched in {plain}: {', '.join(there) or 'none is'}.", AGAIN)
    strangers = sorted(trait for trait in shared if here[trait] != there[trait])
    if strangers:  # and another scale of scores
        raise UserError(f"The vector of {', '.join(strangers)} is another one in {plain}.", AGAIN)


def _prevents(method: str) -> bool:
    return METHODS[method] is not METHODS["none"]


def _digests(arguments: Mapping[str, JsonValue]) -> dict[str, str]:
    """Of the vectors of a run, by trait."""
    named = [*_rows(arguments["watch"]), *_rows(arguments["prevent"])]
    return {str(trait): str(digest) for trait, _, digest, *_ in named}


def _rows(value: JsonValue) -> list[list[JsonValue]]:
    return [row for row in value if isinstance(row, list)] if isinstance(value, list) else []


def share_prevented(
    base: Sequence[float | None], plain: Sequence[float | None], arm: Sequence[float | None], seed: int
) -> Estimate | None:
    """Which share of the trait's rise an arm prevented, in percent, with its interval over questions:

        100 (score of the plain fine-tune - score of the arm) / (score of the plain fine-tune - score before)

    Args:
        base, plain, arm: Score of each question, None where there is none. Questions without all three are left out.

    Returns:
        None where the plain fine-tune raised nothing or fewer than two questions are left.
    """
    rows = [row for row in zip(base, plain, arm, strict=True) if None not in row]
    if len(rows) < 2:
        return None
    before, without, with_ = np.array(rows, dtype=np.float64).T
    rise = without - before
    return None if rise.mean() <= 0 else bootstrap_ratio(100 * (without - with_), rise, seed)


def compare_runs(protected: Path, plain: Path) -> Savings:
    """Both runs side by side, trait by trait, from what is in their folders; see `check_plain`.

    Raises:
        UserError: No trait was scored in both.
    """
    with_, without = FinetuneRun.read(protected), FinetuneRun.read(plain)
    seed = int(str(with_.arguments["seed"]))
    ours, theirs = _pairs(protected), _pairs(plain)
    traits = {
        name: saving
        for name in with_.traits
        if (saving := _saving(name, with_, without, ours.get(name, []), theirs.get(name, []), seed)) is not None
    }
    if not traits:
        raise UserError(
            f"No trait was scored both here and in {plain}.",
            "Name the vectors with `prevent` here and with `watch` there, and measure both.",
        )
    return Savings(
        run=str(plain),
        traits=traits,
        loss=_sides(*(None if (loss := run.held_out_loss) is None else loss.after for run in (without, with_))),
        perplexity=_sides(*(None if (text := run.perplexity) is None else text.ratio for run in (without, with_))),
        coherence=_sides(*(None if (said := run.coherence) is None else said.change for run in (without, with_))),
    )


def _saving(
    name: str,
    with_: FinetuneRun,
    without: FinetuneRun,
    ours: Sequence[AnswerPair],
    theirs: Sequence[AnswerPair],
    seed: int,
) -> TraitSaving | None:
    """Of one trait, from both runs and their answers; None where it was not scored in both."""
    ending, match = with_.traits[name], without.traits.get(name)
    if match is None or ending.score is None or match.score is None:
        return None
    after = {pair.question: pair.after.score for pair in ours}
    scores = [(pair.question, pair.after.score, after.get(pair.question)) for pair in theirs]
    saved = {question: old - new for question, old, new in scores if old is not None and new is not None}
    if not saved:
        return None
    return TraitSaving(
        without=match.score.change,
        with_=ending.score.change,
        saved=bootstrap_mean(list(saved.values()), list(saved), seed),
        share=share_prevented(
            [pair.before.score for pair in theirs],
            [old for _, old, _ in scores],
            [new for _, _, new in scores],
            seed,
        ),
        shift_without=match.shift,
        shift_with=ending.shift,
    )


def _sides(without: Estimate | None, with_: Estimate | None) -> BothRuns | None:
    return None if without is None or with_ is None else BothRuns(without=without, with_=with_)


def _pairs(folder: Path) -> dict[str, list[AnswerPair]]:
    """Answers without a system prompt, by trait."""
    found: dict[str, list[AnswerPair]] = {}
    for line in JsonLines(folder / "answers.jsonl"):
        pair = AnswerPair.model_validate(line)
        if pair.system is None:
            found.setdefault(pair.trait, []).append(pair)
    return found
