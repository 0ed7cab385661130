"""From a trait to a persona vector: rollouts, judging, difference of means, layer, dose-response, controls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.extraction.chance import NULL_QUESTIONS, NULL_SWEEP_QUESTIONS, chance_rollouts
from personavec.extraction.contrast import (
    THRESHOLD,
    Contrast,
    advice,
    contrastive_rollouts,
    judge_auc,
    keep_pairs,
    side_scores,
)
from personavec.extraction.direction import mean_difference, with_neutral
from personavec.extraction.dose import DOSES, dose_rollouts, unscored
from personavec.extraction.effects import examples, layer_sweep, score_matrix
from personavec.extraction.elicitation import check_elicited, elicitation
from personavec.extraction.figures import (
    Sides,
    coherent_coefficients,
    dose_response,
    projections,
    separation,
    steering_effect,
)
from personavec.extraction.page import write_extract_report
from personavec.extraction.prompting import prompting
from personavec.extraction.readings import RolloutReadings
from personavec.extraction.result import Extraction, ExtractionRun, TraitFacts
from personavec.extraction.settings import ExtractionSettings
from personavec.extraction.specificity import cross_effects, matrix
from personavec.extraction.sweep import SCALES, SWEEP_QUESTIONS, Sweep, choose_layer
from personavec.extraction.verdict import verdict
from personavec.extraction.workbench import Workbench
from personavec.files import RunFolder, check_utf8
from personavec.info import Elicitation, JudgeFacts, RolloutCounts
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import Judge, announce
from personavec.judges.kinds import open_judge
from personavec.model import ChatModel
from personavec.provenance import identity, provenance
from personavec.report.words import span
from personavec.rollouts import Rollout, read_rollouts, uninstructed, write_rollouts
from personavec.stats.bootstrap import bootstrap_spearman_by_question
from personavec.stats.estimate import Estimate
from personavec.traits import Trait
from personavec.vector import PersonaVector, siblings

VECTOR, ROLLOUTS = "vector.safetensors", "rollouts.jsonl"


def extract(
    model: ChatModel,
    trait: Trait,
    out: Path | str,
    settings: ExtractionSettings | None = None,
    *,
    scorer: Judge | None = None,
    terms: ApiTerms | None = None,
) -> Extraction:
    """Extract the persona vector of a trait (paper section 2), choose its layer, and measure what it does.

    Args:
        model: The model, unsteered.
        trait: What is to be extracted.
        out: Run folder: vector.safetensors, rollouts.jsonl, run.json and report.html go there. A run that was cut off
            goes on where it stopped; a finished one is read back, and compared with the traits that have been
            extracted beside it since.
        settings: See `ExtractionSettings`; None: what suits the model's device and the trait.
        scorer: Scores the rollouts; None: as `settings.judge` says.
        terms: Of the judge "api:MODEL"; not part of what decides the result.

    Raises:
        UserError: The trait cannot be elicited from this model (with examples and advice), the settings do not fit, or
            the folder holds another run.
    """
    check_utf8(out)
    settings = settings or ExtractionSettings.suited(model, trait)
    settings.check(model, trait)
    arguments = {
        **asdict(settings),
        "trait": trait.model_dump(mode="json"),
        **identity(model),
    }
    with RunFolder(out, arguments) as folder:
        if (folder / VECTOR).exists() and (run := folder.finished(ExtractionRun.read)) is not None:
            vector = PersonaVector.load(folder / VECTOR)
            others = siblings(folder.path, vector)
            if tuple(v.trait for v in others) == run.specificity.vectors[1:]:
                return Extraction(vector, run)
            dose = [r for r in read_rollouts(folder / ROLLOUTS) if r.stage == "dose"]
            return _compare(model, folder, vector, run, dose, others, settings.seed)
        scorer = scorer or open_judge(settings.judge, model, terms=terms).of_both(trait)
        return _extract(Workbench(model, trait, folder, settings, scorer))


@dataclass(frozen=True)
class _Answers:
    """What the steps have made, for the figures.

    Attributes:
        contrast: All of both sides, and neutral.
        judge_auc: Of the judge on the evaluation rollouts.
        elicitation: Of the rollouts of both sides.
        reasons: How many extraction pairs were left out, by reason.
        evaluation: The evaluation rollouts that were read.
        kept: The extraction rollouts that made the vector.
        at_kept, at_evaluation: Response means of both sides; of evaluation rollouts without their instruction.
        at_neutral: Response means (n, n_layers + 1, d) of neutral answers.
        sweep: The choice of the layer.
        dose, null: Answers to evaluation questions, steered by the vector and by random directions.
    """

    contrast: Contrast
    judge_auc: Estimate
    elicitation: Elicitation
    reasons: dict[str, int]
    evaluation: list[Rollout]
    kept: list[Rollout]
    at_kept: Sides
    at_evaluation: Sides
    at_neutral: Tensor
    sweep: Sweep
    dose: list[Rollout]
    null: list[Rollout]


def _extract(bench: Workbench) -> Extraction:
    """All steps. What was generated is in rollouts.jsonl also when the trait turns out not to be usable."""
    announce([bench.scorer.cost(_questions_to_judge(bench), bench.settings.max_new_tokens)])
    try:
        vector, answers = _measure(bench)
        run = _summary(bench, vector, answers)
        _check(run)
    except UserError:
        write_rollouts(bench.folder / ROLLOUTS, bench.rollouts)
        raise
    write_rollouts(bench.folder / ROLLOUTS, bench.rollouts)
    vector = replace(vector, info=run.info(bench.trait))
    others = siblings(bench.folder.path, vector)
    extraction = _compare(bench.model, bench.folder, vector, run, answers.dose, others, bench.settings.seed)
    bench.log.path.unlink(missing_ok=True)
    bench.timings.close()
    return extraction


def _measure(bench: Workbench) -> tuple[PersonaVector, _Answers]:
    """The vector at its layer with its neutral statistics, and the answers that say what it does."""
    contrast = contrastive_rollouts(bench)
    auc, natural = judge_auc(bench, contrast.evaluation), contrast.natural_coherence
    told = elicitation(bench, [*contrast.extraction, *contrast.evaluation])
    check_elicited(bench, told, auc)
    reasons = keep_pairs(bench, contrast.extraction)
    spoken = contrast.spoken(bench)
    # The vector may be made of what the instruction left in the stream; what it is tried on must not hold it.
    parts = (spoken.extraction, uninstructed(bench.model, spoken.evaluation), spoken.neutral)
    at_extraction, at_evaluation, at_neutral = bench.read([r for part in parts for r in part]).split(*map(len, parts))
    vector = mean_difference(bench.model, bench.trait.name, spoken.extraction, at_extraction)
    sweep = choose_layer(bench, vector, natural)
    dose = dose_rollouts(bench, sweep.vector, sweep.scale)
    null = chance_rollouts(bench, sweep, natural, at_extraction.response_mean, spoken.extraction)
    # The unsteered answers to the evaluation questions are neutral too.
    plain = bench.spoken([r for r in dose if r.coefficient == 0])
    at_neutral = at_neutral.joined(bench.read(plain))
    vector = with_neutral(bench, sweep.vector, [*spoken.neutral, *plain], at_neutral)
    bench.warnings += unscored(dose)
    kept = [r for r in spoken.extraction if r.kept]
    return vector, _Answers(
        contrast=contrast,
        judge_auc=auc,
        elicitation=told,
        reasons=reasons,
        evaluation=spoken.evaluation,
        kept=kept,
        at_kept=_sides(kept, at_extraction.where([bool(r.kept) for r in spoken.extraction])),
        at_evaluation=_sides(spoken.evaluation, at_evaluation),
        at_neutral=at_neutral.response_mean,
        sweep=sweep,
        dose=dose,
        null=null,
    )


def _summary(bench: Workbench, vector: PersonaVector, answers: _Answers) -> ExtractionRun:
    """All figures. The comparison with other traits, and what all of it says, are still to come."""
    assert vector.residual_norm is not None
    trait, seed, scale, dose = bench.trait, bench.settings.seed, answers.sweep.scale, answers.dose
    norm, residual = float(vector.at(vector.layer).norm()), float(vector.residual_norm[vector.layer])
    prompted = [r for r in answers.contrast.evaluation if r.side == "positive"]
    with bench.timings.stage("controls"):
        curve = dose_response(dose, norm, residual, seed)
        coherent = coherent_coefficients({point.coefficient: point.coherence.mean for point in curve})
        strongest = max((c for c in coherent if c > 0), default=None)
        steering = steering_effect(dose, answers.null, scale, seed)
        # Nothing is recommended that does not work.
        recommended = strongest if steering.effect.low > 0 else None
        judge = bench.scorer.name
        run = ExtractionRun.of(
            provenance(bench.model, asdict(bench.settings)),
            trait=TraitFacts(name=trait.name, description=trait.description, writer=trait.writer),
            rollouts=_counts(bench, answers),
            judge=JudgeFacts(
                name=judge, auc=answers.judge_auc, threshold=THRESHOLD, state=bench.scorer.state().record()
            ),
            elicitation=answers.elicitation,
            layer=vector.layer,
            residual_norm=residual,
            vector_norm=norm,
            layer_sweep=layer_sweep(answers.sweep.rollouts, seed),
            dose_response=curve,
            coherent_range=(min(coherent), max(coherent)),
            recommended_coefficient=recommended,
            spearman=bootstrap_spearman_by_question(*score_matrix(dose), seed=seed),
            steering=steering,
            prompting=prompting(
                trait.system_prompts(prompted[0].pair or 0)[0],
                {judge: prompted},
                {judge: dose},
                recommended or scale,
                seed,
            ),
            examples=examples(dose, (-scale, 0.0, scale)),
            projections=projections(vector, answers.at_evaluation, answers.at_neutral),
            separation=separation(
                vector, answers.kept, answers.at_kept, answers.evaluation, answers.at_evaluation, seed
            ),
            scores=side_scores(answers.contrast.extraction),
            specificity=matrix([vector]),
            verdict=(),
            warnings=bench.warnings,
            seconds=0.0,
            timings={},
        )
    return run.with_(seconds=round(bench.timings.seconds, 1), timings=bench.timings.stages)


def _counts(bench: Workbench, answers: _Answers) -> RolloutCounts:
    extraction = answers.contrast.extraction
    pairs = sum(bool(r.kept) for r in extraction) // 2
    return RolloutCounts(
        generated=len(bench.rollouts),
        extraction=len(extraction),
        kept=2 * pairs,
        kept_pairs=pairs,
        reasons=answers.reasons,
    )


def _check(run: ExtractionRun) -> None:
    """Refuse a vector that neither moves the answers nor tells unseen ones apart."""
    effect, auc = run.steering.effect, run.separation.auc
    if effect.low <= 0 and auc.low <= 0.5:
        raise UserError(
            f"The vector of {run.trait.name!r} does nothing that can be told from chance on {run.model.id}: steering "
            f"by it moves the score by {effect.mean:.0f} points ({span(effect, '.0f', 'questions')}), and projections "
            f"tell unseen answers apart with AUC {auc.mean:.2f} "
            f"({auc.low:.2f} to {auc.high:.2f}). It was not saved.",
            advice(run.trait.name),
        )


def _compare(
    model: ChatModel,
    folder: RunFolder,
    vector: PersonaVector,
    run: ExtractionRun,
    dose: Sequence[Rollout],
    others: Sequence[PersonaVector],
    seed: int,
) -> Extraction:
    """Compare with the other traits' vectors, and write the vector, the report and the summary.

    A finished run comes here again when further traits have been extracted beside it.
    """
    known = vector.info.cross_effects or {}
    unknown = [v for v in others if v.trait not in known]
    crossed = cross_effects(model, dose, run.steering.coefficient, unknown, seed)
    vector = replace(vector, info=vector.info.model_copy(update={"cross_effects": known | crossed}))
    run = run.with_(specificity=matrix([vector, *others]))
    run = run.with_(verdict=verdict(run))
    vector.save(folder / VECTOR)
    write_extract_report(run, folder / "report.html")
    run.write(folder.path)
    return Extraction(vector, run)


def _sides(rollouts: Sequence[Rollout], readings: RolloutReadings) -> Sides:
    """Response means of the positive and of the negative side."""
    positive = torch.tensor([r.side == "positive" for r in rollouts])
    return readings.response_mean[positive], readings.response_mean[~positive]


def _questions_to_judge(bench: Workbench) -> list[str]:
    """The questions of all responses that will be judged: at most, for the first coefficient may do."""
    s, layers = bench.settings, len(bench.candidates)
    extraction, evaluation = bench.questions, bench.trait.evaluation_questions
    null = bench.trait.extraction_questions[:NULL_SWEEP_QUESTIONS] if layers > 1 else ()
    return [
        *extraction * (2 * s.pairs * s.rollouts + 1),
        *evaluation * (2 + len(DOSES)),
        *extraction[:SWEEP_QUESTIONS] * (2 * layers * len(SCALES)),
        *null * (2 * layers * s.random_directions),
        *evaluation[:NULL_QUESTIONS] * (2 * s.random_directions),
    ]
