"""The study as a page of Markdown tables, to be kept and compared."""

from collections.abc import Iterable, Sequence

from personavec.stats.estimate import Estimate
from personavec.study.result import AnswerScores, Arm, Correlation, HalfOutcome, StudyRun, TraitPrevention

TITLES = {
    "shift, score": "Shift against the trait score after training",
    "shift, score when asked": "Shift against the trait score after training, under an instruction to show the trait",
    "difference, shift": "Projection difference before training against the shift",
    "difference, score": "Projection difference before training against the trait score after training",
    "shift, score; domains out": "Shift against the trait score, without clean domains",
    "difference, shift; domains out": "Projection difference against the shift, without clean domains",
}


def page(run: StudyRun) -> str:
    """A study as Markdown."""
    lines = [
        f"# Fine-tuning study on {run.model.id}",
        "",
        _head(run),
        "",
        "## In short",
        "",
        *(f"- {sentence}" for sentence in run.verdict),
        "",
        *_correlations(run),
        "",
        "## Every fine-tune",
        "",
        *_suite(run),
        "",
        "## What every fine-tune changed",
        "",
        "Of the first judge's score, against the model before training on the same questions, without a system prompt"
        + (
            " and when asked for the trait: under its first positive instruction, behind which a trait may hide."
            if run.arguments["instructed"]
            else "."
        ),
        "",
        *_changes(run),
    ]
    for name, prevention in run.prevention.items():
        lines += ["", f"## Prevention, {name}", "", *_prevention(name, prevention)]
    return "\n".join(lines) + "\n"


def _head(run: StudyRun) -> str:
    settings = run.arguments
    return (
        f"Written by `personavec study finetune`; {run.machine.cpu}, {run.machine.device}, {run.model.dtype}, "
        f"{run.written[:10]}, personavec {run.personavec}, transformers {run.versions['transformers']}, seed "
        f"{settings['seed']}. Vectors: "
        + ", ".join(f"{name} at layer {layer}" for name, layer in run.layers.items())
        + f". {len(run.suite)} fine-tunes without prevention: {settings['samples']} samples a set, of which a "
        f"quarter is held out, {settings['epochs']:g} epochs, learning rate {settings['learning_rate']:g}, batch "
        f"{settings['batch']}, rsLoRA of rank {settings['rank']}. Scores: 0..100, "
        f"{' or '.join(dict.fromkeys(f'{judges[0]} judge' for judges in run.judges.values()))}, "
        f"at most {settings['questions']} questions a trait in the suite, {settings['prevention_questions']} under "
        "prevention. Brackets: 95 % intervals."
    )


def _correlations(run: StudyRun) -> list[str]:
    lines = [
        "## What goes with what",
        "",
        "Pearson's r over the fine-tunes; intervals draw whole families of data. Random: |r| that 95 in 100 random "
        "directions with the covariance of the model's readings stay below when put in the vector's place, and the "
        "vector's p among them. Others: the other traits' vectors in its place. Length: the mere length of the change. "
        "Coherence: r of the answers' mean coherence with the score; answers that fall apart have a score too. Within "
        "families: r of the same figures minus those of the family's normal level, which is left out; its p among "
        "random directions. Without clean domains: without what the mean readings of clean domains span.",
    ]
    head = [
        "trait", "r", "fine-tunes", "families", "random: p95 (p)", "others", "length", "coherence", "within families",
        "its p",
    ]  # fmt: skip
    for pair in dict.fromkeys(pair for pairs in run.correlations.values() for pair in pairs):
        rows = [_correlation(name, pairs[pair]) for name, pairs in run.correlations.items() if pair in pairs]
        lines += ["", f"### {_title(pair)}", "", *table(head, rows)]
    return lines


def _title(pair: str) -> str:
    """In words; the judge is named that is not the first."""
    known, by, judge = pair.partition(" by ")
    return f"{TITLES[known]}, by the judge {judge}" if by else TITLES[known]


def _correlation(name: str, pair: Correlation) -> list[str]:
    return [
        name,
        cell(pair.r, 2),
        str(pair.r.runs),
        str(pair.r.n),
        f"{pair.random.p95:.2f} ({pair.random.p_value:.2f})",
        ", ".join(f"{other} {value:+.2f}" for other, value in pair.others.items()),
        "" if pair.length is None else f"{pair.length:+.2f}",
        cell(pair.coherence, 2),
        *(("", "") if pair.within is None else (cell(pair.within.r, 2), f"{pair.within.random.p_value:.2f}")),
    ]


