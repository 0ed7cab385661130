"""The fine-tuning study: many small fine-tunes, what each did to the character, and what prevention saves."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.capability import passage_losses
from personavec.data import Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.files import RunFolder, write_atomic, write_json
from personavec.finetune import Training, Tuned, fine_tune
from personavec.finetune.adapter import wearing
from personavec.finetune.examples import Encoder, Example, read_samples
from personavec.interventions import steering
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.model.intervene import Intervention
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.report.study import write_study_report
from personavec.screening.answers import OwnAnswers
from personavec.screening.measure import own_answers, readings, tokenise
from personavec.shift import depths, prompt_readings
from personavec.statistics import bootstrap_mean
from personavec.study.answers import Answers, Sheet
from personavec.study.families import DataSet, blended, flawed_sets, trait_sets, unseen_task
from personavec.study.figures import Fine, correlations, more_loss, more_perplexity, prevented
from personavec.study.tables import page
from personavec.study.verdict import verdict
from personavec.vector import PersonaVector

BATCH = 16  # samples whose own answers are written together
INFERENCE = (-0.5, -1.0, -2.0)  # coefficients at which the unprotected fine-tune is steered
PENALTY = 0.1  # of the method regularise
PASSAGES = 8  # of general text, on which the perplexity is measured
TASK_SAMPLES = 12  # unseen, on which the loss on the task is measured
PULLED = 16  # samples of a data set that the model answers itself, for its projection difference
CHANGE = "change.safetensors"
PULL = "pull.safetensors"
LOSSES = "losses.json"


@dataclass(frozen=True)
class Settings:
    """What decides the result of a study, besides the model, the vectors and further data.

    Attributes:
        samples: Of each data set.
        questions: Evaluation questions of each trait after each fine-tune, one answer each; also of those instructed to
            show the trait.
        prevention_questions: The same where prevention is judged.
        max_new_tokens: Longest answer in the trait data.
        answer_tokens: Longest answer to an evaluation question.
        coefficients: Of preventative steering.
        learning_rate, epochs, batch, rank: See `Training`. A few dozen samples need a larger rate than the paper's
            thousands.
        seed: Of everything random.
    """

    samples: int = 24
    questions: int = 4
    prevention_questions: int = 10
    max_new_tokens: int = 48
    answer_tokens: int = 32
    coefficients: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    learning_rate: float = 2e-4
    epochs: float = 1.0
    batch: int = 2
    rank: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--samples", self.samples, 10),
            ("--questions", self.questions, 2),
            ("--prevention-questions", self.prevention_questions, 2),
        ):
            if value < least:
                raise UserError(f"{option} {value} is too few.", f"Choose {least} or more.")

    def training(self, **choices: Any) -> Training:
        """Of one fine-tune."""
        return Training(
            **choices, learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch, accumulate=1,
            rank=self.rank, warmup_steps=2, held_out=0.25, checkpoint_every=10_000, watch_every=10_000, seed=self.seed,
        )  # fmt: skip


def study_finetune(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    out: Path | str,
    settings: Settings | None = None,
    *,
    data: Mapping[str, Path | str] | None = None,
    prevent: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Fine-tune on families of data at three levels, and again with every way of prevention (paper sections 4 and 5).

    Families: each vector's trait in the model's own words, five flawed domains made by program; three levels each
    (see `families`). Of every fine-tune the shift, the trait scores and the data's projection difference are measured;
    `figures.correlations` compares them. On the overt data of each trait to prevent, every method is tried, also with a
    random vector of equal length, and the unprotected fine-tune is steered at inference.

    Args:
        vectors: Of the model, extracted with the contrast judge, a trait each.
        out: Run folder; an interrupted study goes on.
        data: Further data sets by name.
        prevent: Names of traits; None: the first vector's.

    Returns:
        The content of run.json.

    Raises:
        UserError: Vectors of another model, a trait that the model does not show, or what `fine_tune` raises.
    """
    settings = settings or Settings()
    for vector in vectors:
        vector.check(model)
    names = [vector.trait for vector in vectors]
    unknown = set(prevent or ()) - set(names)
    if unknown:
        raise UserError(f"There is no vector of {', '.join(sorted(unknown))}.", f"There are: {', '.join(names)}.")
    given = {name: open_data(path) for name, path in (data or {}).items()}
    arguments = {
        **asdict(settings),
        **identity(model),
        "vectors": {v.trait: hashlib.sha256(v.directions.numpy().tobytes()).hexdigest()[:16] for v in vectors},
        "data": {name: one.digest for name, one in given.items()},
        "prevent": list(prevent) if prevent is not None else names[:1],
    }
    with RunFolder(out, arguments) as folder:
        if not (folder / "run.json").exists():
            study = _Study(model, vectors, folder, settings)
            study.run({name: Path(path) for name, path in (data or {}).items()}, arguments["prevent"])
        run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return run


