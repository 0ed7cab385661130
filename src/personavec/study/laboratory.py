"""What a study trains and measures with: the model, the vectors, and a folder that keeps every measurement."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from personavec.files import RunFolder, write_atomic
from personavec.finetune import Training, Tuned, fine_tune
from personavec.finetune.adapter import saved_adapter
from personavec.model import ChatModel
from personavec.shifts.measure import depths, prompt_readings
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.study.answers import Answers, Sheet
from personavec.study.families import DataSet
from personavec.study.result import BaseScores
from personavec.study.settings import Settings
from personavec.vector import PersonaVector, reading_sides

CHANGE = "change.safetensors"


class Laboratory:
    """One study's, over one folder. What was measured once is kept in a file of its own and not measured again."""

    def __init__(
        self, model: ChatModel, vectors: Sequence[PersonaVector], folder: RunFolder, settings: Settings
    ) -> None:
        self.model, self.folder, self.settings = model, folder, settings
        self.vectors, self.steering = reading_sides(vectors), {v.trait: v.steering for v in vectors}
        self.depths = depths(self.vectors)
        self.answers = Answers(model, vectors, folder.path, settings.answer_tokens, settings.seed)
        self.traits = self.answers.traits
        self.before = prompt_readings(model, self.vectors)

    def both_sheets(self, trait: str, questions: int) -> list[Sheet]:
        """Plain, to so many questions, and instructed."""
        sheet = self.answers.sheet
        return [sheet(trait, questions), sheet(trait, self.settings.questions, instructed=True)]

    def base(self, trait: str) -> BaseScores:
        """Scores of the model as it came."""
        scores = self.answers.scores
        return BaseScores(plain=scores("base", trait), instructed=scores("base", trait, instructed=True))

    def tuned(self, one: DataSet, name: str, training: Training, **choices: Any) -> Tuned:
        """Train on a data set; what was trained is not trained again. `choices`: of `fine_tune`."""
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
        after = prompt_readings(model, self.vectors)
        tensors = {trait: (after[trait, None] - self.before[trait, None]).contiguous() for trait in self.traits}
        write_atomic(path, save(tensors))

    def change(self, name: str) -> dict[str, Tensor]:
        """What `keep_change` kept: (questions, layers, d) by trait."""
        return load_file(self.folder / name / CHANGE)
