"""What a fine-tune did to the character, and at what cost, in sentences."""

from personavec.extraction.effects import NATURAL_SHARE
from personavec.finetune.automatic import told
from personavec.finetune.methods import METHODS
from personavec.finetune.result import Change, FinetuneRun, Savings, TraitChange, TraitSaving
from personavec.report.words import span
from personavec.shifts.verdict import ranking, sentence, shortened
from personavec.stats.estimate import Estimate

ONE_SEED = (
    "Both are single trainings: the intervals, over questions, do not hold what another seed would change. That "
    "prevention saves something is shown by three seeds of each."
)
NO_CHANGE = "no change can be told from none"


def verdict(run: FinetuneRun) -> list[str]:
    """Sentences about a fine-tune, the most important first: what became of the traits, prevention, cost."""
    return [*_traits(run), *_automatic(run), *_prevention(run), *_cost(run)]


def _traits(run: FinetuneRun) -> list[str]:
    if not run.measured:
        return [
            "The character was not measured (`measure` False): personavec shift and personavec evaluate do it later."
        ]
    if not run.traits:
        return ["No vector was measured, so nothing is known of the character: name some with `watch`."]
    names = sorted(ranking(run.traits), key=lambda name: not _certain(run.traits[name].score))
    sentences = [f"{sentence(name, run.traits[name])} {_scores(run.traits[name].score)}" for name in names]
    return [*sentences, *(sentence for name in names for sentence in _hidden(name, run.traits[name]))]


def _hidden(name: str, trait: TraitChange) -> list[str]:
    """Of a trait whose score rises under a system prompt of the training, and not clearly without."""
    if trait.score is not None and trait.score.change.low > 0:
        return []
    return [
        f"Under the system prompt {shortened(row.system)} its answers became more {name} all the same: "
        f"{_size(row.score.change, '+.1f', 'questions')}. A trait can hide behind such a prompt."
        for row in trait.systems
        if row.score is not None and row.score.change.low > 0
    ]


def _scores(score: Change | None) -> str:
    if score is None:
        return "No score of its answers is known before and after."
    means = f"{score.before.mean:.1f} before and {score.after.mean:.1f} after"
    size = _size(score.change, "+.1f", "questions")
    if _certain(score):
        return f"Its answers scored {means}, of 100: a change of {size}."
    return f"Its answers scored {means}, of 100; the change of {size} cannot be told from none."


def _prevention(run: FinetuneRun) -> list[str]:
    if run.method == "none" or not run.traits:
        return []
    sentences = []
    for prevented in run.prevented:
        data, trait = run.projection_differences.get(prevented.trait), run.traits.get(prevented.trait)
        if data is not None and trait is not None:
            sentences.append(_push(prevented.trait, data, trait.shift))
    phrase = METHODS[run.method].phrase
    if run.against is not None:
        return [*sentences, *_savings(phrase, run.against)]
    sentences.append(
        f"What {phrase} saved, one run cannot tell: give the same command with `method` none, "
        "`watch` in place of `prevent`, another `out` and no options of the method such as `layers`, and then this one "
        "again with `against` and that folder."
    )
    return sentences


def _automatic(run: FinetuneRun) -> list[str]:
    """What became of coefficients that followed the shift."""
    return [told(one.trait, one.auto, run.training_seconds) for one in run.prevented if one.auto is not None]


def _push(name: str, data: Estimate, shift: Estimate) -> str:
    """What the data promised, and what came of it."""
    size = _size(data, "+.2f", "samples")
    if data.low > 0:
        push = f"The data lie toward {name}: their answers lie {size} along its vector from the model's own."
    elif data.high < 0:
        push = f"The data lie away from {name}: their answers lie {size} along its vector from the model's own."
    else:
        push = f"No shift of the data along {name} can be told from none ({size})."
    return f"{push} After training the model's own prompts lie {shift.mean:+.2f} along it."


