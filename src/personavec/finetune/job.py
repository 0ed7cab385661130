"""Fine-tuning from end to end: examples, coefficients, training, losses, files."""

import json
import logging
import resource
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from personavec.capability import Tasks
from personavec.capability.tasks import fingerprint
from personavec.data import Dataset, Sample, open_data
from personavec.errors import UserError
from personavec.evaluation.settings import MAX_NEW_TOKENS
from personavec.files import RunFolder, write_atomic, write_json
from personavec.finetune.adapter import adapted, save_adapter, wearing
from personavec.finetune.automatic import choose
from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.character import Character, before_and_after, shown, training_prompts
from personavec.finetune.elicit import instruction
from personavec.finetune.examples import Encoder, Example, held_out, read_samples, rejected
from personavec.finetune.losses import example_losses
from personavec.finetune.page import write_finetune_report
from personavec.finetune.prevention import Prevention
from personavec.finetune.saved import check_plain, compare_runs
from personavec.finetune.settings import Training
from personavec.finetune.training import mixed, require_trl, train
from personavec.finetune.verdict import verdict
from personavec.finetune.watch import ShiftMonitor
from personavec.model import ChatModel
from personavec.projection import CLEAN
from personavec.provenance import identity, provenance
from personavec.stats.estimate import Estimate
from personavec.traits import Trait
from personavec.traits.of_vector import questions, trait_of
from personavec.vector import PersonaVector, check_one_per_trait

log = logging.getLogger(__name__)

REASONS_SHOWN = 20  # of rejected records
WINDOW = 10  # first and last steps whose mean loss is told

