"""Answers to the evaluation questions at several coefficients: the dose-response."""

from collections.abc import Iterator, Sequence

from personavec.extraction.workbench import Workbench
from personavec.interventions import steering
from personavec.rollouts import Rollout
from personavec.vector import PersonaVector

DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)  # coefficients, in multiples of the sweep's


def dose_rollouts(bench: Workbench, vector: PersonaVector, scale: float) -> list[Rollout]:
    """Answers to the evaluation questions at the vector's layer, `scale` being the largest coefficient."""
    dose: list[Rollout] = []
    for coefficient in (share * scale for share in DOSES):
        edits = steering(vector, coefficient, positions=bench.settings.positions) if coefficient else []
        dose += bench.steered("dose", edits, bench.trait.evaluation_questions, vector.layer, coefficient)
    bench.generate(dose, "5/5 Steering")
    bench.score(dose, "5/5 Judging")
    return dose


def unscored(dose: Sequence[Rollout]) -> Iterator[str]:
    """Warnings: refusals and their like say something about a coefficient that its score does not show."""
    for coefficient in sorted({r.coefficient for r in dose if r.coefficient is not None}):
        answers = [r for r in dose if r.coefficient == coefficient]
        if count := sum(r.score is None for r in answers):
            yield (
                f"At coefficient {coefficient:+g}, {count} of {len(answers)} answers have no score: refusals, "
                "empty answers, or such that the judge named no number for. The mean is that of the others."
            )
