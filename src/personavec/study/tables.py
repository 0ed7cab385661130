"""The study as a page of Markdown tables, to be kept and compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TITLES = {
    "shift, score": "Shift against the trait score after training",
    "shift, score when asked": "Shift against the trait score after training, under an instruction to show the trait",
    "difference, shift": "Projection difference before training against the shift",
    "difference, score": "Projection difference before training against the trait score after training",
}


def page(run: Mapping[str, Any]) -> str:
    """The content of run.json as Markdown."""
    traits = list(run["layers"])
    settings = run["arguments"]
    lines = [
        f"# Fine-tuning study on {run['model']['id']}",
        "",
        f"Written by `personavec study finetune`; {run['machine']['cpu']}, {run['machine']['device']}, "
        f"{run['model']['dtype']}, {run['written'][:10]}, personavec {run['personavec']}, transformers "
        f"{run['versions']['transformers']}, seed {settings['seed']}. Vectors: "
        + ", ".join(f"{name} at layer {layer}" for name, layer in run["layers"].items())
        + f". {len(run['suite'])} fine-tunes without prevention: {settings['samples']} samples a set, of which a "
        f"quarter is held out, {settings['epochs']:g} epochs, learning rate {settings['learning_rate']:g}, batch "
        f"{settings['batch']}, rsLoRA of rank {settings['rank']}. Scores: contrast judge, 0..100, "
        f"at most {settings['questions']} questions a trait in the suite, {settings['prevention_questions']} under "
        "prevention. Brackets: 95 % intervals.",
        "",
        "## In short",
        "",
        *(f"- {sentence}" for sentence in run["verdict"]),
        "",
        "## What goes with what",
        "",
        "Pearson's r over the fine-tunes; intervals draw whole families of data. Random: |r| that 95 in 100 random "
        "directions with the covariance of the model's readings stay below when put in the vector's place, and the "
        "vector's p among them. Others: the other traits' vectors in its place. Length: the mere length of the change. "
        "Coherence: r of the answers' mean coherence with the score; answers that fall apart have a score too.",
    ]
    for pair, title in TITLES.items():
        rows = []
        for name in traits:
            found = run["correlations"][name][pair]
            r, random = found["r"], found["random"]
            others = ", ".join(f"{other} {value:+.2f}" for other, value in found["others"].items())
            rows.append(
                [
                    name,
                    interval(r, 2),
                    str(r["runs"]),
                    str(r["n"]),
                    f"{random['p95']:.2f} ({random['p_value']:.2f})",
                    others,
                    "" if found["length"] is None else f"{found['length']:+.2f}",
                    interval(found["coherence"], 2),
                ]
            )
        head = ["trait", "r", "fine-tunes", "families", "random: p95 (p)", "others", "length", "coherence"]
        lines += ["", f"### {title}", "", *table(head, rows)]
    base = run["base"]
    lines += ["", "## Every fine-tune", ""]
    head = [
        "data",
        "held-out loss",
        *(f"{name}: {what}" for name in traits for what in ("difference", "shift", "score", "coherence")),
    ]
    rows = [["before training", ""]]
    for name in traits:
        rows[0] += ["", "", *(interval(base[name]["plain"][what]) for what in ("score", "coherence"))]
    for one in run["suite"]:
        loss = one["held_out_loss"]
        cells = [one["name"], f"{loss['before']['mean']:.2f} to {loss['after']['mean']:.2f}" if loss else ""]
        for name in traits:
            cells += [interval(one[what][name], 2) for what in ("difference", "shift")]
            cells += [interval(one["scores"][name][what]) for what in ("score", "coherence")]
        rows.append(cells)
    lines += table(head, rows)
    lines += [
        "",
        "## What every fine-tune changed",
        "",
        "Of the score, against the model before training on the same questions, without a system prompt and when asked "
        "for the trait: under its first positive instruction, behind which a trait may hide.",
        "",
    ]
    head = ["data", *(f"{name}: {what}" for name in traits for what in ("change", "when asked", "change when asked"))]
    rows = [["before training", *(cell for n in traits for cell in ("", interval(base[n]["instructed"]["score"]), ""))]]
    for one in run["suite"]:
        cells = [one["name"]]
        for name in traits:
            cells += [interval(one["scores"][name][what]) for what in ("change", "instructed", "instructed_change")]
        rows.append(cells)
    lines += table(head, rows)
    for name, found in run["prevention"].items():
        lines += ["", f"## Prevention, {name}", "", *_prevention(name, found)]
    return "\n".join(lines) + "\n"


def _prevention(name: str, found: Mapping[str, Any]) -> list[str]:
    base = {"arm": "before training", "kind": "base", "coefficient": None, **found["base"]["plain"], **found["base"]}
    base["instructed"] = base["instructed"]["score"]
    rows = []
    for arm in [base, *found["arms"]]:
        reference = arm["kind"] == "none"
        rows.append(
            [
                arm["arm"],
                "" if arm["coefficient"] is None else f"{arm['coefficient']:g}",
                interval(arm["score"]),
                "" if reference else interval(arm.get("prevented")),
                interval(arm["coherence"]),
                interval(arm.get("shift"), 2),
                interval(arm["task_loss"], 3),
                "" if reference else interval(arm["task_change"], 1),
                "" if reference else interval(arm["task_learned"]),
                "" if reference else interval(arm["perplexity_change"], 1),
                interval(arm.get("held_out_loss"), 2),
                interval(arm.get("instructed")),
                *("" if reference else _half(half) for half in arm.get("halves", ({}, {}))),
            ]
        )
    head = [
        "training", "coefficient", f"{name} score", "% of the rise prevented", "coherence", "shift", "loss on the task",
        "% more than without prevention", "% learned of it", "% more perplexity of general text", "held-out loss",
        "score when asked for it", "first half", "second half",
    ]  # fmt: skip
    return [
        f"On {found['data']} data, as many samples of the one as of the other; the vector's length is "
        f"{found['vector_norm']:g}. The loss on the task is that of {base['task_loss']['n']} unseen samples of it "
        "alone; learned of it is how far that fell from the loss before training, in % of how far it fell without "
        "prevention. The held-out loss is that of both kinds of samples, and rises where no trait is learned. Nothing "
        "is steered when it is measured, but in the last rows, where the fine-tune without prevention is steered at "
        "inference: answers and task on the response, general text on every token. When asked for it: under the "
        "trait's first positive instruction, behind which a trait may hide. Halves: of every other question and "
        "sample, what was prevented and the change of the loss; the best steering "
        f"is chosen by the first half and judged by the second. Shares are over {_questions(found['arms'])} questions, "
        f"perplexity over {base['perplexity_change']['n']} passages.",
        "",
        *table(head, rows),
    ]


def _half(found: Mapping[str, Any]) -> str:
    """What was prevented and the change of the loss on one half."""
    return "; ".join(filter(None, [interval(found.get("prevented")), interval(found.get("task_change"), 1)]))


def _questions(arms: Iterable[Mapping[str, Any]]) -> str:
    """Over how many questions the shares prevented are."""
    counts = {arm["prevented"]["n"] for arm in arms if arm["kind"] != "none" and arm["prevented"]}
    return " or ".join(map(str, sorted(counts))) or "no"


def interval(found: Mapping[str, Any] | None, digits: int = 0) -> str:
    """An estimate with its interval; empty where there is none."""
    if found is None:
        return ""
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
