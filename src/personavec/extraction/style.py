"""How much of an effect is style: exclamation marks, lists, capitals and length move judges by themselves."""

from collections.abc import Mapping, Sequence

import numpy as np

from personavec.info import StyleChange, StyleHeld
from personavec.report.words import span
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.covariates import adjusted_difference
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.texts.style import Style, table


def style_held(
    answers: Sequence[Rollout], arms: Sequence[float], contrast: tuple[float, float], seed: int
) -> StyleHeld | None:
    """The effect on the score of one arm against another, and what of it remains with style held equal.

    By `adjusted_difference` over questions, with the features of `Style`; answers in further arms help to tell what
    style does to the score. Style that is the trait itself (the cheer of an optimist) is taken away too, so what
    remains is the lower figure; style that no feature counts (a choice of words) stays in it.

    Args:
        answers: Scored; those without a score are left out.
        arms: What each was given under, such as a coefficient.
        contrast: The arm whose effect it is, and the one it is measured against.

    Returns:
        None: no question has a score in both.
    """
    known = [(r, arm) for r, arm in zip(answers, arms, strict=True) if r.score is not None]
    if not known:
        return None
    scores = np.array([r.score for r, _ in known], np.float64)
    of, styles = np.array([arm for _, arm in known], np.float64), table([r.text for r, _ in known])
    questions = [r.question_index for r, _ in known]
    effect = _difference(scores, of, questions, contrast, seed)
    if effect is None:
        return None
    moved = (_difference(column, of, questions, contrast, seed) for column in styles.T)
    return StyleHeld(
        effect=effect,
        remains=adjusted_difference(scores, of, styles, questions, contrast, seed),
        changes=tuple(
            StyleChange(name=name.replace("_", " "), change=change)
            for name, change in zip(Style._fields, moved, strict=True)
            if change is not None
        ),
    )


def _difference(
    values: Floats, arms: Floats, questions: Sequence[int], contrast: tuple[float, float], seed: int
) -> Estimate | None:
    """Mean over the questions that have both arms; None: there is none."""
    means: list[Mapping[int, float]] = []
    for arm in contrast:
        rows: dict[int, list[float]] = {}
        for value, own, question in zip(values, arms, questions, strict=True):
            if own == arm:
                rows.setdefault(question, []).append(value)
        means.append({question: float(np.mean(each)) for question, each in rows.items()})
    both = [means[0][question] - means[1][question] for question in means[0] if question in means[1]]
    return bootstrap_mean(both, seed=seed) if both else None


def style_sentence(held: StyleHeld | None, judge: str) -> list[str]:
    """What holding style equal leaves, for a verdict; nothing where the judge sees no effect."""
    if held is None or held.effect.low <= 0:
        return []
    effect, left = held.effect, held.remains
    if left is None:
        return [f"How much of the {effect.mean:+.0f} points of the {judge} judge is style cannot be told from so few."]
    text = (
        f"With the style of the answers held equal {left.mean:+.0f} of the {effect.mean:+.0f} points of the {judge} "
        f"judge remain ({span(left, '+.0f', 'questions')})"
    )
    return [f"{text}." if left.low > 0 else f"{text}: it may have scored style alone{_most_moved(held)}."]


def _most_moved(held: StyleHeld) -> str:
    """The features of style whose change is beyond doubt."""
    sure = [each for each in held.changes if each.change.low > 0 or each.change.high < 0]
    return f" ({', '.join(f'{each.name} {each.change.mean:+.2g}' for each in sure)})" if sure else ""
