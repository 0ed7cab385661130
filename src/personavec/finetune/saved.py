"""What prevention saved: a fine-tune beside another one of the same data without prevention."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personavec.errors import UserError
from personavec.files import JsonLines, to_json
from personavec.stats.bootstrap import bootstrap_mean, bootstrap_ratio

AGAIN = (
    "Give the same command with --method none, --watch in place of --prevent, another --out, and no options of the "
    "method such as --layers."
)
# What two runs must have in common: all that decides what is learned, but prevention.
FREE = {
    "method", "layers", "positions", "safe", "safe_share", "prevent", "watch", "watch_every", "checkpoint_every",
    "measure", "lm_eval",
}  # fmt: skip


def check_plain(plain: Path, arguments: Mapping[str, Any]) -> None:
    """Refuse, before anything is trained, a run that a run with these arguments cannot be compared with.

    Raises:
        UserError: The folder holds no finished run, one with prevention, or one of another model, data or training.
    """
    if arguments["method"] == "none":
        raise UserError("--against tells what prevention saved, and --method none prevents nothing.", "Leave it out.")
    without = _read(plain)
    if without["method"] != "none":
        raise UserError(
            f"The run in {plain} was trained with prevention ({without['method']}).",
            "Name one with --method none for --against.",
        )
    ours, theirs = json.loads(to_json(arguments)), without["arguments"]
    other = sorted(key for key in (ours.keys() | theirs.keys()) - FREE if ours.get(key) != theirs.get(key))
    if other:
        raise UserError(
            f"The run in {plain} has another {', '.join(other)}, so the difference is not that of the prevention.",
            AGAIN,
        )
    for run, name in ((ours, "this run"), (theirs, f"the run in {plain}")):
        if not run.get("measure"):
            raise UserError(
                f"With --no-measure {name} scores no trait: there is nothing to compare.",
                "Give that command without it, and another --out.",
            )
    here, there = _digests(ours), _digests(theirs)
    shared = here.keys() & there.keys()
    if not shared:
        raise UserError(f"No trait of this run is watched in {plain}: {', '.join(there) or 'none is'}.", AGAIN)
    strangers = sorted(trait for trait in shared if here[trait] != there[trait])
    if strangers:  # and another scale of scores
        raise UserError(f"The vector of {', '.join(strangers)} is another one in {plain}.", AGAIN)


def prevented(
    base: Sequence[float | None], plain: Sequence[float | None], arm: Sequence[float | None], seed: int
) -> dict[str, Any] | None:
    """Which share of the trait's rise an arm prevented, in percent, with its interval over questions:

        100 (score of the plain fine-tune - score of the arm) / (score of the plain fine-tune - score before)

    Args:
        base, plain, arm: Score of each question, None where there is none. Questions without all three are left out.

    Returns:
        An estimate, or None where the plain fine-tune raised nothing or fewer than two questions are left.
    """
    rows = [row for row in zip(base, plain, arm, strict=True) if None not in row]
    if len(rows) < 2:
        return None
    table = np.array(rows, dtype=np.float64)
    saved, rise = table[:, 1] - table[:, 2], table[:, 1] - table[:, 0]
    return None if rise.mean() <= 0 else bootstrap_ratio(100 * saved, rise, seed).as_dict()


def _digests(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Of the vectors of a run, by trait."""
    return {trait: digest for trait, _, digest, *_ in [*arguments["watch"], *arguments["prevent"]]}


def compare_runs(protected: Path, plain: Path) -> dict[str, Any]:
    """Both runs side by side, trait by trait, from what is in their folders; see `check_plain`.

    Returns:
        {"run": the folder of the plain one, "traits": {trait: {"without", "with": change of the score by training,
        "saved": score after training without prevention minus with it, by question, "share": see `prevented`,
        "shift_without", "shift_with"}},
        "loss": {"without", "with": of held-out samples after training}, "perplexity": the same of what training
        multiplied that of general text by, "coherence": of its change; each None if a run has none}: estimates

    Raises:
        UserError: No trait was scored in both.
    """
    with_, without = _read(protected), _read(plain)
    seed = with_["arguments"]["seed"]
    before, old, new = _scores(plain, "before"), _scores(plain, "after"), _scores(protected, "after")
    traits = {}
    for name, found in with_["traits"].items():
        match = without["traits"].get(name)
        if match is None or found["score"] is None or match["score"] is None:
            continue
        questions = [question for trait, question in old if trait == name]
        base, other, mine = ([one.get((name, question)) for question in questions] for one in (before, old, new))
        both = [(q, a - b) for q, a, b in zip(questions, other, mine, strict=True) if a is not None and b is not None]
        if both:
            traits[name] = {
                "without": match["score"]["change"],
                "with": found["score"]["change"],
                "saved": bootstrap_mean([x for _, x in both], [q for q, _ in both], seed).as_dict(),
                "share": prevented(base, other, mine, seed),
                "shift_without": match["shift"],
                "shift_with": found["shift"],
            }
    if not traits:
        raise UserError(
            f"No trait was scored both here and in {plain}.",
            "Name the vectors with --prevent here and with --watch there, and leave --no-measure out.",
        )

    def both_of(what: str, figure: str) -> dict[str, Any] | None:
        sides = {"without": without[what], "with": with_[what]}
        return None if None in sides.values() else {side: found[figure] for side, found in sides.items()}

    return {
        "run": str(plain),
        "traits": traits,
        "loss": both_of("held_out_loss", "after"),
        "perplexity": both_of("perplexity", "ratio"),
        "coherence": both_of("coherence", "change"),
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"There is no finished run in {folder}.", "Name the folder of a fine-tune.") from error
    if run.get("command") != "finetune":
        raise UserError(f"The run in {folder} is no fine-tune.", "Name the folder of a fine-tune.")
    return dict(run)


def _scores(folder: Path, when: str) -> Mapping[tuple[str, str], float | None]:
    """By trait and question, before or after training; without a system prompt."""
    rows = [row for row in JsonLines(folder / "answers.jsonl") if row.get("system") is None]
    return {(row["trait"], row["question"]): row[when]["score"] for row in rows}
