"""Prevention: every way to keep a model from learning one data set's trait, what it saves and costs (section 5)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from personavec.capability import passage_losses
from personavec.data import open_data
from personavec.files import write_json
from personavec.finetune import Tuned
from personavec.finetune.examples import Encoder, Example, read_samples
from personavec.finetune.savings import share_prevented
from personavec.interventions import steering
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.stats.bootstrap import bootstrap_mean
from personavec.study.families import DataSet, blended, unseen_task
from personavec.study.figures import more_loss, more_perplexity, task_learned
from personavec.study.laboratory import CHANGE, Laboratory
from personavec.vector import PersonaVector

INFERENCE = (-0.5, -1.0, -2.0)  # coefficients at which the unprotected fine-tune is steered
PENALTIES = (0.1, 1.0)  # of the method regularise
PASSAGES = 8  # of general text, on which the perplexity is measured
TASK_SAMPLES = 24  # unseen, on which the loss on the task is measured
LOSSES = "losses.json"


class Prevention:
    """Of one trait, on its overt data blended with a task (see `families.blended`): `train` in every way, have the
    answers judged, then ask what is `found`."""

    def __init__(self, laboratory: Laboratory, vector: PersonaVector) -> None:
        self.lab, self.vector, self.trait = laboratory, vector, vector.trait
        data = laboratory.folder / "data"
        overt = DataSet(self.trait, "overt", data / f"{self.trait}-overt.jsonl")
        self.data = blended(overt, data, laboratory.settings.seed)
        # Of each way its kind, coefficient and training; no training where the plain one is steered at inference.
        self.trained: dict[str, tuple[str, float | None, Tuned | None]] = {}

    def place(self, way: str) -> str:
        """Folder of a way's fine-tune in the study's."""
        return f"prevention/{self.trait}/{way.replace(' ', '-')}"

    def train(self) -> None:
        """Train in every way, and measure what needs no judge."""
        lab, s = self.lab, self.lab.settings
        task = self.examples(unseen_task(lab.folder / "data", TASK_SAMPLES, s.seed))
        self.losses(lab.model, task, self.place("base"))
        along = {"random": self.random()}  # a random direction is no trait: it is not what is measured along
        for way, (kind, coefficient, choices) in self.ways().items():
            name, method = self.place(way), "steer" if kind == "random" else kind
            pair = [] if kind in ("none", "interleave") else [(along.get(kind, self.vector), coefficient)]
            tuned = lab.tuned(self.data, name, s.training(method=method, **choices), prevent=pair)
            self.trained[way] = kind, next(iter(tuned.coefficients.values()), None), tuned
            sheets = lab.both_sheets(self.trait, s.prevention_questions)
            with lab.dressed(tuned.adapter, name, sheets, CHANGE, LOSSES) as model:
                lab.keep_change(model, name)
                self.losses(model, task, name)
                lab.answers.ask(model, name, sheets)
        plain = lab.folder / self.place("none") / "tuned" / "adapter"
        for coefficient in INFERENCE:
            way = f"steered at inference {coefficient:g}"
            name, steered = self.place(way), steering(self.vector, coefficient)
            sheets = [lab.answers.sheet(self.trait, s.prevention_questions, interventions=steered)]
            with lab.dressed(plain, name, sheets, LOSSES) as model:
                self.losses(model, task, name, steered)
                lab.answers.ask(model, name, sheets)
            self.trained[way] = "inference", coefficient, None

    def ways(self) -> dict[str, tuple[str, Any, dict[str, Any]]]:
        """Name of every way to train: its kind (a method, or random), coefficient, further choices of the training."""
        coefficients = self.lab.settings.coefficients
        middle = coefficients[len(coefficients) // 2]
        ways: dict[str, tuple[str, Any, dict[str, Any]]] = {"none": ("none", None, {})}
        ways |= {f"steer {value:g}": ("steer", value, {}) for value in coefficients}
        ways |= {
            "steer auto": ("steer", "auto", {}),
            f"random {middle:g}": ("random", middle, {}),
            "prompt": ("prompt", None, {}),
            "ablate": ("ablate", None, {"layers": "all"}),
            "interleave": ("interleave", None, {}),
        }
        ways |= {f"regularise {value:g}": ("regularise", value, {}) for value in PENALTIES}
        ways |= {f"steer {value:g} all layers": ("steer", value, {"layers": "all"}) for value in (middle / 2, middle)}
        return ways

    def random(self) -> PersonaVector:
        """A random direction at every layer, as long as the vector's."""
        own = self.vector.directions
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.lab.settings.seed))
        noise = noise / noise.norm(dim=1, keepdim=True) * own.norm(dim=1, keepdim=True)
        return replace(self.vector, trait="random", directions=noise)

    def losses(
        self, model: ChatModel, task: Sequence[Example], name: str, interventions: Sequence[Intervention] = ()
    ) -> None:
        """Keep the losses of unseen samples of the task and of passages of general text."""
        path = self.lab.folder / name / LOSSES
        if path.exists():
            return
        ids, labels = [example.ids for example in task], [example.labels for example in task]
        starts = [example.start for example in task]  # steering acts on the response, as in the answers
        on_task = sequence_losses(model, ids, labels, interventions, starts, name="Loss on the task")
        write_json(
            path, {"task": on_task.tolist(), "passages": passage_losses(model, interventions, first=PASSAGES).tolist()}
        )

    def examples(self, one: DataSet) -> list[Example]:
        """A data set as the model reads it."""
        encoder = Encoder(self.lab.model, self.lab.model.context_length)
        return [example for mine in read_samples(encoder, open_data(one.path), one.name).examples for example in mine]

    def found(self) -> dict[str, Any]:
        """What every way saved and cost, once its answers are judged."""
        lab, trait = self.lab, self.trait
        rows = []
        for way, (kind, coefficient, tuned) in self.trained.items():
            name = self.place(way)
            told = {"arm": way, "kind": kind, "coefficient": coefficient}
            row = {**told, **lab.answers.found(name, trait), **self.cost(way)}
            if tuned is not None:
                row |= {
                    "instructed": lab.answers.found(name, trait, instructed=True)["score"],
                    "shift": lab.shift(self.vector, name),
                    "held_out_loss": tuned.run["held_out_loss"]["after"],
                    "seconds": tuned.run["training_seconds"],
                }
            rows.append(row)
        base = {**lab.base(trait), **self.cost("base")}
        plain = next(row for row in rows if row["kind"] == "none")
        for row in rows:
            row["prevented"] = self.saved(base, plain, row)["prevented"]
            # Chosen by one half of the questions and samples, a way is judged by the other.
            row["halves"] = [self.saved(base, plain, row, slice(first, None, 2)) for first in (0, 1)]
        return {
            "data": self.data.name,
            "vector_norm": round(float(self.vector.at(self.vector.layer).norm()), 4),
            "base": base,
            "arms": rows,
        }

    def saved(
        self, base: Mapping[str, Any], plain: Mapping[str, Any], row: Mapping[str, Any], part: slice = slice(None)
    ) -> dict[str, Any]:
        """Share of the rise prevented and change of the loss on the task, on a part of the questions and samples."""
        seed = self.lab.settings.seed
        before, without, after = (one["by_question"][part] for one in (base["plain"], plain, row))
        first, second = (self.measured(one["arm"])["task"][part] for one in (plain, row))
        return {
            "prevented": share_prevented(before, without, after, seed),
            "task_change": more_loss(first, second, seed),
        }

    def cost(self, way: str) -> dict[str, Any]:
        """Loss on the task, and how it and the perplexity of general text compare with training without prevention."""
        base, plain, mine = (self.measured(one) for one in ("base", "none", way))
        seed = self.lab.settings.seed
        return {
            "task_loss": bootstrap_mean(mine["task"], seed=seed).as_dict(),
            "task_change": more_loss(plain["task"], mine["task"], seed),
            "task_learned": task_learned(base["task"], plain["task"], mine["task"], seed),
            "perplexity_change": more_perplexity(plain["passages"], mine["passages"], seed),
        }

    def measured(self, way: str) -> dict[str, list[float]]:
        """Losses of a way's fine-tune, see `losses`."""
        found: dict[str, list[float]] = json.loads((self.lab.folder / self.place(way) / LOSSES).read_text())
        return found
