"""The suite: fine-tunes without prevention, what their data promised and what came of them (paper sections 4 and 5)."""

from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.data import Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.files import once, write_atomic
from personavec.finetune import FinetuneRun, Tuned
from personavec.finetune.push import beside_own
from personavec.projection.measure import readings
from personavec.projection.own_answers import OwnAnswers
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.study.families import DataSet
from personavec.study.figures import Before, FineTune, MeanAnswers, correlations, score_change
from personavec.study.laboratory import CHANGE, Laboratory
from personavec.study.result import Correlation, LossEnds, SuiteRow, SuiteScores

PULLED = 16  # samples of a data set that the model answers itself, for its projection difference
PULL = "pull.safetensors"


def place(one: DataSet) -> str:
    """Folder of a data set's fine-tune in the study's."""
    return f"suite/{one.name}"


class Suite:
    """The fine-tunes of one study: `train` on all, have the answers judged, then ask what is `found`."""

    def __init__(self, laboratory: Laboratory, sets: Sequence[DataSet]) -> None:
        self.lab, self.sets = laboratory, sets
        self.tuned: dict[str, Tuned] = {}

    def train(self) -> None:
        """Fine-tune on every data set without prevention, and measure what needs no judge."""
        lab = self.lab
        for one in self.sets:
            tuned = lab.tuned(one, place(one), lab.settings.training(method="none"))
            self.tuned[one.name] = tuned
            self.pull(one)
            # Filled in once, so made anew for each.
            sheets = lab.suite_sheets()
            with lab.adapted_model(tuned.adapter, place(one), sheets, CHANGE) as model:
                lab.keep_change(model, place(one))
                lab.ask(model, place(one), sheets)

    def pull(self, one: DataSet) -> dict[str, Estimate]:
        """The exact projection difference of a data set, by trait; its mean reading is kept in a file."""
        with self.lab.timings.stage("projection difference"):
            return once(self.lab.folder / place(one) / "pull.json", dict[str, Estimate], lambda: self._pull(one))

    def _pull(self, one: DataSet) -> dict[str, Estimate]:
        engine = TransformersEngine(self.lab.model)
        own = OwnAnswers(engine, self.lab.settings.max_new_tokens)
        samples = [record for record in open_data(one.path) if isinstance(record, Sample)][:PULLED]
        rows: list[Tensor] = []
        for both in beside_own(engine, samples, own, f"Projection difference, {one.name}"):
            sides = [theirs.conversations for _, theirs, _ in both], [ours.conversations for _, _, ours in both]
            first, second = (readings(engine, side, self.lab.depths).answers for side in sides)
            rows.append(first - second)
        if not rows:
            raise UserError(
                f"None of the first {len(samples)} samples of {one.name} can be compared with an answer of the model "
                "itself.",
                f"Their answers are only thoughts or too long, or the model has nothing to say: look into {one.path}",
            )
        table = torch.cat(rows)
        write_atomic(self.lab.folder / place(one) / PULL, save({"pull": table.mean(0).contiguous()}))
        return {
            v.trait: bootstrap_mean(
                (table[:, self.lab.depths.index(v.layer)] @ v.unit(v.layer)).double().numpy(),
                seed=self.lab.settings.seed,
            ).rounded()
            for v in self.lab.vectors
        }

    def rows(self) -> tuple[SuiteRow, ...]:
        """What came of every fine-tune, once its answers are judged."""
        return tuple(self.row(one, self.tuned[one.name].run) for one in self.sets)

    def row(self, one: DataSet, run: FinetuneRun) -> SuiteRow:
        """Of one fine-tune."""
        return SuiteRow(
            name=one.name,
            family=one.family,
            level=one.level,
            trained=run.trained,
            steps=run.steps,
            loss=LossEnds(first=run.loss.first, last=run.loss.last),
            held_out_loss=run.held_out_loss,
            difference=self.pull(one),
            shift={v.trait: self.lab.shift(v, place(one)) for v in self.lab.vectors},
            scores={trait: self.scores(trait, place(one)) for trait in self.lab.traits},
        )

    def scores(self, trait: str, name: str) -> SuiteScores:
        """Of one fine-tune, without and with the instruction to show the trait, and what it changed of both."""
        before, scores, seed = self.lab.base(trait), self.lab.answers.scores, self.lab.settings.seed
        plain = scores(name, trait)
        asked = scores(name, trait, instructed=True) if self.lab.settings.instructed else None
        return SuiteScores(
            **dict(plain),
            change=score_change(before.plain.by_question, plain.by_question, seed),
            instructed=None if asked is None else asked.score,
            instructed_change=asked
            if asked is None
            else score_change(before.instructed.by_question, asked.by_question, seed),
        )

    def correlations(self) -> dict[str, dict[str, Correlation]]:
        """See `figures.correlations`."""
        lab = self.lab
        before = Before({trait: lab.before[trait, None] for trait in lab.traits}, lab.depths, lab.domains())
        return correlations([self.fine_tune(one) for one in self.sets], lab.vectors, before, lab.settings.seed)

    def fine_tune(self, one: DataSet) -> FineTune:
        """What correlations are made of."""
        lab, name = self.lab, place(one)

        def means(instructed: bool) -> dict[str, MeanAnswers]:
            return {
                trait: MeanAnswers.of(lab.answers.scores(name, trait, instructed=instructed), [*judges])
                for trait, judges in lab.answers.juries.items()
            }

        return FineTune(
            one.family,
            one.level,
            means(False),
            means(True) if lab.settings.instructed else {},
            {trait: tensor.mean(0) for trait, tensor in lab.change(name).items()},
            load_file(lab.folder / name / PULL)["pull"],
        )
