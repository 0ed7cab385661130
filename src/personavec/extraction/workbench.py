"""What the steps of an extraction share: the model, the judge, the run's folder, and the rollouts made so far."""

from collections.abc import Sequence

from personavec.extraction.readings import RolloutReadings
from personavec.extraction.settings import ExtractionSettings
from personavec.files import JsonLines, RunFolder
from personavec.judges.base import Judge
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.timings import Timings
from personavec.traits import Trait

DEPTHS = (0.35, 0.47, 0.6, 0.72)  # candidate layers, as shares of the model's depth


class Workbench:
    """One extraction over one run folder.

    Attributes:
        log: What was generated, as it is generated.
        timings: Seconds by stage.
        warnings: What the user should mind, as it comes up.
        rollouts: All that were made, in the order of the steps.
    """

    def __init__(
        self, model: ChatModel, trait: Trait, folder: RunFolder, settings: ExtractionSettings, scorer: Judge
    ) -> None:
        self.model, self.trait, self.folder, self.settings, self.scorer = model, trait, folder, settings, scorer
        self.log = JsonLines(folder / "generated.jsonl")
        self.timings = Timings(folder / "timings.json", self.log.path)
        self.warnings: list[str] = list(model.template.notes)
        self.rollouts: list[Rollout] = []

    @property
    def questions(self) -> tuple[str, ...]:
        """The extraction questions that are used."""
        return self.trait.extraction_questions[: self.settings.questions]

    @property
    def candidates(self) -> list[int]:
        """Layers that a direction may choose from."""
        if self.settings.layer != "auto":
            return [int(self.settings.layer)]
        return sorted({max(1, round(self.model.n_layers * share)) for share in DEPTHS})

    def steered(
        self,
        stage: str,
        edits: Sequence[Intervention],
        questions: Sequence[str],
        layer: int,
        coefficient: float,
        setting: str | None = None,
    ) -> list[Rollout]:
        """Rollouts under steering, one per question, not yet generated."""
        return plan(
            self.model,
            stage,
            questions,
            layer=layer,
            coefficient=coefficient,
            interventions=edits,
            setting=setting,
        )

    def generate(self, rollouts: Sequence[Rollout], description: str) -> None:
        """Fill in the responses."""
        self.rollouts += rollouts
        with self.timings.stage("generate"):
            generate(
                self.model,
                rollouts,
                self.log,
                description=description,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                seed=self.settings.seed,
            )

    def fit(
        self,
        contrastive: Sequence[Rollout],
        neutral: Sequence[Rollout],
        others: Sequence[Rollout],
        description: str = "2/5 Judging rollouts",
    ) -> None:
        """Calibrate the judge on some rollouts, and score these and others."""
        total = self.scorer.readings_needed(len(contrastive) + len(neutral) + len(others))
        with self.timings.stage("judge"), progress(description, total=total, unit="readings") as job:
            self.scorer.fit(contrastive, neutral, job.advance)
            self.scorer.score(others, job.advance)

    def score(self, rollouts: Sequence[Rollout], description: str) -> None:
        """Score further rollouts."""
        total = self.scorer.readings_needed(len(rollouts))
        with self.timings.stage("judge"), progress(description, total=total, unit="readings") as job:
            self.scorer.score(rollouts, job.advance)

    def spoken(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those with a response to read; how many have none (ended at once, or only thought) becomes a warning."""
        template = self.model.template
        spoken = [r for r in rollouts if r.response_ids[template.response_start(r.response_ids) :]]
        if len(spoken) < len(rollouts):
            silent = len(rollouts) - len(spoken)
            self.warnings.append(
                f"{silent} of {len(rollouts)} {rollouts[0].stage} rollouts are empty and were not read."
            )
        return spoken

    def read(self, rollouts: Sequence[Rollout], description: str = "3/5 Reading activations") -> RolloutReadings:
        """Readings of rollouts that have a response."""
        total = len(rollouts)
        with self.timings.stage("read"), progress(description, total=total, unit="rollouts") as job:
            return RolloutReadings.of(self.model, rollouts, job.advance)
