"""What a run's figures say, in plain words, and where they say nothing."""

from personavec.extraction import prompting
from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.elicitation import elicited, sentences
from personavec.extraction.result import ExtractionRun, Specificity
from personavec.extraction.style import style_sentence
from personavec.report.words import span
from personavec.stats.estimate import Estimate


def verdict(run: ExtractionRun) -> tuple[str, ...]:
    """Sentences for the summary of an extraction, most important first."""
    name = run.trait.name
    told = sentences(run.elicitation, run.judge.name, run.judge.auc)
    shown = elicited(run.elicitation)
    return (
        *([] if shown else told),
        _steering(name, run),
        *style_sentence(run.steering.style, run.judge.name),
        *prompting.sentences(name, run.prompting),
        _strength(run),
        _separation(name, run),
        *_specificity(name, run.specificity),
        _judge(run),
        *(told if shown else []),
    )


def brief(run: ExtractionRun) -> tuple[str, ...]:
    """The same in a few lines, for a terminal: the page has the rest."""
    name, steering = run.trait.name, run.steering
    told = sentences(run.elicitation, run.judge.name, run.judge.auc)
    asked = [] if run.prompting is None else [prompting.outcome(name, run.prompting)]
    moved = (
        f"Points moved from {-steering.coefficient:g} to {steering.coefficient:+g}: {run.judge.name} "
        f"{steering.effect:+.0f} (n = {steering.effect.n}; random directions up to "
        f"{max(map(abs, steering.null.effects)):.0f})."
    )
    return (*([] if elicited(run.elicitation) else told[:1]), f"{_outcome(name, run)}.", moved, *asked, _strength(run))


def _outcome(name: str, run: ExtractionRun) -> str:
    if run.steering.effect.low <= 0:
        return f"Steering by the vector does not reliably make the answers more {name}"
    if run.steering.effect_on_null_questions > max(map(abs, run.steering.null.effects)):
        return f"Steering by the vector changes how {name} the answers are, more than chance directions did"
    return "Steering by the vector moves the score, but chance does as much"


def _steering(name: str, run: ExtractionRun) -> str:
    effect, null, at = run.steering.effect, run.steering.null, run.steering.coefficient
    same, strongest = run.steering.effect_on_null_questions, max(map(abs, null.effects))
    figures = (
        f"from -{at:g} to +{at:g} the score moves by {effect.mean:.0f} points "
        f"({span(effect, '.0f', 'evaluation questions')})"
    )
    chance = (
        f"on the {NULL_QUESTIONS} questions where {null.n} random directions of equal norm were tried, each at the "
        f"layer it chose, the strongest of them moves it by {strongest:.0f} and this vector by {same:.0f} "
        f"(p = {null.p:.2f})"
    )
    return f"{_outcome(name, run)}: {figures}; {chance}."


def _strength(run: ExtractionRun) -> str:
    low, high = run.coherent_range
    best = run.recommended_coefficient
    if run.steering.effect.low <= 0:
        return "No coefficient is recommended: none was shown to work."
    if best is None:
        return "No coefficient is recommended: at no positive one that was tried do answers stay coherent."
    coherent = f"Of those tried, answers stay coherent (at least 80 % of natural) from {low:g} to {high:g}."
    return f"{recommended(best)} {coherent}"


def recommended(best: float) -> str:
    """The one thing to say of strength."""
    return f"Recommended strength: coefficients up to {best:.3g}."


def _separation(name: str, run: ExtractionRun) -> str:
    auc, null = run.separation.auc, run.separation.null.shuffled
    text = (
        f"On unseen questions, under an unseen instruction that is left out in reading, projections tell {name} "
        f"answers from the opposite with AUC {auc.mean:.2f} ({auc.low:.2f} to {auc.high:.2f}); directions made the "
        f"same way of answers whose sides were shuffled, with their own choice of layer, reach {null.mean:.2f} on "
        f"average and {null.p95:.2f} at the 95th percentile"
    )
    if auc.mean > null.p95:
        return f"{text}, so the separation is more than chance gives."
    return f"{text}: the separation alone proves nothing about this trait."


def _specificity(name: str, table: Specificity) -> list[str]:
    if len(table.vectors) < 2:
        return [
            "Whether the direction is specific to this trait is not known: no other trait was extracted beside it. "
            "Extract others into folders beside it and repeat this command: the report will compare them."
        ]
    row = table.vectors.index(name)
    cosines = {other: c for other, c in zip(table.vectors, table.cosine[row], strict=True) if other != name}
    closest = max(cosines, key=lambda other: abs(cosines[other]))
    return [
        f"Its nearest neighbour is the vector of {closest} (cosine {cosines[closest]:.2f}).",
        *_on_own_score(name, table),
        *_on_other_scores(name, table),
    ]


def _on_own_score(name: str, table: Specificity) -> list[str]:
    """Whether other vectors move this score as much: the same judge's points, by intervals."""
    at = table.vectors.index(name)
    column = {other: effects[at] for other, effects in zip(table.vectors, table.effect, strict=True)}
    own = column.pop(name)
    rivals = {other: e for other, e in column.items() if e is not None}
    if own is None or not rivals:
        return []
    surely = 0.0 if own.low <= 0 <= own.high else min(abs(own.low), abs(own.high))
    near = [other for other, e in rivals.items() if max(abs(e.low), abs(e.high)) >= surely]
    if not near:
        return [f"Its own score no other vector moves as much ({_points(own)} by this one)."]
    return [
        f"Its own score ({_points(own)} by this one) may move as much by the vectors of "
        + ", ".join(f"{other} ({_points(rivals[other])})" for other in near)
        + "."
    ]


def _on_other_scores(name: str, table: Specificity) -> list[str]:
    """The other score that it moves most. Points of two judges are no one unit: each beside its own vector's effect."""
    at, shares = table.vectors.index(name), {}
    for k, other in enumerate(table.vectors):
        moved, native = table.effect[at][k], table.effect[k][k]
        if k != at and moved is not None and native is not None and native.mean:
            shares[other] = (abs(moved.mean / native.mean), moved, native)
    if not shares:
        return []
    most = max(shares, key=lambda other: shares[other][0])
    share, moved, native = shares[most]
    return [
        f"Of the other scores, each beside what its own trait's vector does to it, it moves that of {most} most: "
        f"{_points(moved)}, which is {100 * share:.0f} % of {_points(native)}."
    ]


def _points(effect: Estimate) -> str:
    return f"{effect.mean:.0f} points, {span(effect, '.0f', 'questions')}"


def _judge(run: ExtractionRun) -> str:
    auc = run.judge.auc
    return (
        f"All scores are those of the {run.judge.name} judge, which tells the sides apart on unseen questions "
        f"with AUC {auc.mean:.2f} ({auc.low:.2f} to {auc.high:.2f}, n = {auc.n} questions)."
    )
