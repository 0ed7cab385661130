"""What the figures of an extraction from given texts say, in plain words, and what they do not show."""

from collections.abc import Sequence

from personavec.extraction import prompting
from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.given.result import Opinion, TextsRun, Twin
from personavec.extraction.given.steering import EFFECT
from personavec.extraction.style import style_sentence
from personavec.extraction.verdict import recommended
from personavec.report.words import span


def verdict(run: TextsRun) -> tuple[str, ...]:
    """Sentences for the summary, most important first."""
    return (
        _headline(run),
        *(sentence for judge in run.judges for sentence in (_effect(run, judge), *_of_style(judge))),
        *prompting.sentences(run.trait.name, run.prompting),
        _strength(run),
        _reading(run),
        _style(run),
        _judges(run),
        *(_twin(run, twin) for twin in run.twins),
        _not_shown(run),
    )


def brief(run: TextsRun) -> tuple[str, ...]:
    """The same in a few lines, for a terminal: the page has the rest."""
    asked = [] if run.prompting is None else [prompting.outcome(run.trait.name, run.prompting)]
    return (_headline(run), *_moved(run), *asked, _recommended(run))


def works(judge: Opinion) -> bool:
    """Whether the judge sees an effect of steering."""
    return judge.steering is not None and judge.steering.effect.low > 0


def reads(run: TextsRun) -> bool:
    """Whether the vector tells texts apart that it is not made of."""
    return run.separation.auc.low > 0.5


def _reads_by_chance(run: TextsRun) -> bool:
    """Whether random directions tell them apart as well."""
    return run.separation.auc.mean <= max(run.controls.isotropic.p95, run.separation.null.isotropic.p95)


def _headline(run: TextsRun) -> str:
    name, seen = run.trait.name, [judge for judge in run.judges if works(judge)]
    reading = f"reads {name} in texts" if reads(run) else f"was not shown to read {name} in texts"
    if reads(run) and _reads_by_chance(run):
        reading += ", though no better than chance directions do"
    if not seen:
        return f"The vector {reading}; that it steers was not shown: no judge sees the answers become more {name}."
    if len(seen) < len(run.judges):
        other = next(judge.name for judge in run.judges if judge not in seen)
        return (
            f"The vector {reading}; whether it steers is in doubt: the {seen[0].name} judge sees the answers become "
            f"more {name}, the {other} judge does not."
        )
    if chance := [judge.name for judge in seen if not _beats_chance(judge)]:
        return (
            f"The vector {reading}, and both judges see the answers become more {name}; but to the "
            f"{' and the '.join(chance)} judge a random direction does as much."
        )
    counts = min(judge.steering.null.n for judge in seen if judge.steering is not None)
    return (
        f"The vector {reading}, and steers: both judges see the answers become more {name}, more than under any of "
        f"{counts} random directions."
    )


def _beats_chance(judge: Opinion) -> bool:
    found = judge.steering
    return found is not None and found.effect_on_null_questions > max(map(abs, found.null.effects))


def _effect(run: TextsRun, judge: Opinion) -> str:
    found = judge.steering
    if found is None:
        return f"The {judge.name} judge scored too few of the steered answers to tell an effect."
    low, high = (_share(-EFFECT), _share(EFFECT))
    return (
        f"By the {judge.name} judge, pushing by {high} of the residual norm instead of {low} moves the score by "
        f"{found.effect.mean:+.0f} points ({span(found.effect, '+.0f', 'questions')}); on {NULL_QUESTIONS} of the "
        f"questions by {found.effect_on_null_questions:+.0f}, where the strongest of {found.null.n} random directions "
        f"of equal norm moves it by {max(map(abs, found.null.effects)):.0f}{_unscored(run, judge)}."
    )


def _moved(run: TextsRun) -> list[str]:
    found = {judge.name: judge.steering for judge in run.judges if judge.steering is not None}
    moved = (
        f"{name} {steering.effect:+.0f} (n = {steering.effect.n}; random directions "
        f"up to {max(map(abs, steering.null.effects)):.0f})"
        for name, steering in found.items()
    )
    heading = f"Points moved from a push of {_share(-EFFECT)} to {_share(EFFECT)}"
    return [f"{heading}: {', '.join(moved)}."] if found else []


