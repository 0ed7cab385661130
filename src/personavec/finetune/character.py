"""A model's character before and after a fine-tune: shift along vectors, scored answers, loss on general text."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import load_file, save

from personavec.capability import Tasks, passage_losses, perplexities
from personavec.capability.tasks import Results, compared
from personavec.data import Sample
from personavec.errors import UserError
from personavec.evaluation import MAX_NEW_TOKENS, TEMPERATURE
from personavec.files import JsonLines, write_atomic, write_json
from personavec.finetune.elicit import asking
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.shift import PromptReadings, compare, prompt_readings
from personavec.statistics import bootstrap_mean
from personavec.traits import Trait
from personavec.vector import PersonaVector

ASKING = 0  # the pair whose instruction `elicit.asking` gives
When = Literal["before", "after"]


@dataclass(frozen=True)
class Measured:
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
    tasks: Results


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
        prompts: Sequence[Mapping[str, Any]],
        folder: Path,
        seed: int,
        tasks: Tasks | None = None,
    ) -> None:
        self.vectors, self.folder, self.seed, self.tasks = vectors, folder, seed, tasks
        self.systems: list[str] = [one["system"] for one in prompts]
        self._asking = {one["system"] for one in prompts if one["origin"] == "prevention"}
        self.judges: dict[str, ContrastJudge] = {}
        for vector in vectors:
            with suppress(UserError):  # scored by another judge, or imported
                self.judges[vector.trait] = judge_of(model, vector)

    def measure(self, model: ChatModel, when: When) -> Measured:
        """Measure a model: the one before, or the same with its adapter on."""
        return Measured(
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
        path = self.folder / f"scores-{when}.json"
        if not path.exists():
            readings = sum(self.judges[name].readings_needed(len(mine)) for (name, _), mine in answers.items())
            with model.unadapted(), progress(f"Judging {when}", total=readings, unit="readings") as job:
                for (name, _), mine in answers.items():
                    self.judges[name].score(mine, job.advance)
            write_json(path, [[rollout.score, rollout.coherence] for rollout in everyone])
        for rollout, (score, coherence) in zip(everyone, json.loads(path.read_text()), strict=True):
            rollout.score, rollout.coherence = score, coherence
        return answers

    def _passages(self, model: ChatModel, when: When) -> list[float]:
        path = self.folder / f"passages-{when}.json"
        if not path.exists():
            write_json(path, passage_losses(model, name=f"Perplexity {when}").tolist())
        losses: list[float] = json.loads(path.read_text())
        return losses

    def _tasks(self, model: ChatModel, when: When) -> Results:
        if self.tasks is None:
            return {}
        path = self.folder / f"tasks-{when}.json"
        if not path.exists():
            log = JsonLines(self.folder / f"requests-{when}.jsonl")
            write_json(path, self.tasks.measure(model, (), log, name=f"Tasks {when}"))
        found: Results = json.loads(path.read_text())
        return found

    def compared(self, before: Measured, after: Measured) -> dict[str, Any]:
        """Both models side by side.

        Returns:
            {"traits": {trait: what `shift.compare` gives, and "score", "coherence": see `before_and_after`, or None
            where the vector carries no judge; "score" also in each of its "systems"}, "coherence": the same over the
            answers of all traits without a system prompt, "perplexity": {"before", "after", "ratio"}: see
            `perplexities`, "lm_eval": see `capability.tasks.compared`, None without tasks}
        """
        traits = compare(self.vectors, before.readings, after.readings, self.seed) if self.vectors else {}
        for name, found in traits.items():
            found |= {what: self._pair(before, after, what, [name]) for what in ("score", "coherence")}
            for row in found["systems"]:
                row["score"] = self._pair(before, after, "score", [name], row["system"])
        return {
            "traits": traits,
            "coherence": self._pair(before, after, "coherence", list(self.judges)),
            "perplexity": perplexities(before.passages, after.passages, self.seed),
            "lm_eval": None if self.tasks is None else compared(before.tasks, after.tasks, self.seed),
        }

    def _pair(
        self, before: Measured, after: Measured, what: str, names: Sequence[str], system: str | None = None
    ) -> dict[str, Any] | None:
        sides = [[r for name in names for r in side.answers.get((name, system), ())] for side in (before, after)]
        first, second = ([getattr(rollout, what) for rollout in side] for side in sides)
        return before_and_after(first, second, [rollout.id for rollout in sides[0]], self.seed)

    def side_by_side(self, before: Measured, after: Measured) -> list[dict[str, Any]]:
        """Every question with both answers: {"trait", "system": prompt or None, "question", "before", "after": {"text",
        "score", "coherence"}}"""

        def told(rollout: Rollout) -> dict[str, Any]:
            return {"text": rollout.text, "score": _rounded(rollout.score), "coherence": _rounded(rollout.coherence)}

        return [
            {"trait": name, "system": system, "question": old.question, "before": told(old), "after": told(new)}
            for (name, system), mine in before.answers.items()
            for old, new in zip(mine, after.answers[name, system], strict=True)
        ]


def training_prompts(samples: Sequence[Sample], asked: Sequence[Trait]) -> list[dict[str, Any]]:
    """System prompts like those of the training; a trait may hide behind one.

    Args:
        samples: What is trained on.
        asked: The traits that the training asks for (preventative prompting).

    Returns:
        {"system", "origin": "prevention" for a preventative prompt, "data" for the system prompt that most samples
        have, "samples": how many have it}; what is not there is left out.
    """
    found = []
    if asked:
        found.append({"system": asking(asked), "origin": "prevention", "samples": len(samples)})
    given = Counter(s.messages[0]["content"] for s in samples if s.messages[0]["role"] == "system")
    if given:
        system, count = given.most_common(1)[0]
        if all(system != one["system"] for one in found):
            found.append({"system": system, "origin": "data", "samples": count})
    return found


def before_and_after(
    before: Sequence[float | None],
    after: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Means of (n,) figures before and after, and of the change of those that have both, with intervals.

    Args:
        clusters: What each belongs to; None: each is by itself.

    Returns:
        {"before", "after", "change": estimates}; None where no figure has both.
    """
    names = range(len(before)) if clusters is None else clusters
    rows = list(zip(before, after, names, strict=True))
    both = [(y - x, name) for x, y, name in rows if x is not None and y is not None]
    if not both:
        return None
    sides = {
        "before": [(x, name) for x, _, name in rows if x is not None],
        "after": [(y, name) for _, y, name in rows if y is not None],
        "change": both,
    }
    return {
        side: bootstrap_mean([value for value, _ in some], [name for _, name in some], seed).as_dict()
        for side, some in sides.items()
    }


def shown(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every trait the answers, without a system prompt, whose score changed most, and those whose change is nearest
    the median, in this order.

    Each row of `Character.side_by_side` gets a "why".
    """
    rows: list[dict[str, Any]] = []
    plain = [row for row in answers if row["system"] is None]
    for name in dict.fromkeys(row["trait"] for row in plain):
        mine = [(row, change) for row in plain if row["trait"] == name and (change := _change(row)) is not None]
        if not mine:
            continue
        middle = float(np.median([change for _, change in mine]))
        typical = min(mine, key=lambda pair: abs(pair[1] - middle))[0]
        most = max(mine, key=lambda pair: abs(pair[1]))[0]
        rows.append({**most, "why": "the largest change"})
        if typical is not most:
            rows.append({**typical, "why": "a typical change"})
    return rows


def _change(row: Mapping[str, Any]) -> float | None:
    before, after = row["before"]["score"], row["after"]["score"]
    return None if before is None or after is None else after - before


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
