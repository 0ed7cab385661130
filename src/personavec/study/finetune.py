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
from personavec.files import JsonLines, RunFolder, write_atomic, write_json
from personavec.finetune import Training, Tuned, fine_tune
from personavec.finetune.adapter import wearing
from personavec.finetune.examples import Encoder, Example, read_samples
from personavec.interventions import steering
from personavec.judges.contrast import ContrastJudge
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.model.intervene import Intervention
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.report.study import write_study_report
from personavec.rollouts import generate, plan
from personavec.screening.answers import OwnAnswers
from personavec.screening.measure import own_answers, readings, tokenise
from personavec.shift import depths, prompt_readings
from personavec.specificity import judge_of
from personavec.statistics import bootstrap_mean
from personavec.study.families import DataSet, blended, flawed_sets, trait_sets, unseen_task
from personavec.study.figures import Fine, correlations, more_loss, more_perplexity, prevented
from personavec.study.tables import page
from personavec.study.verdict import verdict
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector

BATCH = 16  # samples whose own answers are written together
INFERENCE = (-0.5, -1.0, -2.0)  # coefficients at which the unprotected fine-tune is steered
TEMPERATURE = 0.7  # of evaluation answers
PENALTY = 0.1  # of the method regularise
TASK_SAMPLES = 32  # unseen, on which the loss on the task is measured
PULLED = 24  # samples of a data set that the model answers itself, for its projection difference
CHANGE = "change.safetensors"
PULL = "pull.safetensors"