def _of_style(judge: Opinion) -> list[str]:
    return [] if judge.steering is None else style_sentence(judge.steering.style, judge.name)


def _unscored(run: TextsRun, judge: Opinion) -> str:
    """Answers without a score say something that the mean of the others does not."""
    counts = [
        f"{push.answers - push.scored[judge.name]} of {push.answers} at {_share(push.share)}"
        for push in run.pushes
        if push.scored.get(judge.name, push.answers) < push.answers
    ]
    return f". Without a score: {', '.join(counts)}" if counts else ""


def _strength(run: TextsRun) -> str:
    low, high = (coefficient / run.unit for coefficient in run.coherent_range)
    return (
        f"{_recommended(run)} Of the pushes tried, answers stay coherent (at least 80 % of natural, as the model "
        f"itself judges) from {_share(low)} to {_share(high)}."
    )


def _recommended(run: TextsRun) -> str:
    if run.recommended_coefficient is not None:
        return recommended(run.recommended_coefficient)
    if all(map(works, run.judges)):
        return "No coefficient is recommended: at no positive one that was tried do answers stay coherent."
    return "No coefficient is recommended: not both judges see one work."


def _reading(run: TextsRun) -> str:
    auc, null = run.separation.auc, run.controls
    text = (
        f"On {run.texts.test} texts about other questions, projections at layer {run.layer} tell {run.trait.name} from "
        f"not with AUC {auc.mean:.2f} ({span(auc, '.2f', 'questions')}); random directions reach "
        f"{null.isotropic.p95:.2f} at the 95th percentile there, and vectors made the same way of shuffled sides, at "
        f"layers of their choice, {run.separation.null.shuffled.p95:.2f}."
    )
    if null.halves_cosine is None:
        return text
    return f"{text} Vectors of two random halves of the texts have cosine {null.halves_cosine:.2f}."


def _style(run: TextsRun) -> str:
    strongest = max(run.controls.style, key=lambda feature: abs(feature.auc.mean - 0.5))
    equal = run.controls.style_held_equal
    text = (
        f"Of seven features of style, {strongest.name} alone tells the sides of these texts apart best, with AUC "
        f"{strongest.auc.mean:.2f}; with all of them held equal the vector's is {equal.mean:.2f} "
        f"({span(equal, '.2f')})"
    )
    return f"{text}." if equal.low > 0.5 else f"{text}: what it reads may be style."


def _judges(run: TextsRun) -> str:
    parts = []
    for judge in run.judges:
        auc = "could not be tried" if judge.auc is None else f"AUC {judge.auc.mean:.2f} ({span(judge.auc, '.2f')})"
        rank = "" if judge.spearman is None else f", Spearman {judge.spearman:.2f}"
        parts.append(f"{judge.name} {auc}{rank}")
    return f"How well the judges themselves tell the sides of those texts apart: {'; '.join(parts)}."


def _twin(run: TextsRun, twin: Twin) -> str:
    return (
        f"The vector from the model's own answers in {twin.folder} has cosine {twin.cosine:.2f} with this one at layer "
        f"{run.layer} and {twin.cosine_there:.2f} at its layer {twin.layer}, and tells the same texts apart with AUC "
        f"{twin.auc.mean:.2f} ({span(twin.auc, '.2f')})."
    )


def _not_shown(run: TextsRun) -> str:
    missing: Sequence[str] = [
        f"that a person would call the steered answers {run.trait.name} (read those drawn at random)",
        "that the direction means this trait alone and no other",
        *(() if run.texts.source == "library" else ("that it holds for texts by others than those who wrote these",)),
    ]
    return f"Not shown: {'; '.join(missing)}."


def _share(share: float) -> str:
    return "0" if abs(share) < 1e-9 else f"{100 * share:+.3g} %"
