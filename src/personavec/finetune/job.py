"""Fine-tuning from end to end: examples, coefficients, training, losses, files."""

import hashlib
import json
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback

from personavec.data import Dataset, Sample, open_data
from personavec.errors import UserError
from personavec.files import RunFolder, write_atomic, write_json
from personavec.finetune.adapter import adapted, save_adapter
from personavec.finetune.automatic import choose
from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.elicit import instruction, trait_of
from personavec.finetune.examples import Encoder, Example, held_out, read_samples, rejected
from personavec.finetune.losses import example_losses
from personavec.finetune.prevention import Prevention
from personavec.finetune.settings import Training
from personavec.finetune.training import mixed, require_trl, train
from personavec.finetune.watch import ShiftMonitor, questions
from personavec.model import ChatModel
from personavec.provenance import identity, provenance
from personavec.screening.job import CLEAN
from personavec.statistics import Estimate, Floats, bootstrap_mean
from personavec.vector import PersonaVector

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
    other_weights: bool = False,
) -> Tuned:
    """Train a LoRA adapter on chat data without letting it take on traits.

    Every assistant turn bears loss and nothing else does. The model itself is afterwards as it was.

    Args:
        model: Without an adapter, in bfloat16 or float32.
        data: Files or folders, see `personavec.data.open_data`.
        out: Run folder: adapter (in PEFT's format), run.json, rejected.jsonl. A run that was cut off goes on from its
            last checkpoint; a finished one is read back.
        settings: None: "steer" if there is something to prevent, else "none"; the paper's training.
        prevent: Vectors with their coefficients; "auto" chooses one from the data, see `automatic.choose`. None for
            the methods "ablate" and "prompt", which take no coefficient.
        watch: Further vectors whose shift is measured while the model is trained, beside those of `prevent`.
        safe: Of the method "interleave"; None: the clean chats of the package.
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
    _check(model, settings, prevent, safe)
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
        "prevent": [[*_told(vector), coefficient] for vector, coefficient in prevent],
        "watch": [_told(vector) for vector in watch],
    }
    with RunFolder(out, arguments) as folder:
        if not (folder / "run.json").exists():
            _Run(model, named, folder, settings, prevent, watch, mixed_in).run()
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
    ) -> None:
        self.model, self.data, self.folder, self.settings = model, data, folder, settings
        self.prevent, self.safe = prevent, safe
        self.vectors = [vector for vector, _ in prevent]
        self.watched = list({vector.trait: vector for vector in [*watch, *self.vectors]}.values())
        self.encoder = Encoder(model, min(settings.max_length, model.context_length))
        self.notes = [*model.template.notes, *data.notes]
        if settings.max_length > model.context_length:
            self.notes.append(f"Sequences are cut to the model's context of {model.context_length} tokens.")
        if any("expert" in name and p.dim() == 3 for name, p in model.blocks.layers.named_parameters()):
            self.notes.append("The weights of the experts get no adapter: only the other projections are trained.")
        self.state = folder / "state.json"  # what a resumed run takes over besides the checkpoint

    def run(self) -> None:
        """Train, measure, write."""
        start = time.monotonic()
        s, checkpoints = self.settings, self.folder / "checkpoints"
        learnt, samples, unseen, counts = self._examples()
        begun = self._begin(samples, unseen)
        coefficients: list[float | None] = begun["coefficients"]
        examples = learnt
        if self.safe is not None:
            found = read_samples(self.encoder, self.safe, "the safe data")
            safe = [example for mine in found.examples for example in mine]
            if not safe:
                raise UserError("There is no sample in the safe data.", "Give other data with --safe.")
            examples = mixed(learnt, safe, s.safe_share, s.seed)
            counts |= {"safe": len(examples) - len(learnt), "safe_rejected": len(found.rejected)}
        callbacks, prevention = self._callbacks(coefficients)
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        torch.manual_seed(s.seed)  # of the adapter's first weights
        # What TRL and transformers say to each other.
        with warnings.catch_warnings(action="ignore", category=FutureWarning), adapted(self.model, s) as adapter:
            began = time.monotonic()
            history = train(self.model, adapter, examples, s, checkpoints, callbacks)
            seconds = time.monotonic() - began
            after = example_losses(self.model, unseen, "Held-out loss after") if unseen else None
            save_adapter(self.model, adapter, self.folder / "adapter")
        curve = [{"step": e["step"], "loss": round(e["loss"], 5)} for e in history if "loss" in e]
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
            "held_out_loss": _compared(begun["losses"], after, [example.id for example in unseen], s.seed),
            "shift": _shifts(history),
            "seconds": round(time.monotonic() - start, 1),
            "training_seconds": round(seconds, 1),
            "peak_memory_bytes": _peak_memory(self.model.device),
            "warnings": self.notes,
        }
        write_json(self.folder / "run.json", run)
        shutil.rmtree(checkpoints, ignore_errors=True)
        self.state.unlink(missing_ok=True)

    def _examples(self) -> tuple[list[Example], list[Sample], list[Example], dict[str, int]]:
        """What is trained on with its samples, what is held out, and counts; rejected records are written."""
        s = self.settings
        found = read_samples(self.encoder, self.data)
        away = held_out(found.samples, s.held_out, s.held_out_most, s.seed)
        traits = [trait_of(vector) for vector in self.vectors] if s.method == "prompt" else []
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
                if traits:
                    try:
                        made = self.encoder(sample, instruction(sample, traits, s.seed))
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
        if asked:
            chosen = choose(self.model, samples, [self.vectors[k] for k in asked], self.settings.seed)
            for k, found in zip(asked, chosen, strict=True):
                coefficients[k] = round(found.coefficient, 4)
                auto[k] = {"projection_difference": found.difference.as_dict()}
        losses = example_losses(self.model, unseen, "Held-out loss before").tolist() if unseen else None
        begun = {"coefficients": coefficients, "auto": auto, "losses": losses}
        write_json(self.state, begun)
        return begun

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
        seen = []
        for vector in self.watched:
            try:
                questions(vector)
                seen.append(vector)
            except UserError as error:
                self.notes.append(f"The shift is not watched. {error.problem}")
        if seen:
            made.append(ShiftMonitor(seen, every=s.watch_every, other_weights=True))
        return made, told


def _check(
    model: ChatModel, settings: Training, prevent: Sequence[tuple[PersonaVector, Coefficient]], safe: Data | None
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
    if safe is not None and method != "interleave":
        raise UserError("Safe data go with --method interleave only.", "Leave --safe out.")
    names = [vector.trait for vector, _ in prevent]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two vectors are of the trait {twice[0]!r}.", "Give each trait once.")
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


def _compared(
    before: Sequence[float] | None, after: Floats | None, ids: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """Means over samples, and of the change of each sample, with intervals."""
    if before is None or after is None:
        return None
    rows = {"before": np.array(before), "after": after, "change": after - np.array(before)}
    return {name: bootstrap_mean(values, ids, seed).as_dict() for name, values in rows.items()}


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


def _told(vector: PersonaVector) -> list[Any]:
    return [vector.trait, vector.layer, hashlib.sha256(vector.directions.numpy().tobytes()).hexdigest()[:16]]


def _opened(data: Data) -> Dataset:
    return data if isinstance(data, Dataset) else open_data(data)
