"""Prevention: every way to keep a model from learning one data set's trait, what it saves and costs (section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from personavec.capability import passage_losses
from personavec.data import open_data
from personavec.files import write_json
from personavec.finetune import FinetuneRun
from personavec.finetune.coefficients import Coefficient
from personavec.finetune.examples import Encoder, TrainingSequence, read_samples
from personavec.finetune.methods import METHODS, Method
from personavec.finetune.savings import share_prevented
from personavec.interventions import steering
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.operations import Layers
from personavec.results import Result
from personavec.stats.bootstrap import bootstrap_mean
from personavec.study.families import DataSet, blended, unseen_task
from personavec.study.figures import more_loss, more_perplexity, task_learned
from personavec.study.laboratory import CHANGE, Laboratory
from personavec.study.result import AnswerScores, Arm, HalfOutcome, PreventionBase, TrainingCost, TraitPrevention
from personavec.vector import PersonaVector

INFERENCE = (-0.5, -1.0, -2.0)  # coefficients at which the unprotected fine-tune is steered
PENALTIES = (0.1, 1.0)  # of the method regularise
PASSAGES = 8  # of general text, on which the perplexity is measured
TASK_SAMPLES = 24  # unseen, on which the loss on the task is measured
LOSSES = "losses.json"


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        kind: Its method; "random" is steering along a random vector.
        coefficient, layers: See `Prevention`.
    """

    kind: str
    coefficient: Coefficient = None
    layers: Layers = "best"

    @property
    def method(self) -> Method:
        """What is done."""
        return METHODS["steer" if self.kind == "random" else self.kind]


@dataclass(frozen=True)
class Trial:
    """A way that was tried.

    Attributes:
        kind: See `Arm`.
        coefficient: Chosen or given; None: it takes none.
        run: Its training; None where the plain fine-tune is steered at inference.
    """

    kind: str
    coefficient: float | None
    run: FinetuneRun | None


class Losses(Result):
    """In nats per token.

    Attributes:
        task: Of unseen samples of the task.
        passages: Of general text.
    """

    task: tuple[float, ...]
    passages: tuple[float, ...]


