"""Prompting as a baseline: the trait asked for in the system prompt, in place of steering."""

from collections.abc import Mapping, Sequence
from functools import partial

from personavec.extraction.effects import estimate, known
from personavec.info import Prompting
from personavec.report.words import span
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate


def prompting(
    instruction: str,
    prompted: Mapping[str, Sequence[Rollout]],
    dose: Mapping[str, Sequence[Rollout]],
    coefficient: float,
    seed: int,
) -> Prompting:
    """What asking for the trait does, beside steering at a coefficient.

    Args:
        instruction: The system prompt.
        prompted, dose: By judge, the same answers with its scores: under the system prompt, and under steering.
        coefficient: That the prompt is held against.
    """
    first, steered = next(iter(prompted.values())), next(iter(dose.values()))
    return Prompting(
        instruction=instruction,
        score={name: known(partial(estimate, scored, "score", seed)) for name, scored in prompted.items()},
        scored={name: sum(r.score is not None for r in scored) for name, scored in prompted.items()},
        answers=len(first),
        coherence=estimate(first, "coherence", seed),
        coefficient=coefficient,
        steered_coherence=estimate([r for r in steered if r.coefficient == coefficient], "coherence", seed),
        more={
            name: _difference(scored, [r for r in dose[name] if r.coefficient == coefficient], seed)
            for name, scored in prompted.items()
        },
    )


def _difference(prompted: Sequence[Rollout], steered: Sequence[Rollout], seed: int) -> Estimate | None:
    """Score of the prompted minus that of the steered, by question; None: no question has both."""
    asked, pushed = ({r.question_index: r.score for r in some if r.score is not None} for some in (prompted, steered))
    both = [score - pushed[question] for question, score in asked.items() if question in pushed]
    return bootstrap_mean(both, seed=seed) if both else None


def outcome(name: str, found: Prompting) -> str:
    """Whether a prompt would do, in one sentence without figures."""
    compared = _compared(found).values()
    if not compared:
        return f"Whether a prompt would do was not shown: no judge scored answers that were asked to be {name}."
    if all(more.high < 0 for more in compared):
        return "A prompt would do less than steering."
    if all(more.low > 0 for more in compared):
        return "A prompt would do, and better than steering."
    if all(more.high >= 0 for more in compared):
        return "A prompt would do, for all that these questions tell: it is not shown to do less than steering."
    return "Whether a prompt would do is in doubt: the judges disagree."


def _compared(found: Prompting) -> dict[str, Estimate]:
    return {judge: more for judge, more in found.more.items() if more is not None}


def sentences(name: str, found: Prompting | None) -> list[str]:
    """Whether a prompt would do, in words; none where it was not measured."""
    if found is None:
        return []
    compared = _compared(found)
    if not compared:
        return [outcome(name, found)]
    figures = "; ".join(
        f"by the {judge} judge {more.mean:+.0f} points against steering at {found.coefficient:+.3g} "
        f"({span(more, '+.0f', 'questions')})"
        for judge, more in compared.items()
    )
    leaning = ""
    if "contrast" in compared:
        leaning = "; the contrast judge compares instructions, and leans to answers that were told one"
    return [
        f"{outcome(name, found)} With the trait asked for in the system prompt, and no steering, the score is "
        f"{figures}, at coherence {found.coherence.mean:.0f} ({span(found.coherence, '.0f', 'questions')}), where that "
        f"steering has "
        f"{found.steered_coherence.mean:.0f} ({span(found.steered_coherence, '.0f', 'questions')}){leaning}."
    ]
