"""A model's character before and after a fine-tune: shift along vectors, scored answers, loss on general text."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import load_file, save

from personavec.capability import Tasks, passage_losses, perplexities
from personavec.capability.result import TaskMetrics
from personavec.capability.tasks import compared
from personavec.data import Sample
from personavec.errors import UserError
from personavec.evaluation.settings import MAX_NEW_TOKENS, TEMPERATURE
from personavec.files import JsonLines, once, write_atomic
from personavec.finetune.instructions import trait_prompt
from personavec.finetune.result import (
    AnswerExample,
    AnswerPair,
    Change,
    CharacterChange,
    ScoredAnswer,
    SystemChange,
    TrainingPrompt,
    TraitChange,
)
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.shifts.measure import PromptReadings, compare, prompt_readings
from personavec.shifts.result import TraitShift
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits import Trait
from personavec.vector import PersonaVector

ASKING = 0  # the pair whose instruction `trait_prompt` gives
When = Literal["before", "after"]
Points = tuple[float | None, float | None]  # score and coherence of an answer


@dataclass(frozen=True)
class Snapshot:
    """What was measured of one model.

    Attributes:
        readings: See `shift.prompt_readings`; empty without vectors.
        answers: Scored answers to the evaluation questions, by trait and system prompt (None: without one); only of
            vectors that carry a contrast judge.
        passages: See `capability.passage_losses`.
        tasks: See `Tasks.measure`; empty without any.
    """

    readings: PromptReadings
    answers: Mapping[tuple[str, str | None], Sequence[Rollout]]
    passages: Sequence[float]
    tasks: TaskMetrics


class Character:
    """Measures a model before and after, by the same questions, seeds and judges.

    Every part is kept on disk once it is finished, so that a run that was cut off does not repeat it.

    Args:
        model: The model before. It judges, also what the tuned model says.
        vectors: Of it, of different traits whose questions are known. The judge of an answer is the contrast judge
            that its trait's vector carries, so that scores are on the scale of the extraction.
        prompts: System prompts under which the shift and the scores are measured too; see `training_prompts`.
        folder: Where the parts are kept.
        seed: Of answers and intervals.
        tasks: Of lm-evaluation-harness.
    """

    def __init__(
        self,
        model: ChatModel,
        vectors: Sequence[PersonaVector],
        prompts: Sequence[TrainingPrompt],
        folder: Path,
        seed: int,
        tasks: Tasks | None = None,
    ) -> None:
        self.vectors, self.folder, self.seed, self.tasks = vectors, folder, seed, tasks
        self.systems: list[str] = [prompt.system for prompt in prompts]
        self._asking = {prompt.system for prompt in prompts if prompt.origin == "prevention"}
        self.judges: dict[str, ContrastJudge] = {}
        for vector in vectors:
            with suppress(UserError):  # scored by another judge, or imported
                self.judges[vector.trait] = judge_of(model, vector)

    def measure(self, model: ChatModel, when: When) -> Snapshot:
        """Measure a model: the one before, or the same with its adapter on."""
        return Snapshot(
            self._readings(model, when),
            self._answers(model, when),
            self._passages(model, when),
            self._tasks(model, when),
        )

    def _readings(self, model: ChatModel, when: When) -> PromptReadings:
        if not self.vectors:
            return {}
        path = self.folder / f"readings-{when}.safetensors"
        if not path.exists():
            found = prompt_readings(model, self.vectors, self.systems)
            write_atomic(path, save({str(at): one.contiguous() for at, one in enumerate(found.values())}))
        stored = load_file(path)
        keys = [(vector.trait, system) for vector in self.vectors for system in (None, *self.systems)]
        return {key: stored[str(at)] for at, key in enumerate(keys)}

    def _answers(self, model: ChatModel, when: When) -> dict[tuple[str, str | None], list[Rollout]]:
        answers: dict[tuple[str, str | None], list[Rollout]] = {}
        for name, judge in self.judges.items():
            for at, system in enumerate((None, *self.systems)):
                setting = name if system is None else f"{name}, system prompt {at}"
                made = plan(model, "evaluation", judge.trait.evaluation_questions, system=system, setting=setting)
                for rollout in made:  # what they are asked for with must not judge them
                    rollout.pair = ASKING if system in self._asking else None
                answers[name, system] = made
        everyone = [rollout for mine in answers.values() for rollout in mine]
        log = JsonLines(self.folder / f"generated-{when}.jsonl")
        options: dict[str, Any] = {
            "max_new_tokens": MAX_NEW_TOKENS,
            "temperature": TEMPERATURE,
            "seed": self.seed,
        }
        if everyone:
            generate(model, everyone, log, description=f"Answering {when}", **options)

        def scored() -> list[Points]:
            readings = sum(self.judges[name].readings_needed(len(mine)) for (name, _), mine in answers.items())
            with model.unadapted(), progress(f"Judging {when}", total=readings, unit="readings") as job:
                for (name, _), mine in answers.items():
                    self.judges[name].score(mine, job.advance)
            return [(rollout.score, rollout.coherence) for rollout in everyone]

        points = once(self.folder / f"scores-{when}.json", list[Points], scored)
        for rollout, (score, coherence) in zip(everyone, points, strict=True):
            rollout.score, rollout.coherence = score, coherence
        return answers

    def _passages(self, model: ChatModel, when: When) -> list[float]:
        path = self.folder / f"passages-{when}.json"
        return once(path, list[float], lambda: passage_losses(model, name=f"Perplexity {when}").tolist())

    def _tasks(self, model: ChatModel, when: When) -> TaskMetrics:
        tasks, log = self.tasks, JsonLines(self.folder / f"requests-{when}.jsonl")
        if tasks is None:
            return {}
        path = self.folder / f"tasks-{when}.json"
        return once(path, TaskMetrics, lambda: tasks.measure(model, (), log, name=f"Tasks {when}"))

    def measurements(self, before: Snapshot, after: Snapshot) -> CharacterChange:
        """Both models side by side."""
        shifts = compare(self.vectors, before.readings, after.readings, self.seed) if self.vectors else {}
        return CharacterChange(
            traits={name: self._trait_change(name, shift, before, after) for name, shift in shifts.items()},
            coherence=self._change(before, after, "coherence", list(self.judges)),
            perplexity=perplexities(before.passages, after.passages, self.seed),
            lm_eval=None if self.tasks is None else compared(before.tasks, after.tasks, self.seed),
        )

    def _trait_change(self, name: str, shift: TraitShift, before: Snapshot, after: Snapshot) -> TraitChange:
        return TraitChange(
            layer=shift.layer,
            shift=shift.shift,
            neutral_deviations=shift.neutral_deviations,
            nulls=shift.nulls,
            others=shift.others,
            systems=tuple(
                SystemChange(
                    system=under.system,
                    shift=under.shift,
                    score=self._change(before, after, "score", [name], under.system),
                )
                for under in shift.systems
            ),
            score=self._change(before, after, "score", [name]),
            coherence=self._change(before, after, "coherence", [name]),
        )

    def _change(
        self,
        before: Snapshot,
        after: Snapshot,
        what: Literal["score", "coherence"],
        names: Sequence[str],
        system: str | None = None,
    ) -> Change | None:
        sides = [[r for name in names for r in side.answers.get((name, system), ())] for side in (before, after)]
        first, second = ([getattr(rollout, what) for rollout in side] for side in sides)
        return before_and_after(first, second, [rollout.id for rollout in sides[0]], self.seed)

    def answer_pairs(self, before: Snapshot, after: Snapshot) -> list[AnswerPair]:
        """Every question with both answers."""
        return [
            AnswerPair(
                trait=name, system=system, question=old.question, before=_scored_answer(old), after=_scored_answer(new)
            )
            for (name, system), mine in before.answers.items()
            for old, new in zip(mine, after.answers[name, system], strict=True)
        ]


def training_prompts(samples: Sequence[Sample], asked: Sequence[Trait]) -> list[TrainingPrompt]:
    """System prompts like those of the training; what is not there is left out.

    Args:
        samples: What is trained on.
        asked: The traits that the training asks for (preventative prompting).
    """
    prompts = []
    if asked:
        prompts.append(TrainingPrompt(system=trait_prompt(asked), origin="prevention", samples=len(samples)))
    given = Counter(s.messages[0]["content"] for s in samples if s.messages[0]["role"] == "system")
    if given:
        system, count = given.most_common(1)[0]
        if all(system != prompt.system for prompt in prompts):
            prompts.append(TrainingPrompt(system=system, origin="data", samples=count))
    return prompts


def before_and_after(
    before: Sequence[float | None],
    after: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Change | None:
    """Means of (n,) figures before and after, and of the change of those that have both, with intervals.

    Args:
        clusters: What each belongs to; None: each is by itself.

    Returns:
        None where no figure has both.
    """
    names = range(len(before)) if clusters is None else clusters
    rows = list(zip(before, after, names, strict=True))
    both = [(y - x, name) for x, y, name in rows if x is not None and y is not None]
    if not both:
        return None
    return Change(
        before=_clustered_mean([(x, name) for x, _, name in rows if x is not None], seed),
        after=_clustered_mean([(y, name) for _, y, name in rows if y is not None], seed),
        change=_clustered_mean(both, seed),
    )


def _clustered_mean(figures: Sequence[tuple[float, Hashable]], seed: int) -> Estimate:
    return bootstrap_mean([value for value, _ in figures], [name for _, name in figures], seed)


def answer_examples(pairs: Sequence[AnswerPair]) -> list[AnswerExample]:
    """Of every trait the answers, without a system prompt, whose score changed most, and those whose change is nearest
    the median, in this order."""
    examples: list[AnswerExample] = []
    plain = [pair for pair in pairs if pair.system is None]
    for name in dict.fromkeys(pair.trait for pair in plain):
        mine = [(pair, pair.change) for pair in plain if pair.trait == name and pair.change is not None]
        if not mine:
            continue
        middle = float(np.median([change for _, change in mine]))
        typical, _ = min(mine, key=lambda row: abs(row[1] - middle))
        most, _ = max(mine, key=lambda row: abs(row[1]))
        examples.append(_example(most, "the largest change"))
        if typical is not most:
            examples.append(_example(typical, "a typical change"))
    return examples


def _example(pair: AnswerPair, why: str) -> AnswerExample:
    return AnswerExample(
        trait=pair.trait, system=pair.system, question=pair.question, before=pair.before, after=pair.after, why=why
    )


def _scored_answer(rollout: Rollout) -> ScoredAnswer:
    return ScoredAnswer(text=rollout.text, score=_rounded(rollout.score), coherence=_rounded(rollout.coherence))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