def _savings(phrase: str, savings: Savings) -> list[str]:
    """What a run without prevention has more of, and what it learned better."""
    sentences = [_saving(phrase, name, saving) for name, saving in savings.traits.items()]
    sentences.append(ONE_SEED)
    if savings.loss is not None:
        without, with_ = savings.loss.without, savings.loss.with_
        sentences.append(
            f"Loss on held-out samples after training: {without.mean:.2f} without prevention, "
            f"{with_.mean:.2f} with it (n = {with_.n} samples)."
        )
    for sides, what, form, units in (
        (savings.perplexity, "multiplied the perplexity of general text by", ".3f", "passages"),
        (savings.coherence, "changed the coherence of the answers by", "+.1f", "questions"),
    ):
        if sides is not None:
            first, second = (_size(side, form, units) for side in (sides.without, sides.with_))
            sentences.append(f"Training {what} {first} without prevention and by {second} with it.")
    return sentences


def _saving(phrase: str, name: str, saving: TraitSaving) -> str:
    rises = f"{saving.without.mean:+.1f} points without prevention and {saving.with_.mean:+.1f} with it"
    size = _size(saving.saved, "+.1f", "questions")
    if not saving.without.low > 0:
        what = "without it there was no rise that could be told from none"
    elif saving.saved.low > 0:
        what = f"{phrase} saved some of the rise"
        if (share := saving.share) is not None:
            size = f"{share.mean:.0f} % of the rise ({span(share, '.0f')}{' %' if share.bounded else ''})"
            what = f"{phrase} saved {size}"
    else:
        what = "no saving can be told from none"
    return f"Training changed the {name} score by {rises}, a difference of {size}: {what}."


def _cost(run: FinetuneRun) -> list[str]:
    return [*_loss(run), *_perplexity(run), *_coherence(run), *_tasks(run)]


def _loss(run: FinetuneRun) -> list[str]:
    loss = run.held_out_loss
    if loss is None:
        return ["No sample was held out, so how well the task was learned is not known."]
    size = f"{_sides(loss.before, loss.after, '.2f')} nats per token, a change of "
    size += _size(loss.change, "+.2f", "samples")
    return [f"Loss on held-out samples: {size}: {_way(loss.change, 0, 'it fell', 'it rose')}."]


def _perplexity(run: FinetuneRun) -> list[str]:
    text = run.perplexity
    if text is None:
        return []
    size = f"{_sides(text.before, text.after, '.2f')}, a factor of {_size(text.ratio, '.3f', 'passages')}"
    return [f"Perplexity on general text: {size}: {_way(text.ratio, 1, 'it fell', 'this is a cost')}."]


def _coherence(run: FinetuneRun) -> list[str]:
    coherence = run.coherence
    if coherence is None:
        return []
    size = f"{_sides(coherence.before, coherence.after, '.1f')} of 100, a change of "
    size += _size(coherence.change, "+.1f", "questions")
    broken = coherence.after.mean < NATURAL_SHARE * coherence.before.mean
    warning = " So much is lost that the scores may tell of a broken model more than of a character."
    what = _way(coherence.change, 0, "this is a cost", "it rose")
    return [f"Coherence of the answers: {size}: {what}.{warning if broken else ''}"]


def _tasks(run: FinetuneRun) -> list[str]:
    """Of each task its first metric."""
    sentences = []
    for task, metrics in (run.lm_eval or {}).items():
        for metric, sides in list(metrics.items())[:1]:
            if sides.after is None or sides.change is None:
                continue
            size = f"{_sides(sides.before, sides.after, '.3f')}, a change of "
            size += _size(sides.change, "+.3f", "documents")
            worse = "this is a cost" if sides.better is True else "it fell"
            better = "this is a cost" if sides.better is False else "it rose"
            sentences.append(f"Task {task}, {metric}: {size}: {_way(sides.change, 0, worse, better)}.")
    return sentences


def _sides(before: Estimate, after: Estimate, form: str) -> str:
    return f"{before.mean:{form}} before and {after.mean:{form}} after"


def _size(given: Estimate, form: str, units: str) -> str:
    return f"{given.mean:{form}} ({span(given, form, units)})"


def _certain(score: Change | None) -> bool:
    return score is not None and not score.change.low <= 0 <= score.change.high


def _way(change: Estimate, zero: float, below: str, above: str) -> str:
    """Which way a change went; a single value has no interval, and tells nothing."""
    if change.n < 2:
        return NO_CHANGE
    return below if change.high < zero else above if change.low > zero else NO_CHANGE
