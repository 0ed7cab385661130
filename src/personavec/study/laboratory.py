"""What a study trains and measures with: the model, the vectors, and a folder that keeps every measurement."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.engine.transformers import TransformersEngine
from personavec.files import RunFolder, write_atomic
from personavec.finetune import Training, Tuned, fine_tune
from personavec.finetune.adapter import saved_adapter
from personavec.model import ChatModel
from personavec.projection.bank import read_domains
from personavec.shifts.measure import depths, prompt_readings
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.study.answers import Answers, Sheet
from personavec.study.families import DataSet
from personavec.study.result import BaseScores
from personavec.study.settings import StudySettings
from personavec.timings import Timings
from personavec.vector import PersonaVector, reading_sides

CHANGE = "change.safetensors"


class Laboratory:
    """One study's, over one folder. What was measured once is kept in a file of its own and not measured again."""

    def __init__(
        self, model: ChatModel, vectors: Sequence[PersonaVector], folder: RunFolder, settings: StudySettings
    ) -> None:
        self.model, self.folder, self.settings = model, folder, settings
        self.timings = Timings(folder / "timings.json", folder / "timings.json")
        self.vectors, self.steering = reading_sides(vectors), {v.trait: v.steering for v in vectors}
        self.depths = depths(self.vectors)
        with self.timings.stage("before training"):
            self.answers = Answers(model, vectors, folder.path, settings.answer_tokens, settings.seed)
            self.before = prompt_readings(model, self.vectors)
        self.traits = self.answers.traits

    def both_sheets(self, trait: str, questions: int) -> list[Sheet]:
        """Plain, to so many questions, and instructed."""
        sheet = self.answers.sheet
        return [sheet(trait, questions), sheet(trait, self.settings.questions, instructed=True)]

    def suite_sheets(self) -> list[Sheet]:
        """Of all traits, after each fine-tune without prevention."""
        traits, s = self.traits, self.settings
        if s.instructed:
            return [sheet for trait in traits for sheet in self.both_sheets(trait, s.questions)]
        return [self.answers.sheet(trait, s.questions) for trait in traits]

    def domains(self) -> dict[int, Tensor]:
        """Mean readings (domains, d) of clean domains, by the layers of the vectors."""
        with self.timings.stage("clean domains"):
            found = read_domains(TransformersEngine(self.model), self.depths)
        return {layer: torch.stack([rows.mean(0) for rows in of.values()]) for layer, of in found.items()}

    def ask(self, model: ChatModel, name: str, sheets: Sequence[Sheet]) -> None:
        """See `Answers.ask`."""
        with self.timings.stage("answers"):
            self.answers.ask(model, name, sheets)

    def base(self, trait: str) -> BaseScores:
        """Scores of the model as it came."""
        scores = self.answers.scores
        return BaseScores(plain=scores("base", trait), instructed=scores("base", trait, instructed=True))

    def tuned(self, one: DataSet, name: str, training: Training, **choices: Any) -> Tuned:
        """Train on a data set; what was trained is not trained again. `choices`: of `fine_tune`."""
        with self.timings.stage("training"):
            return fine_tune(self.model, one.path, self.folder / name / "tuned", training, measure=False, **choices)

    def shift(self, vector: PersonaVector, name: str) -> Estimate:
        """Mean of the change along a vector at its layer, over its questions."""
        along = self.change(name)[vector.trait][:, self.depths.index(vector.layer)] @ vector.unit(vector.layer)
        return bootstrap_mean(along.double().numpy(), seed=self.settings.seed)

    def adapted_model(
        self, adapter: Path, name: str, sheets: Sequence[Sheet], *files: str
    ) -> AbstractContextManager[ChatModel]:
        """The model with an adapter on; without, if nothing is wanted of it any more."""
        done = all((self.folder / name / file).exists() for file in files) and self.answers.complete(name, sheets)
        return nullcontext(self.model) if done else saved_adapter(self.model, adapter)

    def keep_change(self, model: ChatModel, name: str) -> None:
        """Measure how far a fine-tune moved every question's last prompt token."""
        path = self.folder / name / CHANGE
        if path.exists():
            return
        with self.timings.stage("shift"):
            after = prompt_readings(model, self.vectors)
        tensors = {trait: (after[trait, None] - self.before[trait, None]).contiguous() for trait in self.traits}
        write_atomic(path, save(tensors))

    def change(self, name: str) -> dict[str, Tensor]:
        """What `keep_change` kept: (questions, layers, d) by trait."""
        return load_file(self.folder / name / CHANGE)