def _suite(run: StudyRun) -> list[str]:
    traits = list(run.layers)
    columns = [
        f"{name}: {what}"
        for name in traits
        for what in ("difference", "shift", "score", *(f"score by {j}" for j in run.judges[name][1:]), "coherence")
    ]
    before = ["before training", ""]
    for name in traits:
        before += ["", "", *_scores(run.base[name].plain)]
    rows = [before]
    for one in run.suite:
        loss = one.held_out_loss
        cells = [one.name, "" if loss is None else f"{loss.before.mean:.2f} to {loss.after.mean:.2f}"]
        for name in traits:
            cells += [cell(one.difference[name], 2), cell(one.shift[name], 2), *_scores(one.scores[name])]
        rows.append(cells)
    return table(["data", "held-out loss", *columns], rows)


def _scores(one: AnswerScores) -> list[str]:
    """By each judge, and the coherence."""
    return [*(cell(opinion.score) for opinion in (one, *one.others.values())), cell(one.coherence)]


def _changes(run: StudyRun) -> list[str]:
    traits, asked = list(run.layers), bool(run.arguments["instructed"])
    heads = ("change", "when asked", "change when asked") if asked else ("change",)
    rows = [["before training"]]
    for name in traits:
        rows[0] += ["", cell(run.base[name].instructed.score), ""][: len(heads)]
    for one in run.suite:
        cells = [one.name]
        for scores in (one.scores[name] for name in traits):
            cells += [cell(scores.change), cell(scores.instructed), cell(scores.instructed_change)][: len(heads)]
        rows.append(cells)
    return table(["data", *(f"{name}: {what}" for name in traits for what in heads)], rows)


def _prevention(name: str, prevention: TraitPrevention) -> list[str]:
    base = prevention.base
    before = [
        "before training", "", cell(base.plain.score), "", cell(base.plain.coherence), "", cell(base.task_loss, 3),
        cell(base.task_change, 1), cell(base.task_learned), cell(base.perplexity_change, 1), "",
        cell(base.instructed.score), "", "",
    ]  # fmt: skip
    head = [
        "training", "coefficient", f"{name} score", "% of the rise prevented", "coherence", "shift", "loss on the task",
        "% more than without prevention", "% learned of it", "% more perplexity of general text", "held-out loss",
        "score when asked for it", "first half", "second half",
    ]  # fmt: skip
    return [
        f"On {prevention.data} data, as many samples of the one as of the other; the vector's length is "
        f"{prevention.vector_norm:g}. The loss on the task is that of {base.task_loss.n} unseen samples of it "
        "alone; learned of it is how far that fell from the loss before training, in % of how far it fell without "
        "prevention. The held-out loss is that of both kinds of samples, and rises where no trait is learned. Nothing "
        "is steered when it is measured, but in the last rows, where the fine-tune without prevention is steered at "
        "inference: answers and task on the response, general text on every token. When asked for it: under the "
        "trait's first positive instruction, behind which a trait may hide. Halves: of every other question and "
        "sample, what was prevented and the change of the loss; the best steering "
        f"is chosen by the first half and judged by the second. Shares are over {_questions(prevention.arms)} "
        f"questions, perplexity over {base.perplexity_change.n} passages.",
        "",
        *table(head, [before, *(_arm(arm) for arm in prevention.arms)]),
    ]


def _arm(arm: Arm) -> list[str]:
    """A row; of the fine-tune without prevention nothing is compared with itself."""
    compared = [
        cell(arm.prevented), cell(arm.task_change, 1), cell(arm.task_learned), cell(arm.perplexity_change, 1),
        *(_half(half) for half in arm.halves),
    ]  # fmt: skip
    if arm.kind == "none":
        compared = [""] * len(compared)
    prevented, task_change, task_learned, perplexity_change, first, second = compared
    return [
        arm.arm, "" if arm.coefficient is None else f"{arm.coefficient:g}", cell(arm.score), prevented,
        cell(arm.coherence), cell(arm.shift, 2), cell(arm.task_loss, 3), task_change, task_learned, perplexity_change,
        cell(arm.held_out_loss, 2), cell(arm.instructed), first, second,
    ]  # fmt: skip


def _half(half: HalfOutcome) -> str:
    """What was prevented and the change of the loss on one half."""
    return "; ".join(filter(None, [cell(half.prevented), cell(half.task_change, 1)]))


def _questions(arms: Iterable[Arm]) -> str:
    """Over how many questions the shares prevented are."""
    counts = {arm.prevented.n for arm in arms if arm.kind != "none" and arm.prevented is not None}
    return " or ".join(map(str, sorted(counts))) or "no"


def cell(given: Estimate | None, digits: int = 0) -> str:
    """An estimate with its interval; empty where there is none."""
    return "" if given is None else f"{given:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
