"""From a trait to a persona vector: rollouts, judging, difference of means, layer, dose-response, controls."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.extraction.effects import by_direction, layer_effects
from personavec.extraction.figures import (
    NATURAL_SHARE,
    NULL_QUESTIONS,
    NULL_SWEEP_QUESTIONS,
    separation_figures,
    steering_figures,
)
from personavec.extraction.page import write_extract_report
from personavec.extraction.specificity import cross_effects, matrix, siblings
from personavec.extraction.verdict import verdict
from personavec.files import JsonLines, RunFolder, check_utf8, to_json, write_atomic, write_json
from personavec.interventions import steering
from personavec.judges.scorer import ApiTerms, Scorer, make_scorer
from personavec.model import ChatModel, Conversation
from personavec.model.edits import Intervention, Positions
from personavec.operations import ADD
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.readout import read
from personavec.rollouts import Rollout, Side, conversation, generate, plan, read_rollouts
from personavec.stats import nulls
from personavec.stats.bootstrap import bootstrap_auc
from personavec.stats.estimate import Estimate
from personavec.timings import Timings
from personavec.traits import Trait
from personavec.vector import PersonaVector

THRESHOLD = 50.0  # of the paper's filter: scores of positives above, of negatives below, coherence at least
SWEEP_QUESTIONS = 8
DEPTHS = (0.35, 0.47, 0.6, 0.72)  # candidate layers of the sweep, as shares of the model's depth
SCALES = (2.0, 1.0, 0.5, 0.25, 0.125)  # coefficients of the sweep: the first at which some layer stays coherent
DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the dose-response, in multiples of that coefficient
MINIMUM_PAIRS = 5
SIDES: tuple[Side, Side] = ("positive", "negative")


@dataclass(frozen=True)
class Settings:
    """What decides the result of an extraction, besides the trait and the model.

    Attributes:
        pairs: Instruction pairs used for the extraction rollouts (of the trait's five; the others judge and evaluate).
        questions: Extraction questions used.
        rollouts: Responses per question, pair and side.
        max_new_tokens: Longest response.
        temperature: Of every rollout. The paper's is 1; small models derail there.
        judge: "contrast", "local:MODEL" or "api:MODEL".
        layer: "auto" (by steering effect) or a number.
        positions: Where steering acts in the sweep and the dose-response.
        random_directions: How many are steered by beside the vector, as its null.
        seed: Of everything random.
    """

    pairs: int = 3
    questions: int = 20
    rollouts: int = 1
    max_new_tokens: int = 48
    temperature: float = 0.7
    judge: str = "contrast"
    layer: str | int = "auto"
    positions: Positions = "response"
    random_directions: int = 8
    seed: int = 0

    @classmethod
    def suited(cls, model: ChatModel, trait: Trait) -> "Settings":
        """Minutes on a CPU, for models small enough to run there; close to the paper's numbers on a GPU."""
        large = {"pairs": 4, "rollouts": 4, "max_new_tokens": 200, "temperature": 1.0, "random_directions": 20}
        settings = cls() if model.device.type == "cpu" else replace(cls(), **large)  # type: ignore[arg-type]
        return replace(
            settings,
            pairs=max(1, min(settings.pairs, len(trait.instructions) - 1)),
            questions=min(settings.questions, len(trait.extraction_questions)),
        )


@dataclass(frozen=True)
class Extraction:
    """An extracted vector and the run's summary (the content of run.json)."""

    vector: PersonaVector
    run: dict[str, Any]


def extract(
    model: ChatModel,
    trait: Trait,
    out: Path | str,
    settings: Settings | None = None,
    *,
    scorer: Scorer | None = None,
    terms: ApiTerms | None = None,
) -> Extraction:
    """Extract the persona vector of a trait (paper section 2), choose its layer, and measure what it does.

    Args:
        model: The model, unsteered.
        trait: What is to be extracted.
        out: Run folder: vector.safetensors, rollouts.jsonl, run.json and report.html go there. A run that was cut off
            goes on where it stopped; a finished one is read back, and compared with the traits that have been
            extracted beside it since.
        settings: See `Settings`; None: what suits the model's device and the trait.
        scorer: Scores the rollouts; None: as `settings.judge` says.
        terms: Of the judge "api:MODEL"; not part of what decides the result.

    Raises:
        UserError: The trait cannot be elicited from this model (with examples and advice), or the settings do not fit.
    """
    check_utf8(out)
    settings = settings or Settings.suited(model, trait)
    _check(settings, trait, model)
    arguments = {
        **asdict(settings),
        "trait": trait.model_dump(mode="json"),
        **identity(model),
    }
    with RunFolder(out, arguments) as folder:
        if (folder / "run.json").exists() and (folder / "vector.safetensors").exists():
            vector, run = (
                PersonaVector.load(folder / "vector.safetensors"),
                json.loads((folder / "run.json").read_text(encoding="utf-8")),
            )
            others = siblings(folder.path, vector)
            if [v.trait for v in others] == run["specificity"]["vectors"][1:]:
                return Extraction(vector, run)
            dose = [r for r in read_rollouts(folder / "rollouts.jsonl") if r.stage == "dose"]
            return _compare(model, folder, vector, run, dose, others)
        return _Run(model, trait, folder, settings, scorer or make_scorer(settings.judge, model, trait, terms)).run()


def _compare(
    model: ChatModel,
    folder: RunFolder,
    vector: PersonaVector,
    run: dict[str, Any],
    dose: Sequence[Rollout],
    others: Sequence[PersonaVector],
) -> Extraction:
    """Compare with the other traits' vectors, and write the vector, the report and the summary.

    A finished run comes here again when further traits have been extracted beside it.
    """
    known = vector.info.get("cross_effects", {})
    unknown = [v for v in others if v.trait not in known]
    scale, seed = run["steering"]["coefficient"], run["arguments"]["seed"]
    crossed = known | cross_effects(model, dose, scale, unknown, seed)
    vector = replace(vector, info={**vector.info, "cross_effects": crossed})
    run = run | {"specificity": matrix([vector, *others])}
    run["verdict"] = verdict(run)
    vector.save(folder / "vector.safetensors")
    write_extract_report(run, folder / "report.html")
    write_json(folder / "run.json", run)
    return Extraction(vector, run)


def _check(settings: Settings, trait: Trait, model: ChatModel) -> None:
    for name, value, most in (
        # One pair is left for the evaluation, whose instruction the vector must not have seen.
        ("--pairs", settings.pairs, max(1, len(trait.instructions) - 1)),
        ("--questions", settings.questions, len(trait.extraction_questions)),
        ("--rollouts", settings.rollouts, 1000),
        ("--random-directions", settings.random_directions, 1000),
        ("--max-new-tokens", settings.max_new_tokens, model.context_length),
    ):
        if not 1 <= value <= most:
            raise UserError(f"{name} {value} is out of range.", f"Choose 1 to {most} for the trait {trait.name!r}.")
    if settings.layer != "auto" and not (isinstance(settings.layer, int) and 1 <= settings.layer <= model.n_layers):
        raise UserError(f"Layer {settings.layer} is out of range.", f"Choose auto, or 1 to {model.n_layers}.")
    if settings.seed < 0:
        raise UserError(f"The seed {settings.seed} is negative.", "Choose 0 or more.")
    if not (math.isfinite(settings.temperature) and settings.temperature >= 0):
        raise UserError(f"The temperature {settings.temperature} is not usable.", "Choose 0 or more, such as 1.")


class _Run:
    """The stages of one extraction, over one run folder."""

    def __init__(self, model: ChatModel, trait: Trait, folder: RunFolder, settings: Settings, scorer: Scorer) -> None:
        self.model, self.trait, self.folder, self.settings, self.scorer = model, trait, folder, settings, scorer
        self.log = JsonLines(folder / "generated.jsonl")
        self.timings = Timings(folder / "timings.json", self.log.path)
        self.warnings: list[str] = list(model.template.notes)
        self.rollouts: list[Rollout] = []

    def timed(self, stage: str) -> AbstractContextManager[None]:
        return self.timings.stage(stage)

    def generate(self, rollouts: Sequence[Rollout], description: str) -> None:
        self.rollouts += rollouts
        with self.timed("generate"):
            generate(
                self.model,
                rollouts,
                self.log,
                description=description,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                seed=self.settings.seed,
            )

    def score(self, rollouts: Sequence[Rollout], description: str) -> None:
        total = self.scorer.readings_needed(len(rollouts))
        with self.timed("judge"), progress(description, total=total, unit="readings") as job:
            self.scorer.score(rollouts, job.advance)

    def run(self) -> Extraction:
        """All stages. What was generated is in rollouts.jsonl also when the trait turns out not to be usable."""
        self.scorer.announce(self._judged(), self.settings.max_new_tokens)
        try:
            result = self._run()
        except UserError:
            self._save_rollouts()
            raise
        self.log.path.unlink(missing_ok=True)
        self.timings.close()
        return result

    def _save_rollouts(self) -> None:
        lines = [to_json(r.record()) + "\n" for r in self.rollouts]
        write_atomic(self.folder / "rollouts.jsonl", "".join(lines))

    def _run(self) -> Extraction:
        extraction, evaluation, neutral = self._contrastive()
        judge_auc = self._check_judge(evaluation)
        reasons = self._keep(extraction)
        made = len(extraction)
        kept_pairs = sum(bool(r.kept) for r in extraction) // 2
        scores = {
            side: [
                {"score": r.score, "coherence": r.coherence, "kept": bool(r.kept)} for r in extraction if r.side == side
            ]
            for side in SIDES
        }
        extraction, evaluation, neutral = (self._spoken(some) for some in (extraction, evaluation, neutral))
        readings = self._read([*extraction, *evaluation, *neutral])
        first, second = len(extraction), len(extraction) + len(evaluation)
        at_extraction, at_evaluation, at_neutral = readings[:first], readings[first:second], readings[second:]
        vector = self._difference(extraction, at_extraction)
        vector, sweep, scale = self._sweep(vector)
        dose = self._dose(vector, scale)
        null = self._null(vector, scale, at_extraction[:, 2], extraction)
        # The unsteered answers to the evaluation questions are neutral too.
        plain = self._spoken([r for r in dose if r.coefficient == 0])
        at_neutral = torch.cat([at_neutral, self._read(plain)])
        vector = self._with_tokens(_with_neutral(vector, at_neutral), [*neutral, *plain])
        with self.timed("controls"):
            run = {
                "command": "extract",
                **provenance(self.model, asdict(self.settings)),
                "trait": {"name": self.trait.name, "description": self.trait.description, "writer": self.trait.writer},
                "rollouts": {
                    "generated": len(self.rollouts),
                    "extraction": made,
                    "kept": 2 * kept_pairs,
                    "kept_pairs": kept_pairs,
                    "reasons": reasons,
                },
                "judge": {
                    "name": self.scorer.name,
                    "auc": judge_auc.as_dict(),
                    "threshold": THRESHOLD,
                    "state": self.scorer.state(),
                },
                **steering_figures(vector, sweep, dose, null, scale, self.settings.seed),
                **separation_figures(
                    vector,
                    evaluation,
                    _by_side(extraction, at_extraction),
                    _by_side(evaluation, at_evaluation),
                    at_neutral[:, 2],
                    self.settings.seed,
                ),
                "scores": scores,
                "warnings": self.warnings,
            }
        self._check_vector(run)
        self._warn_of_unscored(dose)
        run |= {"seconds": round(self.timings.seconds, 1), "timings": self.timings.stages}
        stored = {key: run[key] for key in _STORED}
        vector = replace(vector, info=stored | {"trait": self.trait.model_dump(mode="json")})
        self._save_rollouts()
        return _compare(self.model, self.folder, vector, run, dose, siblings(self.folder.path, vector))

    def _contrastive(self) -> tuple[list[Rollout], list[Rollout], list[Rollout]]:
        """Extraction and evaluation rollouts of both sides, and neutral answers; generated and scored."""
        s = self.settings
        questions = self.trait.extraction_questions[: s.questions]
        extraction: list[Rollout] = []
        for pair in range(s.pairs):
            for side, system in zip(SIDES, self.trait.system_prompts(pair), strict=True):
                for number in range(s.rollouts):
                    extraction += plan(
                        self.model, "extraction", questions, system=system, number=number, pair=pair, side=side
                    )
        evaluation: list[Rollout] = []
        unseen = min(s.pairs, len(self.trait.instructions) - 1)
        for side, system in zip(SIDES, self.trait.system_prompts(unseen), strict=True):
            evaluation += plan(
                self.model, "evaluation", self.trait.evaluation_questions, system=system, pair=unseen, side=side
            )
        neutral = plan(self.model, "neutral", questions)
        everyone = [*extraction, *evaluation, *neutral]
        self.generate(everyone, "1/5 Generating rollouts")
        total = self.scorer.readings_needed(len(everyone))
        with self.timed("judge"), progress("2/5 Judging rollouts", total=total, unit="readings") as job:
            self.scorer.fit(extraction, neutral, job.advance)
            self.scorer.score(evaluation, job.advance)
        self.natural = sum(r.coherence or 0.0 for r in neutral) / len(neutral)
        return extraction, evaluation, neutral

    def _spoken(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those with a response to read; how many have none (ended at once, or only thought) becomes a warning."""
        spoken = [r for r in rollouts if r.response_ids[self.model.template.response_start(r.response_ids) :]]
        if len(spoken) < len(rollouts):
            silent = len(rollouts) - len(spoken)
            self.warnings.append(
                f"{silent} of {len(rollouts)} {rollouts[0].stage} rollouts are empty and were not read."
            )
        return spoken

    def _read(self, rollouts: Sequence[Rollout]) -> Tensor:
        """(rollouts, 3 positions, n_layers + 1, d): prompt mean, last prompt token, response mean."""
        conversations = [conversation(self.model, r) for r in rollouts]
        with self.timed("read"), progress("3/5 Reading activations", total=len(rollouts), unit="rollouts") as job:
            means = read(self.model, conversations, advance=job.advance).means
        return means.view(len(rollouts), 3, self.model.n_layers + 1, -1)

    def _with_tokens(self, vector: PersonaVector, neutral: Sequence[Rollout]) -> PersonaVector:
        """Add the neutral statistics of single tokens."""
        conversations = []
        for rollout in neutral:
            whole = conversation(self.model, rollout)
            start, end = whole.spans[-1]
            conversations.append(Conversation(whole.ids, [(token, token + 1) for token in range(start, end)]))
        directions = torch.nn.functional.normalize(vector.directions, dim=-1)[:, None]
        with self.timed("read"):  # a span is a token: few at a time, for each is a row of its own at every layer
            means = read(self.model, conversations, directions=directions, batch_tokens=1024).means[..., 0]
        return replace(vector, neutral_token_mean=means.mean(0), neutral_token_deviation=means.std(0))

    def _keep(self, extraction: Sequence[Rollout]) -> dict[str, int]:
        """The paper's filter, pair by pair (section 2.2): both rollouts of a pair are kept or neither."""
        reasons: Counter[str] = Counter()
        for positive, negative in _pairs(extraction):
            reason = _reason(positive, negative)
            positive.kept = negative.kept = reason is None
            if reason is not None:
                reasons[reason] += 1
        kept = sum(1 for r in extraction if r.kept) // 2
        if kept < min(MINIMUM_PAIRS, len(extraction) // 2):
            raise UserError(self._not_elicited(extraction, kept, reasons), _ADVICE)
        return dict(reasons)

    def _check_judge(self, evaluation: Sequence[Rollout]) -> Estimate:
        """How well the judge tells the sides apart on unseen questions and an unseen instruction.

        Noise passes the filter now and then; it does not pass this.
        """
        positive, negative = ([r for r in evaluation if r.side == side and r.score is not None] for side in SIDES)
        if not positive or not negative:
            raise UserError(f"The judge gave no score to one side of {self.trait.name!r}.", _ADVICE)
        found = bootstrap_auc(
            [r.score or 0.0 for r in positive],
            [r.score or 0.0 for r in negative],
            [r.question_index for r in positive],
            [r.question_index for r in negative],
            self.settings.seed,
        )
        if found.low <= 0.5:
            raise UserError(
                f"The trait {self.trait.name!r} could not be elicited from {self.model.id}: on unseen questions the "
                "judge "
                f"cannot tell answers that should show it from their opposite (AUC {found.mean:.2f}, 95 % interval "
                f"{found.low:.2f} to {found.high:.2f}, n = {found.n} questions; 0.5 is guessing). "
                f"Examples:\n{_shown([*positive[:2], *negative[:2]])}\n",
                _ADVICE,
            )
        return found

    def _warn_of_unscored(self, dose: Sequence[Rollout]) -> None:
        """Refusals and their like say something about a coefficient that its score does not show."""
        for coefficient in sorted({r.coefficient for r in dose if r.coefficient is not None}):
            mine = [r for r in dose if r.coefficient == coefficient]
            if unscored := sum(r.score is None for r in mine):
                self.warnings.append(
                    f"At coefficient {coefficient:+g}, {unscored} of {len(mine)} answers have no score: refusals, "
                    "empty answers, or such that the judge named no number for. The mean is that of the others."
                )

    def _check_vector(self, run: dict[str, Any]) -> None:
        """Refuse a vector that neither moves the answers nor tells unseen ones apart."""
        moved, apart = run["steering"]["effect"], run["separation"]["auc"]
        if moved["low"] <= 0 and apart["low"] <= 0.5:
            raise UserError(
                f"The vector of {self.trait.name!r} does nothing that can be told from chance on {self.model.id}: "
                f"steering by it moves the score by {moved['mean']:.0f} points (95 % interval {moved['low']:.0f} to "
                f"{moved['high']:.0f}, n = {moved['n']} questions), and projections tell unseen answers apart with AUC "
                f"{apart['mean']:.2f} ({apart['low']:.2f} to {apart['high']:.2f}). It was not saved.",
                _ADVICE,
            )

    def _not_elicited(self, extraction: Sequence[Rollout], kept: int, reasons: Counter[str]) -> str:
        examples = [r for pair in list(_pairs(extraction))[:2] for r in pair]
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        return (
            f"The trait {self.trait.name!r} could not be elicited from {self.model.id}: {kept} of "
            f"{len(extraction) // 2} pairs of rollouts passed the filter ({why}). Examples:\n{_shown(examples)}\n"
        )

    def _difference(self, extraction: Sequence[Rollout], readings: Tensor) -> PersonaVector:
        """Mean of kept positives minus mean of kept negatives, float32 (paper section 2.2)."""
        positive = torch.tensor([bool(r.kept) and r.side == "positive" for r in extraction])
        negative = torch.tensor([bool(r.kept) and r.side == "negative" for r in extraction])
        difference = readings[positive].mean(0) - readings[negative].mean(0)
        return PersonaVector(
            trait=self.trait.name,
            directions=difference[2],
            layer=max(1, self.model.n_layers // 2),
            model={
                "id": self.model.id,
                "weights": self.model.weights_hash,
                "template": self.model.template.hash,
                "n_layers": self.model.n_layers,
                "hidden_size": self.model.hidden_size,
            },
            alternatives={"prompt_mean": difference[0], "prompt_last": difference[1]},
        )

    def _steered(
        self, stage: str, edits: Sequence[Intervention], questions: Sequence[str], layer: int, coefficient: float,
        setting: str | None = None,
    ) -> list[Rollout]:  # fmt: skip
        return plan(
            self.model, stage, questions,
            layer=layer, coefficient=coefficient, interventions=edits, setting=setting,
        )  # fmt: skip

    def _sweep(self, vector: PersonaVector) -> tuple[PersonaVector, list[Rollout], float]:
        """Steer at candidate layers by plus and minus one coefficient, on extraction questions; choose the layer.

        The coefficient is the largest of `SCALES` at which some layer stays coherent, so that it suits any model. The
        layer is the coherent one with the largest effect: score at plus minus score at minus (paper appendix B.4, with
        both signs, since some traits start near their ceiling).

        Returns:
            The vector at that layer, the rollouts, the coefficient.
        """
        questions = self.trait.extraction_questions[: min(SWEEP_QUESTIONS, self.settings.questions)]
        layers = self._candidates()
        made: list[Rollout] = []
        for scale in SCALES:
            batch: list[Rollout] = []
            for layer in layers:
                for coefficient in (-scale, scale):
                    edits = steering(vector, coefficient, layers=layer, positions=self.settings.positions)
                    batch += self._steered("sweep", edits, questions, layer, coefficient)
            self.generate(batch, f"4/5 Steering at {len(layers)} layers by {scale:g}")
            self.score(batch, "4/5 Judging")
            made += batch
            effects = layer_effects(batch, scale, NATURAL_SHARE * self.natural)
            if effects:
                return vector.using(max(effects, key=lambda layer: effects[layer])), made, scale
        raise UserError(
            f"Steering by the vector of {self.trait.name!r} breaks {self.model.id} at every layer and coefficient "
            f"tried ({', '.join(f'{s:g}' for s in SCALES)}).",
            "The vector is not usable. Raise --rollouts or --questions, or look at the trait's instructions.",
        )

    def _dose(self, vector: PersonaVector, scale: float) -> list[Rollout]:
        """Dose-response on the evaluation questions."""
        dose: list[Rollout] = []
        for coefficient in (share * scale for share in DOSES):
            edits = steering(vector, coefficient, positions=self.settings.positions) if coefficient else []
            dose += self._steered("dose", edits, self.trait.evaluation_questions, vector.layer, coefficient)
        self.generate(dose, "5/5 Steering")
        self.score(dose, "5/5 Judging")
        return dose

    def _null(
        self, vector: PersonaVector, scale: float, readings: Tensor, extraction: Sequence[Rollout]
    ) -> list[Rollout]:
        """Random directions in the vector's place: each chooses its layer on extraction questions, as the vector did.

        Returns:
            The answers to evaluation questions at the chosen layers.
        """
        layers, s = self._candidates(), self.settings
        random = nulls.covariance_directions(
            readings[:, layers], [str(r.side) for r in extraction], s.random_directions, s.seed + 2
        )
        norms = torch.stack([vector.at(layer).norm() for layer in layers])
        random = torch.nn.functional.normalize(random, dim=-1) * norms[:, None]

        def steered(stage: str, number: int, layer: int, questions: Sequence[str]) -> list[Rollout]:
            direction = random[number, layers.index(layer)]
            made: list[Rollout] = []
            for coefficient in (-scale, scale):
                edits = [Intervention(ADD, layer, coefficient * direction, s.positions)]
                made += self._steered(stage, edits, questions, layer, coefficient, f"random{number:02}")
            return made

        questions = self.trait.extraction_questions[:NULL_SWEEP_QUESTIONS]
        sweep = [r for n in range(len(random)) for layer in layers for r in steered("null-sweep", n, layer, questions)]
        if len(layers) > 1:
            self.generate(sweep, "5/5 Steering by random directions at every layer")
            self.score(sweep, "5/5 Judging")
        else:
            sweep = []
        null: list[Rollout] = []
        groups = by_direction(sweep)
        for number in range(len(random)):
            mine = groups.get(f"random{number:02}", [])
            # Where no layer stays coherent, one that does not is better than no null at all.
            effects = layer_effects(mine, scale, NATURAL_SHARE * self.natural) or layer_effects(mine, scale, 0.0)
            layer = max(effects, key=lambda layer: abs(effects[layer])) if effects else vector.layer
            null += steered("null", number, layer, self.trait.evaluation_questions[:NULL_QUESTIONS])
        self.generate(null, "5/5 Steering by random directions")
        self.score(null, "5/5 Judging")
        return null

    def _judged(self) -> list[str]:
        """The questions of all responses that will be judged: at most, for the first coefficient may do."""
        s, layers = self.settings, len(self._candidates())
        extraction, evaluation = self.trait.extraction_questions[: s.questions], self.trait.evaluation_questions
        null = self.trait.extraction_questions[:NULL_SWEEP_QUESTIONS] if layers > 1 else ()
        return [
            *extraction * (2 * s.pairs * s.rollouts + 1),
            *evaluation * (2 + len(DOSES)),
            *extraction[:SWEEP_QUESTIONS] * (2 * layers * len(SCALES)),
            *null * (2 * layers * s.random_directions),
            *evaluation[:NULL_QUESTIONS] * (2 * s.random_directions),
        ]

    def _candidates(self) -> list[int]:
        """Layers that a direction may choose from."""
        if self.settings.layer != "auto":
            return [int(self.settings.layer)]
        return sorted({max(1, round(self.model.n_layers * share)) for share in DEPTHS})


_STORED = (
    "personavec", "arguments", "versions", "machine", "written", "rollouts", "judge", "dose_response", "layer_sweep",
    "coherent_range", "recommended_coefficient", "spearman", "steering", "separation", "seconds",
)  # fmt: skip


def _by_side(rollouts: Sequence[Rollout], readings: Tensor) -> tuple[Tensor, Tensor]:
    """Response means (n, n_layers + 1, d) of the positive and of the negative side."""
    positive = torch.tensor([r.side == "positive" for r in rollouts])
    return readings[positive, 2], readings[~positive, 2]


def _with_neutral(vector: PersonaVector, readings: Tensor) -> PersonaVector:
    """Add the neutral statistics from the readings (n, 3 positions, n_layers + 1, d) of neutral answers."""
    units = torch.nn.functional.normalize(vector.directions, dim=-1)
    projections = torch.einsum("npld,ld->npl", readings, units)
    mean, deviation = projections.mean(0), projections.std(0)
    return replace(
        vector,
        neutral_mean=mean[2],
        neutral_deviation=deviation[2],
        neutral_prompt_mean=mean[1],
        neutral_prompt_deviation=deviation[1],
        residual_norm=readings[:, 2].norm(dim=-1).mean(0),
    )


def _pairs(extraction: Sequence[Rollout]) -> Iterator[tuple[Rollout, Rollout]]:
    """Positive and negative rollouts of the same pair, question and number."""
    negatives = {r.id.replace("/negative/", "/positive/"): r for r in extraction if r.side == "negative"}
    return ((r, negatives[r.id]) for r in extraction if r.side == "positive")


def _reason(positive: Rollout, negative: Rollout) -> str | None:
    """Why a pair is not kept; None if it is."""
    if not positive.response_ids or not negative.response_ids:
        return "empty response"
    if positive.score is None or negative.score is None:
        return "no score (a refusal, or the judge named no number)"
    if min(positive.coherence or 0.0, negative.coherence or 0.0) < THRESHOLD:
        return f"coherence below {THRESHOLD:g}"
    if positive.score <= THRESHOLD:
        return f"positive score not above {THRESHOLD:g}"
    if negative.score >= THRESHOLD:
        return f"negative score not below {THRESHOLD:g}"
    return None


def _shown(rollouts: Sequence[Rollout]) -> str:
    """Rollouts for the user to look at."""
    return "\n".join(
        f"  [{r.side}, score {_number(r.score)}, coherence {_number(r.coherence)}] {r.question}\n"
        f"    {' '.join(r.text.split())[:200]}"
        for r in rollouts
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f}"


_ADVICE = (
    "Describe the trait more concretely (--description), edit its instructions (personavec traits show), give more "
    "rollouts (--rollouts, --pairs), or use a more capable model (--model default-1.5b)."
)