class _Study:
    """One study over one folder. Every part is measured once and kept in a file of its own."""

    def __init__(
        self, model: ChatModel, vectors: Sequence[PersonaVector], folder: RunFolder, settings: Settings
    ) -> None:
        self.model, self.vectors, self.folder, self.settings = model, list(vectors), folder, settings
        self.depths = depths(vectors)
        self.answers = Answers(model, vectors, folder.path, settings.answer_tokens, settings.seed)
        self.traits = self.answers.traits
        self.before = prompt_readings(model, vectors)

    def run(self, data: Mapping[str, Path], prevent: Sequence[str]) -> None:
        """Everything, and the files that tell of it."""
        start = time.monotonic()
        self.answers.ask(self.model, "base", self.base_sheets())
        fine = {one: self.plain(one) for one in self.sets(data)}
        arms = {vector.trait: self.arms_trained(vector) for vector in self.vectors if vector.trait in prevent}
        self.answers.judge()
        suite = [self.told(one, tuned) for one, tuned in fine.items()]
        run = {
            "command": "study finetune",
            **provenance(self.model, self.folder.arguments),
            "layers": {vector.trait: vector.layer for vector in self.vectors},
            "base": {name: self.base(name) for name in self.traits},
            "suite": suite,
            "correlations": self.correlations(suite),
            "prevention": {v.trait: self.prevention(v, arms[v.trait]) for v in self.vectors if v.trait in arms},
            "seconds": round(time.monotonic() - start, 1),
        }
        run["verdict"] = verdict(run)
        write_atomic(self.folder / "study.md", page(run))
        write_study_report(run, self.folder / "report.html")
        write_json(self.folder / "run.json", run)

    def sets(self, given: Mapping[str, Path]) -> list[DataSet]:
        """All data sets."""
        s, folder = self.settings, self.folder / "data"
        made = [
            one
            for vector in self.vectors
            for one in trait_sets(
                self.model, vector, self.traits[vector.trait], folder, s.samples, s.max_new_tokens, s.seed
            )
        ]
        return [*made, *flawed_sets(folder, s.samples, s.seed), *(DataSet(n, None, path) for n, path in given.items())]

    def base_sheets(self) -> list[Sheet]:
        """What the model as it came is asked: for each trait plainly, and instructed to show it."""
        return [sheet for trait in self.traits for sheet in self.both_sheets(trait)]

    def both_sheets(self, trait: str) -> list[Sheet]:
        """Plain and instructed."""
        s, sheet = self.settings, self.answers.sheet
        return [sheet(trait, s.prevention_questions), sheet(trait, s.questions, instructed=True)]

    def base(self, trait: str) -> dict[str, Any]:
        """Scores of the model as it came."""
        found = self.answers.found
        return {"plain": found("base", trait), "instructed": found("base", trait, instructed=True)}

    def tuned(self, one: DataSet, name: str, training: Training, **choices: Any) -> Tuned:
        return fine_tune(self.model, one.path, self.folder / name / "tuned", training, measure=False, **choices)

    def plain(self, one: DataSet) -> Tuned:
        """Fine-tune on a data set without prevention, and measure what the data promised and what came of it."""
        name = f"suite/{one.name}"
        tuned = self.tuned(one, name, self.settings.training(method="none"))
        self.pull(one, self.folder / name)
        sheets = [self.answers.sheet(trait, self.settings.questions) for trait in self.traits]
        with self.dressed(tuned.adapter, name, sheets, CHANGE) as model:
            self.change(model, self.folder / name)
            self.answers.ask(model, name, sheets)
        return tuned

    def told(self, one: DataSet, tuned: Tuned) -> dict[str, Any]:
        """What came of a fine-tune, once its answers are judged."""
        name = f"suite/{one.name}"
        change = load_file(self.folder / name / CHANGE)
        return {
            "name": one.name,
            "family": one.family,
            "level": one.level,
            "trained": tuned.run["trained"],
            "steps": tuned.steps,
            "loss": {"first": tuned.run["loss"]["first"], "last": tuned.run["loss"]["last"]},
            "held_out_loss": tuned.run["held_out_loss"],
            "difference": self.pull(one, self.folder / name),
            "shift": {v.trait: self.shift(v, change) for v in self.vectors},
            "scores": {trait: self.answers.found(name, trait) for trait in self.traits},
        }

    def shift(self, vector: PersonaVector, change: Mapping[str, Tensor]) -> dict[str, Any]:
        """Mean of the change along a vector at its layer, over its questions."""
        along = change[vector.trait][:, self.depths.index(vector.layer)] @ vector.unit(vector.layer)
        return bootstrap_mean(along.double().numpy(), seed=self.settings.seed).as_dict()

    def dressed(
        self, adapter: Path, name: str, sheets: Sequence[Sheet], *files: str
    ) -> AbstractContextManager[ChatModel]:
        """The model with an adapter on; without, if nothing is wanted of it any more."""
        done = all((self.folder / name / file).exists() for file in files) and self.answers.complete(name, sheets)
        return nullcontext(self.model) if done else wearing(self.model, adapter)

    def change(self, model: ChatModel, folder: Path) -> None:
        """Keep the change of every question's last prompt token, (questions, layers, d) by trait."""
        path = folder / CHANGE
        if path.exists():
            return
        after = prompt_readings(model, self.vectors)
        tensors = {name: (after[name, None] - self.before[name, None]).contiguous() for name in self.traits}
        write_atomic(path, save(tensors))

    def pull(self, one: DataSet, folder: Path) -> dict[str, Any]:
        """The exact projection difference of a data set, by trait; its mean reading is kept in a file."""
        path, figures = folder / PULL, folder / "pull.json"
        if figures.exists():
            kept: dict[str, Any] = json.loads(figures.read_text())
            return kept
        engine = TransformersEngine(self.model)
        own = OwnAnswers(engine, self.settings.max_new_tokens)
        samples = [record for record in open_data(one.path) if isinstance(record, Sample)][:PULLED]
        rows: list[Tensor] = []
        with progress(f"Projection difference, {one.name}", total=len(samples), unit="samples") as job:
            for start in range(0, len(samples), BATCH):
                batch = samples[start : start + BATCH]
                both = [
                    (tokenise(engine, sample, "all").conversations, ours)
                    for sample, ours in zip(batch, own_answers(engine, batch, "all", own), strict=True)
                    if ours
                ]
                if both:
                    theirs, mine = (readings(engine, [pair[k] for pair in both], self.depths)[:, 1] for k in (0, 1))
                    rows.append(theirs - mine)
                job.advance(len(batch))
        table = torch.cat(rows)
        write_atomic(path, save({"pull": table.mean(0).contiguous()}))
        found = {
            v.trait: bootstrap_mean(
                (table[:, self.depths.index(v.layer)] @ v.unit(v.layer)).double().numpy(), seed=self.settings.seed
            ).as_dict()
            for v in self.vectors
        }
        write_json(figures, found)
        return found

    def correlations(self, suite: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `figures.correlations`."""
        runs = []
        for row in suite:
            folder = self.folder / "suite" / row["name"]
            score = {name: one["score"] for name, one in row["scores"].items()}
            change = load_file(folder / CHANGE)
            runs.append(
                Fine(
                    row["family"],
                    {name: one["mean"] if one else None for name, one in score.items()},
                    {name: one["coherence"]["mean"] for name, one in row["scores"].items()},
                    {name: tensor.mean(0) for name, tensor in change.items()},
                    load_file(folder / PULL)["pull"],
                )
            )
        readings = {name: self.before[name, None] for name in self.traits}
        return correlations(runs, self.vectors, readings, self.depths, self.settings.seed)

    def arms_trained(self, vector: PersonaVector) -> dict[str, tuple[float | None, Tuned | None]]:
        """Train in every way of prevention on a trait's overt data blended with a task, see `families.blended`.

        Returns:
            The coefficient of each arm and its training; no training where the plain one is steered at inference.
        """
        s, trait, one = self.settings, vector.trait, self.blend(vector)
        task = self._examples(unseen_task(self.folder / "data", TASK_SAMPLES, s.seed))
        self.losses(self.model, task, self._arm(vector, "base"))
        arms: dict[str, tuple[float | None, Tuned | None]] = {}
        for arm, (method, used, coefficient, choices) in self.arms(vector).items():
            name = self._arm(vector, arm)
            pair = [] if method in ("none", "interleave") else [(used, coefficient)]
            # A random direction is no trait: what it was trained with is told from what it is measured by.
            tuned = self.tuned(one, name, s.training(method=method, **choices), prevent=pair)
            arms[arm] = next(iter(tuned.coefficients.values()), None), tuned
            sheets = self.both_sheets(trait)
            with self.dressed(tuned.adapter, name, sheets, CHANGE, LOSSES) as model:
                self.change(model, self.folder / name)
                self.losses(model, task, name)
                self.answers.ask(model, name, sheets)
        plain = self.folder / self._arm(vector, "none") / "tuned" / "adapter"
        for coefficient in INFERENCE:
            arm = f"steered at inference {coefficient:g}"
            name, steered = self._arm(vector, arm), steering(vector, coefficient)
            sheets = [self.answers.sheet(trait, s.prevention_questions, interventions=steered)]
            with self.dressed(plain, name, sheets, LOSSES) as model:
                self.losses(model, task, name, steered)
                self.answers.ask(model, name, sheets)
            arms[arm] = coefficient, None
        return arms

    def blend(self, vector: PersonaVector) -> DataSet:
        """What every way of prevention is trained on."""
        data = self.folder / "data"
        overt = DataSet(vector.trait, "overt", data / f"{vector.trait}-overt.jsonl")
        return blended(overt, data, self.settings.seed)

    def _arm(self, vector: PersonaVector, arm: str) -> str:
        return f"prevention/{vector.trait}/{arm.replace(' ', '-')}"

    def prevention(
        self, vector: PersonaVector, arms: Mapping[str, tuple[float | None, Tuned | None]]
    ) -> dict[str, Any]:
        """What every way of prevention saved and cost, once its answers are judged."""
        trait, seed = vector.trait, self.settings.seed
        rows = []
        for arm, (coefficient, tuned) in arms.items():
            name = self._arm(vector, arm)
            row = {"arm": arm, "coefficient": coefficient, **self.answers.found(name, trait), **self.cost(vector, arm)}
            if tuned is not None:
                row |= {
                    "instructed": self.answers.found(name, trait, instructed=True)["score"],
                    "shift": self.shift(vector, load_file(self.folder / name / CHANGE)),
                    "held_out_loss": tuned.run["held_out_loss"]["after"],
                    "seconds": tuned.run["training_seconds"],
                }
            rows.append(row)
        base = {**self.base(trait), **self.cost(vector, "base")}
        plain = next(row for row in rows if row["arm"] == "none")
        for row in rows:
            row["prevented"] = prevented(base["plain"]["by_question"], plain["by_question"], row["by_question"], seed)
        return {
            "data": self.blend(vector).name,
            "vector_norm": round(float(vector.at(vector.layer).norm()), 4),
            "base": base,
            "arms": rows,
        }

    def cost(self, vector: PersonaVector, arm: str) -> dict[str, Any]:
        """Loss on the task, and how it and the perplexity of general text compare with training without prevention."""
        plain, mine = (json.loads((self.folder / self._arm(vector, one) / LOSSES).read_text()) for one in ("none", arm))
        seed = self.settings.seed
        return {
            "task_loss": bootstrap_mean(mine["task"], seed=seed).as_dict(),
            "task_change": more_loss(plain["task"], mine["task"], seed),
            "perplexity_change": more_perplexity(plain["passages"], mine["passages"], seed),
        }

    def _examples(self, one: DataSet) -> list[Example]:
        found = read_samples(Encoder(self.model, self.model.context_length), open_data(one.path), one.name)
        return [example for mine in found.examples for example in mine]

    def losses(
        self, model: ChatModel, task: Sequence[Example], name: str, interventions: Sequence[Intervention] = ()
    ) -> None:
        """Keep the losses of unseen samples of the task and of passages of general text."""
        path = self.folder / name / LOSSES
        if path.exists():
            return
        ids, labels = [example.ids for example in task], [example.labels for example in task]
        on_task = sequence_losses(model, ids, labels, interventions, name="Loss on the task")
        write_json(
            path, {"task": on_task.tolist(), "passages": passage_losses(model, interventions, first=PASSAGES).tolist()}
        )

    def arms(self, vector: PersonaVector) -> dict[str, tuple[str, PersonaVector, Any, dict[str, Any]]]:
        """Name of every way to train: method, vector, coefficient, further choices of the training."""
        s = self.settings
        middle = s.coefficients[len(s.coefficients) // 2]
        noise = torch.randn(vector.directions.shape, generator=torch.Generator().manual_seed(s.seed))
        noise = noise / noise.norm(dim=1, keepdim=True) * vector.directions.norm(dim=1, keepdim=True)
        random = replace(vector, trait="random", directions=noise)
        ways: dict[str, tuple[str, PersonaVector, Any, dict[str, Any]]] = {"none": ("none", vector, None, {})}
        ways |= {f"steer {value:g}": ("steer", vector, value, {}) for value in s.coefficients}
        ways |= {
            "steer auto": ("steer", vector, "auto", {}),
            f"random {middle:g}": ("steer", random, middle, {}),
            "prompt": ("prompt", vector, None, {}),
            "ablate": ("ablate", vector, None, {"layers": "all"}),
            "interleave": ("interleave", vector, None, {}),
            f"regularise {PENALTY:g}": ("regularise", vector, PENALTY, {}),
            f"steer {middle:g} all layers": ("steer", vector, middle, {"layers": "all"}),
        }
        return ways
