"""What prevention saved: a fine-tune beside another one of the same data without prevention."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.statistics import bootstrap_mean

# What two runs must have in common: all that decides what is learned, but prevention.
FREE = {"method", "layers", "positions", "safe", "safe_share", "prevent", "watch", "watch_every", "measure", "lm_eval"}


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
    ours, theirs = json.loads(json.dumps(arguments)), without["arguments"]
    other = sorted(key for key in (ours.keys() | theirs.keys()) - FREE if ours.get(key) != theirs.get(key))
    if other:
        raise UserError(
            f"The run in {plain} has another {', '.join(other)}, so the difference is not that of the prevention.",
            "Give the same command with --method none, --watch in place of --prevent, and another --out.",
        )
    again = "Give the same command with --method none, --watch in place of --prevent, and another --out, anew."
    for run, name in ((ours, "this run"), (theirs, f"the run in {plain}")):
        if not run.get("measure"):
            raise UserError(f"With --no-measure {name} scores no trait: there is nothing to compare.", "Leave it out.")
    here, there = _digests(ours), _digests(theirs)
    shared = here.keys() & there.keys()
    if not shared:
        raise UserError(f"No trait of this run is watched in {plain}: {', '.join(there) or 'none is'}.", again)
    strangers = sorted(trait for trait in shared if here[trait] != there[trait])
    if strangers:  # and another scale of scores
        raise UserError(f"The vector of {', '.join(strangers)} is another one in {plain}.", again)


def _digests(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Of the vectors of a run, by trait."""
    return {trait: digest for trait, _, digest, *_ in [*arguments["watch"], *arguments["prevent"]]}


def compare_runs(protected: Path, plain: Path) -> dict[str, Any]:
    """Both runs side by side, trait by trait, from what is in their folders; see `check_plain`.

    Returns:
        {"run": the folder of the plain one, "traits": {trait: {"without", "with": change of the score by training,
        "saved": score after training without prevention minus with it, by question, "shift_without", "shift_with"}},
        "loss": {"without", "with": of held-out samples after training}, "perplexity": the same of what training
        multiplied that of general text by, "coherence": of its change; each None if a run has none}: estimates

    Raises:
        UserError: No trait was scored in both.
    """
    with_, without = _read(protected), _read(plain)
    seed = with_["arguments"]["seed"]
    scores = _scores(protected), _scores(plain)
    traits = {}
    for name, found in with_["traits"].items():
        match = without["traits"].get(name)
        if match is None or found["score"] is None or match["score"] is None:
            continue
        both = [
            (question, old - new)
            for (trait, question), old in scores[1].items()
            if trait == name and old is not None and (new := scores[0].get((trait, question))) is not None
        ]
        if both:
            traits[name] = {
                "without": match["score"]["change"],
                "with": found["score"]["change"],
                "saved": bootstrap_mean([x for _, x in both], [q for q, _ in both], seed).as_dict(),
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
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"There is no finished run in {folder}.", "Name the folder of a fine-tune.") from error
    if run.get("command") != "finetune":
        raise UserError(f"The run in {folder} is no fine-tune.", "Name the folder of a fine-tune.")
    return dict(run)


def _scores(folder: Path) -> Mapping[tuple[str, str], float | None]:
    """By trait and question, after training."""
    return {(row["trait"], row["question"]): row["after"]["score"] for row in JsonLines(folder / "answers.jsonl")}
