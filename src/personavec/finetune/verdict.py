"""What a fine-tune did to the character, and at what cost, in sentences."""

from collections.abc import Mapping
from typing import Any

from personavec.extraction.effects import NATURAL_SHARE
from personavec.shifts.verdict import ranked, sentence, shortened

PREVENTIONS = {
    "steer": "preventative steering",
    "ablate": "ablation",
    "regularise": "a penalty on the projection",
    "prompt": "preventative prompting",
    "interleave": "mixing safe data in",
}


def verdict(run: Mapping[str, Any]) -> list[str]:
    """Sentences about a fine-tune, the most important first: what became of the traits, prevention, cost.

    Args:
        run: The content of run.json.
    """
    return [*_traits(run), *_prevention(run), *_cost(run)]


def _traits(run: Mapping[str, Any]) -> list[str]:
    if not run["measured"]:
        return ["The character was not measured (--no-measure): personavec shift and personavec evaluate do it later."]
    if not run["traits"]:
        return ["No vector was measured, so nothing is known of the character: name some with --watch."]
    moved = ranked(run["traits"])
    told = sorted(moved, key=lambda name: not _certain((run["traits"][name]["score"] or {}).get("change")))
    sentences = [f"{sentence(name, run['traits'][name])} {_scores(run['traits'][name])}" for name in told]
    return [*sentences, *(sentence for name in told for sentence in _hidden(name, run["traits"][name]))]


def _hidden(name: str, found: Mapping[str, Any]) -> list[str]:
    """Of a trait whose score rises under a system prompt of the training, and not clearly without."""
    open_ = found["score"] is not None and found["score"]["change"]["low"] > 0
    return [
        f"Under the system prompt {shortened(row['system'])} its answers became more {name} all the same: "
        f"{_interval(row['score']['change'], '+.1f', 'questions')}. A trait can hide behind such a prompt."
        for row in found["systems"]
        if not open_ and row["score"] is not None and row["score"]["change"]["low"] > 0
    ]


def _scores(found: Mapping[str, Any]) -> str:
    score = found["score"]
    if score is None:
        return "No score of its answers is known before and after."
    means = f"{score['before']['mean']:.1f} before and {score['after']['mean']:.1f} after"
    size = _interval(score["change"], "+.1f", "questions")
    if _certain(score["change"]):
        return f"Its answers scored {means}, of 100: a change of {size}."
    return f"Its answers scored {means}, of 100; the change of {size} cannot be told from none."


def _prevention(run: Mapping[str, Any]) -> list[str]:
    if run["method"] == "none" or not run["traits"]:
        return []
    sentences = []
    for one in run["prevented"]:
        name = one["trait"]
        data, found = run["projection_differences"].get(name), run["traits"].get(name)
        if data is None or found is None:
            continue
        size = _interval(data, "+.2f", "samples")
        if data["low"] > 0:
            push = f"The data push toward {name}: their answers lie {size} along its vector from the model's own."
        elif data["high"] < 0:
            push = f"The data push away from {name}: their answers lie {size} along its vector from the model's own."
        else:
            push = f"No push of the data along {name} can be told from none ({size})."
        sentences.append(f"{push} After training the model's own prompts lie {found['shift']['mean']:+.2f} along it.")
    if run["against"] is not None:
        return [*sentences, *_saved(run)]
    sentences.append(
        f"What {PREVENTIONS[run['method']]} saved, one run cannot tell: give the same command with --method none, "
        "--watch in place of --prevent, another --out and no options of the method such as --layers, and then this one "
        "again with --against and that folder."
    )
    return sentences


