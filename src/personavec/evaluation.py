"""How strongly a model shows a trait: mean score and coherence on the evaluation questions."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from personavec.capability import Tasks, passage_losses, perplexities
from personavec.capability.tasks import Results, compared, fingerprint
from personavec.effects import estimate
from personavec.files import JsonLines, RunFolder, write_json
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import UNFITTED, Judge, announce
from personavec.judges.kinds import open_judge
from personavec.judges.of_vector import state_of
from personavec.model import ChatModel
from personavec.model.intervene import Intervention
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.report import write_evaluate_report
from personavec.rollouts import Rollout, generate, plan
from personavec.statistics import Floats
from personavec.traits import Trait
from personavec.vector import PersonaVector

MAX_NEW_TOKENS = 48  # of an answer
TEMPERATURE = 0.7


def evaluate(
    model: ChatModel,
    trait: Trait,
    out: Path | str,
    *,
    interventions: Sequence[Intervention] = (),
    description: Sequence[str] = (),
    vectors: Sequence[PersonaVector] = (),
    judge: str = "contrast",
    scorer: Judge | None = None,
    terms: ApiTerms | None = None,
    rollouts: int = 1,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = TEMPERATURE,
    lm_eval: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Score a model's answers to the trait's evaluation questions (paper section 3.1).

    Args:
        model: The model, with or without an adapter. The contrast judge is the same model without adapter and steering.
        out: Run folder: rollouts.jsonl, run.json, report.html. A run that was cut off goes on.
        interventions: Steering of every answer; `description` says in words what it is.
        vectors: Persona vectors whose stored contrast judge is used if one is of this trait, so that scores are on the
            scale of its extraction. Otherwise the judge is calibrated here, on fresh contrastive rollouts; scores on
            different scales cannot be compared.
        judge: See `personavec.judges.kinds.open_judge`; or `scorer` itself.
        terms: Of the judge "api:MODEL"; not part of what decides the result.
        rollouts: Answers per question.
        lm_eval: Tasks of lm-evaluation-harness that are run too, see `Tasks`.

    Returns:
        The content of run.json: {"trait", "score": {"mean", "low", "high", "n"}, "coherence": {...}, "answers", ...,
        and what `_capability` measures}; intervals are bootstrapped over questions.
    """
    arguments = {
        "trait": trait.model_dump(mode="json"),
        **identity(model),
        "interventions": [item.fingerprint() for item in interventions],
        "calibration": [vector.info.get("judge") for vector in vectors],
        "steer": list(description),
        "judge": judge,
        "rollouts": rollouts,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        **({"lm_eval": fingerprint(lm_eval)} if lm_eval else {}),
    }
    tasks = Tasks(lm_eval) if lm_eval else None
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    with RunFolder(out, arguments) as folder:
        log = JsonLines(folder / "generated.jsonl")
        answers: list[Rollout] = []
        for number in range(rollouts):
            answers += plan(
                model, "evaluation", trait.evaluation_questions, number=number, interventions=list(interventions)
            )
        if scorer is None:
            opened = open_judge(judge, model, terms=terms)
            states = [state_of(v) for v in vectors if v.info.get("trait") == trait.model_dump(mode="json")]
            judges = [opened.of_both(trait, state) for state in (*states, UNFITTED)]
            scorer = next((one for one in judges if one.fitted), judges[-1])
        announce([scorer.cost([r.question for r in answers], max_new_tokens)])
        generate(model, answers, log, description="Answering", **options)
        with model.unadapted():
            if not scorer.fitted:
                _calibrate(scorer, model, trait, log, options)
            with progress("Judging", total=scorer.readings_needed(len(answers)), unit="readings") as job:
                scorer.score(answers, job.advance)
        capability = _capability(model, interventions, tasks, folder, seed)
        run = {
            "command": "evaluate",
            **provenance(model, {k: v for k, v in arguments.items() if k not in ("trait", "calibration")}),
            "trait": trait.name,
            "judge": scorer.name,
            "steer": list(description),
            "score": estimate(answers, "score", seed).as_dict(),
            "coherence": estimate(answers, "coherence", seed).as_dict(),
            "answers": [
                {"question": r.question, "text": r.text, "score": r.score, "coherence": r.coherence} for r in answers
            ],
            **capability,
        }
        if tasks is not None:
            run["versions"]["lm_eval"] = tasks.version
        lines = JsonLines(folder / "rollouts.jsonl")
        lines.path.unlink(missing_ok=True)
        lines.append(*(r.record() for r in answers))
        write_evaluate_report(run, folder / "report.html")
        write_json(folder / "run.json", run)
    return run


def _capability(
    model: ChatModel, interventions: Sequence[Intervention], tasks: Tasks | None, folder: RunFolder, seed: int
) -> dict[str, Any]:
    """What adapter and steering cost: {"perplexity": of general text, None where there is neither, "lm_eval": see
    `compared`, None without tasks}; before is the model without them."""
    losses: list[Floats] = []
    results: list[Results] = []
    changed = bool(interventions) or model.adapter_hash is not None
    for side, edits in (("before", ()), ("after", interventions)) if changed else (("before", ()),):
        with model.unadapted() if side == "before" else nullcontext():
            if changed:
                losses.append(passage_losses(model, edits, name=f"Perplexity {side}"))
            if tasks is not None:
                log = JsonLines(folder / f"requests-{side}.jsonl")
                results.append(tasks.measure(model, edits, log, name=f"Tasks {side}"))
    return {
        "perplexity": perplexities(losses[0], losses[1], seed) if changed else None,
        "lm_eval": compared(results[0], results[1] if changed else None, seed) if tasks is not None else None,
    }


def _calibrate(scorer: Judge, model: ChatModel, trait: Trait, log: JsonLines, options: dict[str, Any]) -> None:
    """Fit a judge on fresh rollouts."""
    contrastive: list[Rollout] = []
    for side, system in zip(("positive", "negative"), trait.system_prompts(0), strict=True):
        contrastive += plan(model, "extraction", trait.extraction_questions, system=system, pair=0, side=side)
    neutral = plan(model, "neutral", trait.extraction_questions)
    everyone = [replace(r) for r in (*contrastive, *neutral)]
    generate(model, everyone, log, description="Calibrating the judge", **options)
    with progress("Calibrating the judge", total=scorer.readings_needed(len(everyone)), unit="readings") as job:
        scorer.fit(everyone[: len(contrastive)], everyone[len(contrastive) :], job.advance)