class PreventionTrial:
    """Of one trait, on its overt data blended with a task (see `families.blended`): `train` in every way, have the
    answers judged, then ask for the `outcome`."""

    inference: Sequence[float] = INFERENCE

    def __init__(self, laboratory: Laboratory, vector: PersonaVector) -> None:
        self.lab, self.watched, self.trait = laboratory, vector, vector.trait
        self.vector = laboratory.steering[self.trait]
        data = laboratory.folder / "data"
        overt = DataSet(self.trait, "overt", data / f"{self.trait}-overt.jsonl")
        self.data = blended(overt, data, laboratory.settings.seed)
        self.trials: dict[str, Trial] = {}

    def place(self, way: str) -> str:
        """Folder of a way's fine-tune in the study's."""
        return f"prevention/{self.trait}/{way.replace(' ', '-')}"

    def train(self) -> None:
        """Train in every way, and measure what needs no judge."""
        lab, s = self.lab, self.lab.settings
        task = self.examples(unseen_task(lab.folder / "data", TASK_SAMPLES, s.seed))
        self.losses(lab.model, task, self.place("base"))
        along = {"random": self.random()}  # a random direction is no trait: it is not what is measured along
        for title, way in self.ways().items():
            name = self.place(title)
            pair = [(along.get(way.kind, self.vector), way.coefficient)] if way.method.along_vectors else []
            tuned = lab.tuned(self.data, name, s.training(method=way.method.name, layers=way.layers), prevent=pair)
            self.trials[title] = Trial(way.kind, next(iter(tuned.coefficients.values()), None), tuned.run)
            sheets = lab.both_sheets(self.trait, s.prevention_questions)
            with lab.adapted_model(tuned.adapter, name, sheets, CHANGE, LOSSES) as model:
                lab.keep_change(model, name)
                self.losses(model, task, name)
                lab.answers.ask(model, name, sheets)
        plain = lab.folder / self.place("none") / "tuned" / "adapter"
        for coefficient in self.inference:
            title = f"steered at inference {coefficient:g}"
            name, steered = self.place(title), steering(self.vector, coefficient)
            sheets = [lab.answers.sheet(self.trait, s.prevention_questions, interventions=steered)]
            with lab.adapted_model(plain, name, sheets, LOSSES) as model:
                self.losses(model, task, name, steered)
                lab.answers.ask(model, name, sheets)
            self.trials[title] = Trial("inference", coefficient, None)

    def ways(self) -> dict[str, Way]:
        """Every way to train, by its name."""
        coefficients = self.lab.settings.coefficients
        middle = coefficients[len(coefficients) // 2]
        return (
            {"none": Way("none")}
            | {f"steer {value:g}": Way("steer", value) for value in coefficients}
            | {
                "steer auto": Way("steer", "auto"),
                f"random {middle:g}": Way("random", middle),
                "prompt": Way("prompt"),
                "ablate": Way("ablate", layers="all"),
                "interleave": Way("interleave"),
            }
            | {f"regularise {value:g}": Way("regularise", value) for value in PENALTIES}
            | {f"steer {value:g} all layers": Way("steer", value, "all") for value in (middle / 2, middle)}
        )

    def random(self) -> PersonaVector:
        """A random direction at every layer, as long as the vector's."""
        own = self.vector.directions
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.lab.settings.seed))
        noise = noise / noise.norm(dim=1, keepdim=True) * own.norm(dim=1, keepdim=True)
        return replace(self.vector, trait="random", directions=noise)

    def losses(
        self, model: ChatModel, task: Sequence[TrainingSequence], name: str, interventions: Sequence[Intervention] = ()
    ) -> None:
        """Keep the losses of unseen samples of the task and of passages of general text."""
        path = self.lab.folder / name / LOSSES
        if path.exists():
            return
        ids, labels = [example.ids for example in task], [example.labels for example in task]
        starts = [example.start for example in task]  # steering acts on the response, as in the answers
        on_task = sequence_losses(model, ids, labels, interventions, starts, name="Loss on the task")
        on_text = passage_losses(model, interventions, first=PASSAGES)
        write_json(path, Losses(task=tuple(on_task.tolist()), passages=tuple(on_text.tolist())).as_json())

    def examples(self, one: DataSet) -> list[TrainingSequence]:
        """A data set as the model reads it."""
        encoder = Encoder(self.lab.model, self.lab.model.context_length)
        return [example for mine in read_samples(encoder, open_data(one.path), one.name).examples for example in mine]

    def outcome(self) -> TraitPrevention:
        """What every way saved and cost, once its answers are judged."""
        lab, trait = self.lab, self.trait
        base = lab.base(trait)
        plain = next(title for title, trial in self.trials.items() if trial.kind == "none")
        return TraitPrevention(
            data=self.data.name,
            vector_norm=float(self.vector.at(self.vector.layer).norm()),
            base=PreventionBase(**dict(base), **dict(self.cost("base"))),
            arms=tuple(self.arm(title, trial, base.plain, plain) for title, trial in self.trials.items()),
        )

    def arm(self, title: str, trial: Trial, base: AnswerScores, plain: str) -> Arm:
        """What one way saved and cost.

        Args:
            base: Of the model as it came.
            plain: Name of the way without prevention.
        """
        lab, name = self.lab, self.place(title)
        arm = Arm(
            **dict(lab.answers.scores(name, self.trait)),
            **dict(self.cost(title)),
            arm=title,
            kind=trial.kind,
            coefficient=trial.coefficient,
            prevented=self.half(base, plain, title).prevented,
            # Chosen by one half of the questions and samples, a way is judged by the other.
            halves=(
                self.half(base, plain, title, slice(0, None, 2)),
                self.half(base, plain, title, slice(1, None, 2)),
            ),
        )
        if trial.run is None:
            return arm
        held_out = trial.run.held_out_loss
        trained = {
            "instructed": lab.answers.scores(name, self.trait, instructed=True).score,
            "shift": lab.shift(self.watched, name).rounded(),
            "held_out_loss": None if held_out is None else held_out.after,
            "seconds": trial.run.training_seconds,
        }
        return arm.model_copy(update=trained)

    def half(self, base: AnswerScores, plain: str, title: str, part: slice = slice(None)) -> HalfOutcome:
        """Share of the rise prevented and change of the loss on the task, on a part of the questions and samples."""
        seed, scores = self.lab.settings.seed, self.lab.answers.scores
        without, after = (scores(self.place(one), self.trait).by_question for one in (plain, title))
        first, second = (self.measured(one).task for one in (plain, title))
        return HalfOutcome(
            prevented=share_prevented(base.by_question[part], without[part], after[part], seed),
            task_change=more_loss(first[part], second[part], seed),
        )

    def cost(self, way: str) -> TrainingCost:
        """Loss on the task, and how it and the perplexity of general text compare with training without prevention."""
        base, plain, mine = (self.measured(one) for one in ("base", "none", way))
        seed = self.lab.settings.seed
        return TrainingCost(
            task_loss=bootstrap_mean(mine.task, seed=seed),
            task_change=more_loss(plain.task, mine.task, seed),
            task_learned=task_learned(base.task, plain.task, mine.task, seed),
            perplexity_change=more_perplexity(plain.passages, mine.passages, seed),
        )

    def measured(self, way: str) -> Losses:
        """Of a way's fine-tune, see `losses`."""
        return Losses.model_validate_json((self.lab.folder / self.place(way) / LOSSES).read_bytes())