def _saved(run: Mapping[str, Any]) -> list[str]:
    """What a run without prevention has more of, and what it learned better."""
    other, sentences = run["against"], []
    for name, found in other["traits"].items():
        rises = f"{found['without']['mean']:+.1f} points without prevention and {found['with']['mean']:+.1f} with it"
        size = _interval(found["saved"], "+.1f", "questions")
        if not found["without"]["low"] > 0:
            told = "without it there was no rise that could be told from none"
        elif found["saved"]["low"] > 0:
            told = f"{PREVENTIONS[run['method']]} saved some of the rise"
            if (share := found["share"]) is not None:
                size = f"{share['mean']:.0f} % of the rise (95 % interval {share['low']:.0f} to {share['high']:.0f} %)"
                told = f"{PREVENTIONS[run['method']]} saved {size}"
        else:
            told = "no saving can be told from none"
        sentences.append(f"Training changed the {name} score by {rises}, a difference of {size}: {told}.")
    if other["loss"] is not None:
        sides = other["loss"]
        sentences.append(
            f"Loss on held-out samples after training: {sides['without']['mean']:.2f} without prevention, "
            f"{sides['with']['mean']:.2f} with it (n = {sides['with']['n']} samples)."
        )
    for key, what, form, units in (
        ("perplexity", "multiplied the perplexity of general text by", ".3f", "passages"),
        ("coherence", "changed the coherence of the answers by", "+.1f", "questions"),
    ):
        if other.get(key) is not None:
            without, with_ = (_interval(other[key][side], form, units) for side in ("without", "with"))
            sentences.append(f"Training {what} {without} without prevention and by {with_} with it.")
    return sentences


def _cost(run: Mapping[str, Any]) -> list[str]:
    loss, perplexity, coherence = run["held_out_loss"], run["perplexity"], run["coherence"]
    if loss is None:
        sentences = ["No sample was held out, so how well the task was learned is not known."]
    else:
        size = f"{_sides(loss, '.2f')} nats per token, a change of {_interval(loss['change'], '+.2f', 'samples')}"
        what = _which(loss["change"], 0, "it fell", "it rose", "no change can be told from none")
        sentences = [f"Loss on held-out samples: {size}: {what}."]
    if perplexity is not None:
        size = f"{_sides(perplexity, '.2f')}, a factor of {_interval(perplexity['ratio'], '.3f', 'passages')}"
        what = _which(perplexity["ratio"], 1, "it fell", "this is a cost", "no change can be told from none")
        sentences.append(f"Perplexity on general text: {size}: {what}.")
    if coherence is not None:
        size = f"{_sides(coherence, '.1f')} of 100, a change of {_interval(coherence['change'], '+.1f', 'questions')}"
        what = _which(coherence["change"], 0, "this is a cost", "it rose", "no change can be told from none")
        broken = coherence["after"]["mean"] < NATURAL_SHARE * coherence["before"]["mean"]
        warning = " So much is lost that the scores may tell of a broken model more than of a character."
        sentences.append(f"Coherence of the answers: {size}: {what}.{warning if broken else ''}")
    for task, metrics in (run["lm_eval"] or {}).items():
        for metric, found in list(metrics.items())[:1]:
            size = f"{_sides(found, '.3f')}, a change of {_interval(found['change'], '+.3f', 'documents')}"
            worse, better = {True: ("this is a cost", "it rose"), False: ("it fell", "this is a cost")}.get(
                found["better"], ("it fell", "it rose")
            )
            what = _which(found["change"], 0, worse, better, "no change can be told from none")
            sentences.append(f"Task {task}, {metric}: {size}: {what}.")
    return sentences


def _sides(found: Mapping[str, Any], form: str) -> str:
    return f"{found['before']['mean']:{form}} before and {found['after']['mean']:{form}} after"


def _interval(found: Mapping[str, Any], form: str, units: str) -> str:
    low, high = f"{found['low']:{form}}", f"{found['high']:{form}}"
    return f"{found['mean']:{form}} (95 % interval {low} to {high}, n = {found['n']} {units})"


def _certain(change: Mapping[str, Any] | None) -> bool:
    return change is not None and not change["low"] <= 0 <= change["high"]


def _which(change: Mapping[str, Any], zero: float, below: str, above: str, neither: str) -> str:
    """Which of three ways a change went; a single value has no interval, and tells nothing."""
    if change["n"] < 2:
        return neither
    return below if change["high"] < zero else above if change["low"] > zero else neither