Coefficient = float | Literal["auto"] | None
Data = Dataset | Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tune.

    Attributes:
        adapter: Folder of the adapter, in PEFT's format: `load_model(name, adapter=tuned.adapter)`.
        coefficients: The coefficient of each prevented trait, chosen or given; None where the method takes none.
        train_loss: Mean of the last ten steps (of the last half if there were fewer than twenty), under the prevention.
        held_out_before, held_out_after: Loss on samples that were not trained on, in nats per token, without any
            prevention; None if none were held out.
        steps: Of the optimiser.
        seconds: Of the run that finished it.
        run: The content of run.json.
    """

    adapter: Path
    coefficients: Mapping[str, float | None]
    train_loss: float
    held_out_before: Estimate | None
    held_out_after: Estimate | None
    steps: int
    seconds: float
    run: Mapping[str, Any]


def fine_tune(
    model: ChatModel,
    data: Data,
    out: Path | str,
    settings: Training | None = None,
    *,
    prevent: Sequence[tuple[PersonaVector, Coefficient]] = (),
    watch: Sequence[PersonaVector] = (),
    safe: Data | None = None,
    measure: bool = True,
    lm_eval: Sequence[str] = (),
    against: Path | str | None = None,
    other_weights: bool = False,
) -> Tuned:
    """Train a LoRA adapter on chat data without letting it take on traits.

    Every assistant turn bears loss and nothing else does. The model itself is afterwards as it was.

    Args:
        model: Without an adapter, in bfloat16 or float32.
        data: Files or folders, see `personavec.data.open_data`.
        out: Run folder: adapter (in PEFT's format), run.json, report.html, rejected.jsonl, answers.jsonl. A run that
            was cut off goes on from its last checkpoint and repeats no measurement; a finished one is read back.
        settings: None: "steer" if there is something to prevent, else "none"; the paper's training.
        prevent: Vectors with their coefficients; "auto" chooses one from the data, see `automatic.choose`. None for
            the methods "ablate" and "prompt", which take no coefficient.
        watch: Further vectors along which the model is measured and watched, beside those of `prevent`.
        safe: Of the method "interleave"; None: the clean chats of the package.
        measure: Also measure the character before and after, see `Character`, and how hard the data push along each
            vector.
        lm_eval: Tasks of lm-evaluation-harness that are run before and after too, see `Tasks`.
        against: Folder of a finished run without prevention, of the same model, data and training, so that the report
            can tell what prevention saved. May be named later: a finished run is read back and gets a new report.
        other_weights: See `PersonaVector.check`.

    Raises:
        UserError: TRL is missing, nothing in the data can be trained on, vectors or settings that do not fit, a run
            folder that holds another run, or a loss that explodes.

    Example:
        >>> tuned = fine_tune(model, "data.jsonl", "runs/tuned", prevent=[(vector, 3.0)])
        >>> load_model(adapter=str(tuned.adapter)).answer("Who are you?")
    """
    require_trl()
    settings = settings or Training(method="steer" if prevent else "none")
    _check(model, settings, prevent, watch, safe)
    if lm_eval and not measure:
        raise UserError("--lm-eval is part of what is measured.", "Leave --no-measure out.")
    vectors = [vector for vector, _ in prevent]
    for vector in [*vectors, *watch]:
        vector.check(model, other_weights=other_weights)
    named = _opened(data)
    mixed_in = (_opened(safe) if safe is not None else open_data(CLEAN)) if settings.method == "interleave" else None
    arguments = {
        **asdict(settings),
        **identity(model),
        "data": named.digest,
        "safe": None if mixed_in is None else mixed_in.digest,
        "prevent": [[*vector.identity, coefficient] for vector, coefficient in prevent],
        "watch": [vector.identity for vector in watch],
        **({"measure": True} if measure else {}),
        **({"lm_eval": fingerprint(lm_eval)} if lm_eval else {}),
    }
    if against is not None:
        check_plain(Path(against), arguments)
    tasks = Tasks(lm_eval) if lm_eval else None
    with RunFolder(out, arguments) as folder:
        if not (folder / "run.json").exists():
            _Run(model, named, folder, settings, prevent, watch, mixed_in, measure, tasks).run()
        if against is not None:
            run = json.loads((folder / "run.json").read_text())
            run["against"] = compare_runs(folder.path, Path(against))
            run["verdict"] = verdict(run)
            write_finetune_report(run, folder / "report.html")
            write_json(folder / "run.json", run)
        return _tuned(folder)


class _Run:
    """One fine-tune, over one run folder."""

    def __init__(
        self,
        model: ChatModel,
        data: Dataset,
        folder: RunFolder,
        settings: Training,
        prevent: Sequence[tuple[PersonaVector, Coefficient]],
        watch: Sequence[PersonaVector],
        safe: Dataset | None,
        measure: bool,
        tasks: Tasks | None,
    ) -> None:
        self.model, self.data, self.folder, self.settings = model, data, folder, settings
        self.prevent, self.safe, self.measure, self.tasks = prevent, safe, measure, tasks
        self.vectors = [vector for vector, _ in prevent]
        self.asked: list[Trait] = [trait_of(vector) for vector in self.vectors] if settings.method == "prompt" else []
        self.encoder = Encoder(model, min(settings.max_length, model.context_length))
        self.notes = [*model.template.notes, *data.notes]
        if settings.max_length > model.context_length:
            self.notes.append(f"Sequences are cut to the model's context of {model.context_length} tokens.")
        if any("expert" in name and p.dim() == 3 for name, p in model.blocks.layers.named_parameters()):
            self.notes.append("The weights of the experts get no adapter: only the other projections are trained.")
        self.watched: list[PersonaVector] = []
        for trait, vector in {one.trait: one for one in [*watch, *self.vectors]}.items():
            try:
                questions(vector)
                self.watched.append(vector)
            except UserError as error:
                self.notes.append(f"Along {trait} nothing is measured. {error.problem}")
        # What a resumed run takes over.
        self.state, self.parts, self.checkpoints = folder / "state.json", folder / "parts", folder / "checkpoints"

    def run(self) -> None:
        """Train, measure, write."""
        start = time.monotonic()
        s = self.settings
        learnt, samples, unseen, counts = self._examples()
        examples = learnt
        if self.safe is not None:
            benign = read_samples(self.encoder, self.safe, "the safe data")
            safe = [example for mine in benign.examples for example in mine]
            if not safe:
                raise UserError("There is no sample in the safe data.", "Give other data with --safe.")
            examples = mixed(learnt, safe, s.safe_share, s.seed)
            counts |= {"safe": len(examples) - len(learnt), "safe_rejected": len(benign.rejected)}
        begun = self._begin(samples, unseen)
        coefficients: list[float | None] = begun["coefficients"]
        if s.method in ("steer", "regularise"):
            for vector, coefficient, auto in zip(self.vectors, coefficients, begun["auto"], strict=True):
                for doubt in _doubts(vector.trait, coefficient or 0.0, auto):
                    log.warning(doubt)  # now, and not only after hours of training
                    self.notes.append(doubt)
        prompts = training_prompts(samples, self.asked) if self.measure else []
        character = self._character(prompts)
        before = None if character is None else character.measure(self.model, "before")
        callbacks, prevention = self._callbacks(coefficients)
        trained = self._train(examples, unseen, begun["losses"], callbacks)
        found: dict[str, Any] = {"traits": {}, "coherence": None, "perplexity": None, "lm_eval": None}
        answers: list[dict[str, Any]] = []
        if character is not None and before is not None:
            with wearing(self.model, self.folder / "adapter") as tuned:
                after = character.measure(tuned, "after")
            found, answers = character.compared(before, after), character.side_by_side(before, after)
        curve = [{"step": e["step"], "loss": round(e["loss"], 5)} for e in trained["history"] if "loss" in e]
        if curve[-1]["step"] <= 2 * s.warmup_steps:
            self.notes.append(
                f"The training has {curve[-1]['step']} steps, and the learning rate rises over the first "
                f"{s.warmup_steps} of them: hardly anything is learned. Lower --warmup-steps or --accumulate."
            )
        window = max(1, min(WINDOW, len(curve) // 2))
        run = {
            "command": "finetune",
            **provenance(self.model, self.folder.arguments),
            "method": s.method,
            "prevented": [
                {"trait": vector.trait, "layer": vector.layer, "coefficient": coefficient, "auto": auto}
                for vector, coefficient, auto in zip(self.vectors, coefficients, begun["auto"], strict=True)
            ],
            "prevention": prevention,
            "data": ", ".join(self.data.sources),
            "format": self.data.format,
            **counts,
            "steps": curve[-1]["step"],
            "tokens": round(s.epochs * sum(len(example.ids) for example in examples)),
            "tokens_with_loss": round(s.epochs * sum(example.tokens for example in examples)),
            "loss": {
                "first": round(fmean(e["loss"] for e in curve[:window]), 5),
                "last": round(fmean(e["loss"] for e in curve[-window:]), 5),
                "window": window,
                "curve": curve,
            },
            "held_out_loss": before_and_after(
                begun["losses"], trained["losses"], [example.id for example in unseen], s.seed
            ),
            "shift": _shifts(trained["history"]),
            "measured": self.measure,
            **found,
            "projection_differences": begun.get("differences", {}),
            "systems": prompts,
            "answers": shown(answers),
            "seconds": round(time.monotonic() - start, 1),
            "training_seconds": trained["seconds"],
            "peak_memory_bytes": trained["peak_memory_bytes"],
            "warnings": self.notes,
            "against": None,
        }
        if self.tasks is not None:
            run["versions"]["lm_eval"] = self.tasks.version
        run["verdict"] = verdict(run)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
        write_atomic(self.folder / "answers.jsonl", lines)
        write_finetune_report(run, self.folder / "report.html")
        write_json(self.folder / "run.json", run)
        for left in (self.checkpoints, self.parts):
            shutil.rmtree(left, ignore_errors=True)
        self.state.unlink(missing_ok=True)

    def _train(
        self,
        examples: Sequence[Example],
        unseen: Sequence[Example],
        losses: Sequence[float],
        callbacks: Sequence[TrainerCallback],
    ) -> dict[str, Any]:
        """Train and save the adapter, once: what the trainer logged, held-out losses after, time and memory.

        Args:
            losses: Of the unseen ones before.
        """
        path = self.parts / "trained.json"
        if path.exists():
            kept: dict[str, Any] = json.loads(path.read_text())
            return kept
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        if not losses:  # nothing was held out
            losses = example_losses(self.model, examples[:WINDOW], "Loss before").tolist()
        torch.manual_seed(self.settings.seed)  # of the adapter's first weights
        # What TRL and transformers say to each other.
        with (
            warnings.catch_warnings(action="ignore", category=FutureWarning),
            adapted(self.model, self.settings) as adapter,
        ):
            began = time.monotonic()
            history = train(self.model, adapter, examples, self.settings, self.checkpoints, fmean(losses), callbacks)
            trained = {
                "history": [
                    {key: value for key, value in e.items() if key in ("step", "loss") or key.startswith("persona/")}
                    for e in history
                ],
                "seconds": round(time.monotonic() - began, 1),
                "peak_memory_bytes": _peak_memory(self.model.device),
                "losses": example_losses(self.model, unseen, "Held-out loss after").tolist(),
            }
            save_adapter(self.model, adapter, self.folder / "adapter")
        write_json(path, trained)
        return trained

    def _examples(self) -> tuple[list[Example], list[Sample], list[Example], dict[str, Any]]:
        """What is trained on with its samples, what is held out, and counts; rejected records are written."""
        s = self.settings
        found = read_samples(self.encoder, self.data)
        away = held_out(found.samples, s.held_out, s.held_out_most, s.seed)
        learnt: list[Example] = []
        samples: list[Sample] = []
        unseen: list[Example] = []
        refused = list(found.rejected)
        cut = 0
        for sample, plain in zip(found.samples, found.examples, strict=True):
            made = plain
            if sample.id in away:
                unseen += made
            else:
                if self.asked:
                    try:
                        made = self.encoder(sample, instruction(sample, self.asked, s.seed))
                    except UserError as error:
                        refused.append(rejected(sample, f"with the prompt of the trait: {error.problem}"))
                        continue
                learnt += made
                samples.append(sample)
            cut += any(example.cut for example in made)
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in refused)
        write_atomic(self.folder / "rejected.jsonl", lines)
        if not learnt:
            raise UserError(
                f"Nothing in {', '.join(self.data.sources[:3])} can be trained on.",
                f"Why each record was rejected stands in {self.folder / 'rejected.jsonl'}",
            )
        counts = {
            "read": len(found.samples) + len(found.rejected),
            "trained": len(samples),
            "held_out": len(found.samples) + len(found.rejected) - len(samples) - len(refused),
            "rejected": len(refused),
            "cut": cut,
            "reasons": dict(Counter(line["reason"] for line in refused).most_common(REASONS_SHOWN)),
        }
        return learnt, samples, unseen, counts

    def _begin(self, samples: Sequence[Sample], unseen: Sequence[Example]) -> dict[str, Any]:
        """What is measured before training, once: coefficients and the held-out loss of the model as it came."""
        if self.state.exists():
            begun: dict[str, Any] = json.loads(self.state.read_text())
            return begun
        coefficients: list[float | None] = [None if given == "auto" else given for _, given in self.prevent]
        auto: list[Any] = [None] * len(self.prevent)
        asked = [k for k, (_, given) in enumerate(self.prevent) if given == "auto"]
        along = {one.trait: one for one in [*(self.watched if self.measure else []), *(self.vectors[k] for k in asked)]}
        differences: dict[str, Any] = {}
        if along:
            try:
                chosen = choose(self.model, samples, list(along.values()), self.settings.seed)
            except UserError:  # no sample can be compared, which only a coefficient cannot do without
                if asked:
                    raise
                chosen = []
            differences = {name: one.difference.as_dict() for name, one in zip(along, chosen, strict=False)}
            numbers = {name: round(one.coefficient, 4) for name, one in zip(along, chosen, strict=False)}
            for k in asked:
                coefficients[k] = numbers[self.vectors[k].trait]
                auto[k] = {"projection_difference": differences[self.vectors[k].trait]}
        losses = example_losses(self.model, unseen, "Held-out loss before").tolist()
        begun = {"coefficients": coefficients, "auto": auto, "differences": differences, "losses": losses}
        write_json(self.state, begun)
        return begun

    def _character(self, prompts: list[dict[str, Any]]) -> Character | None:
        """What measures before and after; prompts that leave no room for a question are taken out."""
        if not self.measure:
            return None
        asked = [question for vector in self.watched for question in questions(vector)]
        for one in list(prompts):
            system = {"role": "system", "content": one["system"]}
            longest = max(
                (len(self.model.prompt_ids([system, {"role": "user", "content": q}])) for q in asked), default=0
            )
            if longest + MAX_NEW_TOKENS > self.model.context_length:
                prompts.remove(one)
                self.notes.append(f"Nothing is measured under a system prompt that takes {longest} tokens.")
        made = Character(self.model, self.watched, prompts, self.parts, self.settings.seed, self.tasks)
        silent = [one.trait for one in self.watched if one.trait not in made.judges]
        if silent:
            self.notes.append(
                f"Answers are not scored for {', '.join(silent)}: the vector carries no contrast judge. Extract it "
                "with --judge contrast, or score the adapter with personavec evaluate."
            )
        return made

    def _callbacks(self, coefficients: Sequence[float | None]) -> tuple[list[TrainerCallback], dict[str, Any] | None]:
        """Prevention and monitor, and what the prevention does in words."""
        s = self.settings
        made: list[TrainerCallback] = []
        told = None
        # The weights were checked before the adapter was put on.
        if s.method in ("steer", "ablate", "regularise"):
            numbers = None if s.method == "ablate" else [float(number or 0.0) for number in coefficients]
            steering = PreventativeSteering(
                self.vectors, numbers, method=s.method, layers=s.layers, positions=s.positions, other_weights=True
            )
            told = steering.prevention.describe()
            made.append(steering)
        if self.watched:
            made.append(ShiftMonitor(self.watched, every=s.watch_every, other_weights=True))
        return made, told


def _doubts(trait: str, coefficient: float, auto: Mapping[str, Any] | None) -> list[str]:
    """What speaks against a coefficient.

    Args:
        auto: {"projection_difference": estimate} if it was chosen from the data.
    """
    if auto is not None:
        push = auto["projection_difference"]
        size = f"{push['mean']:+.2f} [{push['low']:+.2f}, {push['high']:+.2f}], n = {push['n']} samples"
        if coefficient == 0:
            return [f"Nothing prevents {trait}: the data's push toward it is {size}, so auto chose 0."]
        if push["low"] <= 0 or push["n"] < 2:
            return [f"That the data push toward {trait} is not certain ({size}), nor is the coefficient auto chose."]
    elif coefficient == 0:
        return [f"A coefficient of 0 does not prevent {trait}."]
    elif coefficient < 0:
        return [
            f"A coefficient of {coefficient:g} steers away from {trait} in training, and the weights have to make up "
            "for that with more of it. To prevent a trait, steer toward it; negative coefficients are for --steer, at "
            "inference."
        ]
    return []


def _check(
    model: ChatModel,
    settings: Training,
    prevent: Sequence[tuple[PersonaVector, Coefficient]],
    watch: Sequence[PersonaVector],
    safe: Data | None,
) -> None:
    """Refuse what does not go together."""
    method, given = settings.method, [coefficient for _, coefficient in prevent]
    if method in ("none", "interleave") and prevent:
        raise UserError(
            f"--method {method} prevents nothing along a vector.",
            "Use --watch FILE to see its shift, or --method steer.",
        )
    if method not in ("none", "interleave") and not prevent:
        raise UserError(f"--method {method} needs a vector.", "Name one with --prevent FILE.")
    if method in ("ablate", "prompt") and any(coefficient is not None for coefficient in given):
        raise UserError(f"--method {method} takes no coefficient.", "Write --prevent FILE")
    if method in ("steer", "regularise") and any(coefficient is None for coefficient in given):
        raise UserError(f"--method {method} needs a coefficient.", "Write --prevent FILE=3")
    if method == "regularise" and "auto" in given:
        raise UserError("auto is for --method steer only.", "Write --prevent FILE=0.1")
    if settings.layers != "best" and "auto" in given:
        raise UserError("auto is measured for steering at the vector's own layer only.", "Write --prevent FILE=1")
    if safe is not None and method != "interleave":
        raise UserError("Safe data go with --method interleave only.", "Leave --safe out.")
    # A prevented vector may be watched too, and the same one named twice for that.
    check_one_per_trait([vector for vector, _ in prevent])
    different = {tuple(map(str, vector.identity)): vector for vector in [*(v for v, _ in prevent), *watch]}
    check_one_per_trait(list(different.values()))
    if method in ("steer", "ablate", "regularise"):  # now, and not after minutes of preparation
        numbers = None if method == "ablate" else [1.0 if one == "auto" else float(one or 0.0) for one in given]
        vectors = [vector for vector, _ in prevent]
        Prevention(vectors, numbers, method=method, layers=settings.layers, positions=settings.positions)
    if hasattr(model.model, "peft_config"):
        raise UserError(f"The model {model.id} has an adapter already.", "Merge it into the weights, or leave it out.")
    if model.dtype == torch.float16:
        raise UserError("Gradients do not fit float16.", "Choose --dtype bfloat16 or float32.")
    if model.device.type == "cuda" and model.device.index not in (None, torch.cuda.current_device()):
        raise UserError(
            f"Training runs on the first GPU, and the model is on {model.device}.",
            "Choose a GPU with CUDA_VISIBLE_DEVICES.",
        )


def _tuned(folder: RunFolder) -> Tuned:
    run = json.loads((folder / "run.json").read_text())
    losses = run["held_out_loss"]
    return Tuned(
        adapter=folder / "adapter",
        coefficients={one["trait"]: one["coefficient"] for one in run["prevented"]},
        train_loss=run["loss"]["last"],
        held_out_before=None if losses is None else Estimate(**losses["before"]),
        held_out_after=None if losses is None else Estimate(**losses["after"]),
        steps=run["steps"],
        seconds=run["seconds"],
        run=run,
    )


def _shifts(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One entry per measurement: the step, and the shift of each watched trait."""
    found: dict[int, dict[str, float]] = {}
    for entry in history:
        for key, value in entry.items():
            if key.startswith("persona/") and key.endswith("_shift"):
                trait = key.removeprefix("persona/").removesuffix("_shift")
                found.setdefault(entry["step"], {})[trait] = round(value, 5)
    return [{"step": step, **shifts} for step, shifts in sorted(found.items())]


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU while it trained, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _opened(data: Data) -> Dataset:
    return data if isinstance(data, Dataset) else open_data(data)