@dataclass(frozen=True)
class Settings:
    """What decides the result of a study, besides the model, the vectors and further data.

    Attributes:
        samples: Of each data set.
        questions: Evaluation questions of each trait, one answer each; prevention is judged by all of them.
        max_new_tokens: Longest answer, also of the trait data.
        coefficients: Of preventative steering.
        learning_rate, epochs, batch, rank: See `Training`. A few dozen samples need a larger rate than the paper's
            thousands.
        seed: Of everything random.
    """

    samples: int = 64
    questions: int = 8
    max_new_tokens: int = 48
    coefficients: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    learning_rate: float = 2e-4
    epochs: float = 1.0
    batch: int = 4
    rank: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (("--samples", self.samples, 10), ("--questions", self.questions, 2)):
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
        self.traits = {v.trait: trait_of(v) for v in vectors}
        self.judges: dict[str, ContrastJudge] = {v.trait: judge_of(model, v) for v in vectors}
        self.before = prompt_readings(model, vectors)

    def run(self, data: Mapping[str, Path], prevent: Sequence[str]) -> None:
        """Everything, and the files that tell of it."""
        start = time.monotonic()
        suite = [self.plain(one) for one in self.sets(data)]
        run = {
            "command": "study finetune",
            **provenance(self.model, self.folder.arguments),
            "layers": {vector.trait: vector.layer for vector in self.vectors},
            "base": self.base_scores(),
            "suite": suite,
            "correlations": self.correlations(suite),
            "prevention": {vector.trait: self.prevention(vector) for vector in self.vectors if vector.trait in prevent},
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

    def base_scores(self) -> dict[str, dict[str, Any]]:
        """Scores of the model as it came, for each trait plainly and under the trait's first positive instruction."""
        return {
            name: {
                "plain": self.scores(self.model, name, self.folder / "base" / f"{name}.json"),
                "instructed": self.scores(
                    self.model,
                    name,
                    self.folder / "base" / f"{name}-instructed.json",
                    questions=self.settings.questions,
                    system=self.instruction(name),
                ),
            }
            for name in self.traits
        }

    def instruction(self, trait: str) -> str:
        """A system prompt that asks for the trait."""
        return self.traits[trait].system_prompts(0)[0]

    def scores(
        self,
        model: ChatModel,
        trait: str,
        path: Path,
        *,
        questions: int | None = None,
        system: str | None = None,
        interventions: Sequence[Intervention] = (),
    ) -> dict[str, Any]:
        """Trait score and coherence of the answers to the evaluation questions, and the score of each; kept in a file.

        The judge is the model as it came, on the scale of the vector's extraction.
        """
        if path.exists():
            kept: dict[str, Any] = json.loads(path.read_text())
            return kept
        s = self.settings
        asked = self.traits[trait].evaluation_questions[:questions]
        made = plan(model, "evaluation", asked, system=system, interventions=list(interventions))
        log = JsonLines(path.with_suffix(".answers.jsonl"))
        generate(
            model, made, log,
            description=f"Answering, {trait}", max_new_tokens=s.max_new_tokens, temperature=TEMPERATURE, seed=s.seed,
        )  # fmt: skip
        judge = self.judges[trait]
        with (
            model.unadapted(),
            progress(f"Judging, {trait}", total=judge.readings_needed(len(made)), unit="readings") as job,
        ):
            judge.score(made, job.advance)
        known = [r.score for r in made if r.score is not None]
        found = {
            "score": bootstrap_mean(known, seed=s.seed).as_dict() if known else None,
            "coherence": bootstrap_mean([r.coherence or 0.0 for r in made], seed=s.seed).as_dict(),
            "by_question": [r.score for r in made],
            "example": made[0].text,
        }
        write_json(path, found)
        return found

    def tuned(self, one: DataSet, folder: Path, training: Training, **choices: Any) -> Tuned:
        return fine_tune(self.model, one.path, folder / "tuned", training, measure=False, **choices)

    def plain(self, one: DataSet) -> dict[str, Any]:
        """Fine-tune on a data set without prevention; what it did, and what the data promised."""
        folder = self.folder / "suite" / one.name
        tuned = self.tuned(one, folder, self.settings.training(method="none"))
        pull = self.pull(one, folder)
        paths = {name: folder / f"{name}.json" for name in self.traits}
        with self.dressed(tuned.adapter, folder / CHANGE, *paths.values()) as model:
            self.change(model, folder)
            scores = {
                name: self.scores(model, name, path, questions=self.settings.questions) for name, path in paths.items()
            }
        change = load_file(folder / CHANGE)
        return {
            "name": one.name,
            "family": one.family,
            "level": one.level,
            "trained": tuned.run["trained"],
            "steps": tuned.steps,
            "loss": {"first": tuned.run["loss"]["first"], "last": tuned.run["loss"]["last"]},
            "held_out_loss": tuned.run["held_out_loss"],
            "difference": pull,
            "shift": {
                v.trait: bootstrap_mean(
                    (change[v.trait][:, self.depths.index(v.layer)] @ v.unit(v.layer)).double().numpy(),
                    seed=self.settings.seed,
                ).as_dict()
                for v in self.vectors
            },
            "scores": scores,
        }

    def dressed(self, adapter: Path, *wanted: Path) -> AbstractContextManager[ChatModel]:
        """The model with an adapter on; without, if the files that are wanted of it are all there."""
        return nullcontext(self.model) if all(path.exists() for path in wanted) else wearing(self.model, adapter)

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
            if None in score.values():
                continue  # every answer refused: there is no score to compare
            change = load_file(folder / CHANGE)
            runs.append(
                Fine(
                    row["family"],
                    {name: one["mean"] for name, one in score.items()},
                    {name: tensor.mean(0) for name, tensor in change.items()},
                    load_file(folder / PULL)["pull"],
                )
            )
        readings = {name: self.before[name, None] for name in self.traits}
        return correlations(runs, self.vectors, readings, self.depths, self.settings.seed)

    def prevention(self, vector: PersonaVector) -> dict[str, Any]:
        """Every way of prevention on a trait's overt data blended with a task: see `families.blended`."""
        s, name, data = self.settings, vector.trait, self.folder / "data"
        one = blended(DataSet(name, "overt", data / f"{name}-overt.jsonl"), data, s.seed)
        away = self.folder / "prevention" / name
        task = self._examples(unseen_task(data, TASK_SAMPLES, s.seed))
        rows = []
        adapters = {}
        for arm, (method, used, coefficient, choices) in self.arms(vector).items():
            folder = away / arm.replace(" ", "-")
            pair = [] if method in ("none", "interleave") else [(used, coefficient)]
            # A random direction is no trait: what it was trained with is told from what it is measured by.
            tuned = self.tuned(one, folder, s.training(method=method, **choices), prevent=pair)
            adapters[arm] = tuned.adapter
            rows.append(self.arm(vector, arm, tuned, folder, task))
            rows[-1]["coefficient"] = next(iter(tuned.coefficients.values()), None)
        for coefficient in INFERENCE:
            arm = f"steered at inference {coefficient:g}"
            folder, interventions = away / arm.replace(" ", "-"), steering(vector, coefficient)
            with self.dressed(adapters["none"], folder / "plain.json", folder / "losses.json") as model:
                found = self.scores(model, name, folder / "plain.json", interventions=interventions)
                losses = self.losses(model, task, folder, interventions)
            rows.append({"arm": arm, "coefficient": coefficient, **found, "losses": losses})
        base = {**self.base_scores()[name], "losses": self.losses(self.model, task, self.folder / "base")}
        plain = next(row for row in rows if row["arm"] == "none")
        reference = plain["losses"]
        for row in [base, *rows]:
            losses = row.pop("losses")
            row |= {
                "task_loss": bootstrap_mean(losses["task"], seed=s.seed).as_dict(),
                "task_change": more_loss(reference["task"], losses["task"], s.seed),
                "perplexity_change": more_perplexity(reference["passages"], losses["passages"], s.seed),
            }
        for row in rows:
            row["prevented"] = prevented(base["plain"]["by_question"], plain["by_question"], row["by_question"], s.seed)
        norm = round(float(vector.at(vector.layer).norm()), 4)
        return {"data": one.name, "vector_norm": norm, "base": base, "arms": rows}

    def _examples(self, one: DataSet) -> list[Example]:
        found = read_samples(Encoder(self.model, self.model.context_length), open_data(one.path), one.name)
        return [example for mine in found.examples for example in mine]

    def losses(
        self, model: ChatModel, task: Sequence[Example], folder: Path, interventions: Sequence[Intervention] = ()
    ) -> dict[str, list[float]]:
        """Losses of unseen samples of the task and of passages of general text; kept in a file."""
        path = folder / "losses.json"
        if not path.exists():
            ids, labels = [example.ids for example in task], [example.labels for example in task]
            on_task = sequence_losses(model, ids, labels, interventions, name="Loss on the task")
            write_json(path, {"task": on_task.tolist(), "passages": passage_losses(model, interventions).tolist()})
        kept: dict[str, list[float]] = json.loads(path.read_text())
        return kept

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
            f"steer {middle:g} response": ("steer", vector, middle, {"positions": "response"}),
            f"steer {middle:g} all layers": ("steer", vector, middle, {"layers": "all"}),
        }
        return ways

    def arm(
        self, vector: PersonaVector, arm: str, tuned: Tuned, folder: Path, task: Sequence[Example]
    ) -> dict[str, Any]:
        """What one way of training led to."""
        name, at = vector.trait, self.depths.index(vector.layer)
        plain, asked = folder / "plain.json", folder / "instructed.json"
        with self.dressed(tuned.adapter, folder / CHANGE, plain, asked, folder / "losses.json") as model:
            self.change(model, folder)
            found = self.scores(model, name, plain)
            instructed = self.scores(
                model, name, asked, questions=self.settings.questions, system=self.instruction(name)
            )
            losses = self.losses(model, task, folder)
        change = load_file(folder / CHANGE)[name][:, at] @ vector.unit(vector.layer)
        return {
            "arm": arm,
            **found,
            "instructed": instructed["score"],
            "shift": bootstrap_mean(change.double().numpy(), seed=self.settings.seed).as_dict(),
            "held_out_loss": tuned.run["held_out_loss"]["after"],
            "losses": losses,
            "seconds": tuned.run["training_seconds"],
        }
