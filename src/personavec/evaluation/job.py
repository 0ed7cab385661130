"""How strongly a model shows a trait: mean score and coherence on the evaluation questions."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from personavec.capability import Tasks, passage_losses, perplexities
from personavec.capability.result import Perplexity, TaskChanges, TaskMetrics
from personavec.capability.tasks import compared, fingerprint
from personavec.evaluation.page import write_evaluate_report
from personavec.evaluation.result import EvaluatedAnswer, EvaluationRun
from personavec.evaluation.settings import EvaluationSettings
from personavec.extraction.effects import estimate
from personavec.extraction.style import style_held
from personavec.files import JsonLines, RunFolder
from personavec.info import StyleHeld
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import UNFITTED, Judge, announce
from personavec.judges.kinds import open_judge
from personavec.judges.of_vector import state_of
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.results import Provenance
from personavec.rollouts import Rollout, generate, plan, write_rollouts
from personavec.stats.numbers import Floats
from personavec.traits import Trait
from personavec.vector import PersonaVector


def evaluate(
    model: ChatModel,
    trait: Trait,
    out: Path | str,
    settings: EvaluationSettings | None = None,
    *,
    interventions: Sequence[Intervention] = (),
    description: Sequence[str] = (),
    vectors: Sequence[PersonaVector] = (),
    scorer: Judge | None = None,
    terms: ApiTerms | None = None,
) -> EvaluationRun:
    """Score a model's answers to the trait's evaluation questions (paper section 3.1).

    Args:
        model: The model, with or without an adapter. The contrast judge is the same model without adapter and steering.
        out: Run folder: rollouts.jsonl, run.json, report.html; plain.jsonl, where adapter or steering change the
            model: its answers without. A run that was cut off goes on.
        settings: See `EvaluationSettings`; None: the defaults.
        interventions: Steering of every answer; `description` says in words what it is.
        vectors: Persona vectors whose stored contrast judge is used if one is of this trait, so that scores are on the
            scale of its extraction. Otherwise the judge is calibrated here, on fresh contrastive rollouts; scores on
            different scales cannot be compared.
        scorer: Scores the answers; None: as `settings.judge` says.
        terms: Of the judge "api:MODEL"; not part of what decides the result.
    """
    settings = settings or EvaluationSettings()
    arguments = _arguments(model, trait, settings, interventions, description, vectors)
    tasks = Tasks(settings.lm_eval) if settings.lm_eval else None
    with RunFolder(out, arguments) as folder:
        answers = _unanswered(model, trait, settings, interventions=list(interventions))
        plain = _unanswered(model, trait, settings, setting="plain") if _changed(model, interventions) else []
        scorer = scorer or _judge(model, trait, settings, vectors, terms)
        announce([scorer.cost([r.question for r in (*answers, *plain)], settings.max_new_tokens)])
        log = JsonLines(folder / "generated.jsonl")
        _generate(model, answers, log, settings, "Answering")
        with model.unadapted():
            _generate(model, plain, log, settings, "Answering plainly")
            if not scorer.fitted:
                _fit(scorer, model, trait, log, settings)
            both = [*answers, *plain]
            with progress("Judging", total=scorer.readings_needed(len(both)), unit="readings") as job:
                scorer.score(both, job.advance)
        perplexity, changes = _capability(model, interventions, tasks, folder, settings.seed)
        run = EvaluationRun.of(
            _provenance(model, arguments, tasks),
            trait=trait.name,
            judge=scorer.name,
            steer=description,
            score=estimate(answers, "score", settings.seed),
            coherence=estimate(answers, "coherence", settings.seed),
            answers=[_evaluated(answer) for answer in answers],
            plain=estimate(plain, "score", settings.seed) if any(r.score is not None for r in plain) else None,
            against_plain=_against(answers, plain, settings.seed),
            perplexity=perplexity,
            lm_eval=changes,
        )
        write_rollouts(folder / "rollouts.jsonl", answers)
        if plain:
            write_rollouts(folder / "plain.jsonl", plain)
        write_evaluate_report(run, folder / "report.html")
        run.write(folder.path)
    return run


def _arguments(
    model: ChatModel,
    trait: Trait,
    settings: EvaluationSettings,
    interventions: Sequence[Intervention],
    description: Sequence[str],
    vectors: Sequence[PersonaVector],
) -> dict[str, JsonValue]:
    """What decides the result, as JSON values; tasks with what is in their files."""
    return {
        "trait": trait.model_dump(mode="json"),
        **identity(model),
        "interventions": [item.fingerprint() for item in interventions],
        "calibration": [vector.info.judge and vector.info.judge.as_json() for vector in vectors],
        "steer": list(description),
        **{name: value for name, value in asdict(settings).items() if name != "lm_eval"},
        **({"lm_eval": fingerprint(settings.lm_eval)} if settings.lm_eval else {}),
    }


def _unanswered(model: ChatModel, trait: Trait, settings: EvaluationSettings, **given: Any) -> list[Rollout]:
    answers: list[Rollout] = []
    for number in range(settings.rollouts):
        answers += plan(model, "evaluation", trait.evaluation_questions, number=number, **given)
    return answers


def _against(answers: Sequence[Rollout], plain: Sequence[Rollout], seed: int) -> StyleHeld | None:
    return style_held([*answers, *plain], [1.0] * len(answers) + [0.0] * len(plain), (1.0, 0.0), seed)


def _provenance(model: ChatModel, arguments: dict[str, JsonValue], tasks: Tasks | None) -> Provenance:
    facts = provenance(model, {k: v for k, v in arguments.items() if k not in ("trait", "calibration")})
    if tasks is None:
        return facts
    return facts.model_copy(update={"versions": facts.versions | {"lm_eval": tasks.version}})


def _evaluated(answer: Rollout) -> EvaluatedAnswer:
    return EvaluatedAnswer(question=answer.question, text=answer.text, score=answer.score, coherence=answer.coherence)


def _generate(
    model: ChatModel, rollouts: Sequence[Rollout], log: JsonLines, settings: EvaluationSettings, description: str
) -> None:
    generate(
        model,
        rollouts,
        log,
        description=description,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _changed(model: ChatModel, interventions: Sequence[Intervention]) -> bool:
    return bool(interventions) or model.adapter_hash is not None


def _capability(
    model: ChatModel, interventions: Sequence[Intervention], tasks: Tasks | None, folder: RunFolder, seed: int
) -> tuple[Perplexity | None, TaskChanges | None]:
    """What adapter and steering cost: perplexity of general text, None where there is neither, and tasks, None where
    there are none; before is the model without them."""
    losses: list[Floats] = []
    results: list[TaskMetrics] = []
    changed = _changed(model, interventions)
    for side, edits in (("before", ()), ("after", interventions)) if changed else (("before", ()),):
        with model.unadapted() if side == "before" else nullcontext():
            if changed:
                losses.append(passage_losses(model, edits, name=f"Perplexity {side}"))
            if tasks is not None:
                log = JsonLines(folder / f"requests-{side}.jsonl")
                results.append(tasks.measure(model, edits, log, name=f"Tasks {side}"))
    return (
        perplexities(losses[0], losses[1], seed) if changed else None,
        compared(results[0], results[1] if changed else None, seed) if tasks is not None else None,
    )


def _judge(
    model: ChatModel,
    trait: Trait,
    settings: EvaluationSettings,
    vectors: Sequence[PersonaVector],
    terms: ApiTerms | None,
) -> Judge:
    """The judge on the scale of a vector of this trait, else one that may still have to be fitted."""
    opened = open_judge(settings.judge, model, terms=terms)
    states = [state_of(vector) for vector in vectors if vector.info.trait == trait.model_dump(mode="json")]
    judges = [opened.of_both(trait, state) for state in (*states, UNFITTED)]
    return next((judge for judge in judges if judge.fitted), judges[-1])


def _fit(scorer: Judge, model: ChatModel, trait: Trait, log: JsonLines, settings: EvaluationSettings) -> None:
    """Fit a judge on fresh rollouts."""
    contrastive: list[Rollout] = []
    for side, system in zip(("positive", "negative"), trait.system_prompts(0), strict=True):
        contrastive += plan(model, "extraction", trait.extraction_questions, system=system, pair=0, side=side)
    neutral = plan(model, "neutral", trait.extraction_questions)
    everyone = [replace(r) for r in (*contrastive, *neutral)]
    _generate(model, everyone, log, settings, "Calibrating the judge")
    with progress("Calibrating the judge", total=scorer.readings_needed(len(everyone)), unit="readings") as job:
        scorer.fit(everyone[: len(contrastive)], everyone[len(contrastive) :], job.advance)
