"""Fine-tuning from end to end: examples, coefficients, training, losses, files."""

import logging
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from transformers import TrainerCallback

from personavec.capability import Tasks
from personavec.data import Dataset, open_data
from personavec.errors import UserError
from personavec.evaluation.settings import MAX_NEW_TOKENS
from personavec.files import RunFolder, check_utf8, once, to_json, write_atomic
from personavec.finetune.adapter import fresh_adapter, save_adapter, saved_adapter
from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.character import Character, answer_examples, before_and_after, training_prompts
from personavec.finetune.coefficients import Coefficient, Start, doubts, start
from personavec.finetune.corpus import Corpus, read_corpus
from personavec.finetune.examples import Encoder
from personavec.finetune.losses import example_losses
from personavec.finetune.methods import OperationMethod, StreamMethod
from personavec.finetune.page import write_finetune_report
from personavec.finetune.request import TuningRequest, check_request
from personavec.finetune.result import (
    AnswerPair,
    CharacterChange,
    FinetuneRun,
    PreventedTrait,
    TrainingLoss,
    TrainingPrompt,
    Tuned,
)
from personavec.finetune.savings import check_plain, compare_runs
from personavec.finetune.settings import Training
from personavec.finetune.training import Trained, require_trl, train
from personavec.finetune.verdict import verdict
from personavec.finetune.watch import ShiftMonitor
from personavec.interventions import noise_doubts
from personavec.model import ChatModel
from personavec.projection import CLEAN
from personavec.provenance import provenance
from personavec.results import SUMMARY, Provenance
from personavec.traits import Trait
from personavec.traits.of_vector import questions, trait_of
from personavec.vector import PersonaVector, two_directions

log = logging.getLogger(__name__)

WINDOW = 10  # first and last steps whose mean loss is told

Data = Dataset | Path | str | Sequence[Path | str]


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
        prevent: Vectors with their coefficients; "auto" has it follow the shift that is watched, see
            `automatic.next_coefficient`. None for methods that take no coefficient, such as "ablate" and "prompt".
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
    check_request(
        model, settings, prevent, watch,
        safe=safe is not None, measure=measure, tasks=bool(lm_eval), other_weights=other_weights,
    )  # fmt: skip
    check_utf8(out)
    opened = _opened(data)
    mixed_in = _opened(CLEAN if safe is None else safe) if settings.prevention.mixes else None
    for source in filter(None, (opened, mixed_in)):
        source.check_apart(out)
    request = TuningRequest(model, opened, settings, prevent, watch, mixed_in, measure, lm_eval)
    return _finished(request, out, None if against is None else Path(against))


def _finished(request: TuningRequest, out: Path | str, against: Path | None) -> Tuned:
    """The run in its folder: what is lacking is done, what is there is read back."""
    for data in (request.data, request.safe):
        if data is not None:
            data.check_apart(out)
    arguments = request.arguments
    if against is not None:
        check_plain(against, arguments)
    tasks = Tasks(request.lm_eval) if request.lm_eval else None
    with RunFolder(out, arguments) as folder:
        if not (folder / SUMMARY).exists():
            _Job(request, folder, tasks).run()
        run = FinetuneRun.read(folder.path)
        if against is not None:
            run = run.with_(against=compare_runs(folder.path, against))
            run = run.with_(verdict=verdict(run))
            write_finetune_report(run, folder / "report.html")
            run.write(folder.path)
        return Tuned(folder / "adapter", run)


class _Job:
    """One fine-tune, over one run folder."""

    def __init__(self, request: TuningRequest, folder: RunFolder, tasks: Tasks | None) -> None:
        self.request, self.folder, self.tasks = request, folder, tasks
        self.model, self.settings, self.vectors = request.model, request.settings, request.vectors
        asks = self.settings.prevention.asks
        self.asked: list[Trait] = [trait_of(vector) for vector in self.vectors] if asks else []
        self.encoder = Encoder(self.model, min(self.settings.max_length, self.model.context_length))
        self.notes = [*self.model.template.notes, *request.data.notes]
        self.notes += two_directions([*request.watch, *(vector for vector, _ in request.prevent)])
        if self.settings.max_length > self.model.context_length:
            self.notes.append(f"Sequences are cut to the model's context of {self.model.context_length} tokens.")
        if any("expert" in name and p.dim() == 3 for name, p in self.model.blocks.layers.named_parameters()):
            self.notes.append("The weights of the experts get no adapter: only the other projections are trained.")
        self.watched = self._measurable()
        # What a resumed run takes over.
        self.state, self.parts, self.checkpoints = folder / "state.json", folder / "parts", folder / "checkpoints"

    def run(self) -> None:
        """Train, measure, write."""
        began = time.monotonic()
        corpus = read_corpus(
            self.encoder, self.request.data, self.request.safe, self.settings, self.asked,
            self.folder / "rejected.jsonl",
        )  # fmt: skip
        begun = self._start(corpus)
        prompts = training_prompts(corpus.samples, self.asked) if self.request.measure else []
        character = self._character(prompts)
        before = None if character is None else character.measure(self.model, "before")
        prevention = self._prevention()
        trained = once(self.parts / "trained.json", Trained, lambda: self._train(corpus, begun, prevention))
        measurements, pairs = CharacterChange(), list[AnswerPair]()
        if character is not None and before is not None:
            with saved_adapter(self.model, self.folder / "adapter") as tuned:
                after = character.measure(tuned, "after")
            measurements, pairs = character.measurements(before, after), character.answer_pairs(before, after)
        self._note_warmup(trained)
        run = FinetuneRun.of(
            self._provenance(),
            **dict(measurements),
            **dict(corpus.counts),
            **self._training_facts(corpus, trained),
            method=self.settings.method,
            prevented=self._prevented(trained),
            prevention=None if prevention is None else prevention.describe(),
            data=", ".join(self.request.data.sources),
            format=self.request.data.format,
            held_out_loss=before_and_after(
                begun.losses, trained.losses, [example.id for example in corpus.unseen], self.settings.seed
            ),
            measured=self.request.measure,
            projection_differences=begun.differences,
            systems=tuple(prompts),
            answers=tuple(answer_examples(pairs)),
            seconds=round(time.monotonic() - began, 1),
            warnings=tuple(self.notes),
        )
        self._write(run.with_(verdict=verdict(run)), pairs)

    def _write(self, run: FinetuneRun, pairs: Sequence[AnswerPair]) -> None:
        """The files of a finished run; what only an interrupted one needs goes."""
        lines = "".join(to_json(pair.as_json()) + "\n" for pair in pairs)
        write_atomic(self.folder / "answers.jsonl", lines)
        write_finetune_report(run, self.folder / "report.html")
        run.write(self.folder.path)
        for left in (self.checkpoints, self.parts):
            shutil.rmtree(left, ignore_errors=True)
        self.state.unlink(missing_ok=True)

    def _provenance(self) -> Provenance:
        facts = provenance(self.model, self.folder.arguments)
        if self.tasks is None:
            return facts
        return facts.model_copy(update={"versions": facts.versions | {"lm_eval": self.tasks.version}})

    def _measurable(self) -> list[PersonaVector]:
        """The vectors whose traits have questions, each trait once."""
        measurable = []
        for vector in self.request.measured:
            try:
                questions(vector)
                measurable.append(vector)
            except UserError as error:
                self.notes.append(f"Along {vector.trait} nothing is measured. {error.problem}")
        return measurable

    def _start(self, corpus: Corpus) -> Start:
        """What is chosen and measured before training; doubts are told now, and not only after hours of training."""
        measured = self.watched if self.request.measure else []
        begun = once(
            self.state, Start, lambda: start(self.model, measured, corpus.samples, corpus.unseen, self.settings.seed)
        )
        method = self.settings.prevention
        for vector, coefficient in self.request.prevent:
            for doubt in doubts(method, vector.trait, coefficient):
                log.warning(doubt)
                self.notes.append(doubt)
        if isinstance(method, OperationMethod):
            given = [(method.operation, vector, number) for vector, number in self.request.prevent if number != "auto"]
            for doubt in noise_doubts(given, self.settings.layers, self.model):
                log.warning(doubt)
                self.notes.append(doubt)
        return begun

    def _character(self, prompts: list[TrainingPrompt]) -> Character | None:
        """What measures before and after; prompts that leave no room for a question are taken out."""
        if not self.request.measure:
            return None
        asked = [question for vector in self.watched for question in questions(vector)]
        for prompt in list(prompts):
            system = {"role": "system", "content": prompt.system}
            longest = max(
                (len(self.model.prompt_ids([system, {"role": "user", "content": q}])) for q in asked), default=0
            )
            if longest + MAX_NEW_TOKENS > self.model.context_length:
                prompts.remove(prompt)
                self.notes.append(f"Nothing is measured under a system prompt that takes {longest} tokens.")
        made = Character(self.model, self.watched, prompts, self.parts, self.settings.seed, self.tasks)
        silent = [vector.trait for vector in self.watched if vector.trait not in made.judges]
        if silent:
            self.notes.append(
                f"Answers are not scored for {', '.join(silent)}: the vector carries no contrast judge. Extract it "
                "with `judge` contrast, or score the adapter with personavec evaluate."
            )
        return made

    def _prevention(self) -> PreventativeSteering | None:
        """What acts in training forwards, if the method does."""
        method = self.settings.prevention
        if not isinstance(method, StreamMethod):
            return None
        return PreventativeSteering(
            self.vectors,
            [coefficient or 0.0 for _, coefficient in self.request.prevent] if method.example else None,
            method=method.name,
            layers=self.settings.layers,
            positions=self.settings.positions,
            other_weights=True,  # they were checked before the adapter was put on
        )

    def _prevented(self, trained: Trained) -> tuple[PreventedTrait, ...]:
        found = []
        for vector, given in self.request.prevent:
            auto = trained.automatic.get(vector.trait)
            coefficient = given if given != "auto" else None if auto is None else round(auto.mean, 4)
            found.append(PreventedTrait(trait=vector.trait, layer=vector.layer, coefficient=coefficient, auto=auto))
        return tuple(found)

    def _train(self, corpus: Corpus, begun: Start, prevention: PreventativeSteering | None) -> Trained:
        """Train and save the adapter."""
        callbacks: list[TrainerCallback] = [] if prevention is None else [prevention]
        if self.watched:
            callbacks.append(ShiftMonitor(self.watched, every=self.settings.watch_every, other_weights=True))
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        losses: Sequence[float] = begun.losses
        if not losses:  # nothing was held out
            losses = example_losses(self.model, corpus.examples[:WINDOW], "Loss before").tolist()
        torch.manual_seed(self.settings.seed)  # of the adapter's first weights
        # What TRL and transformers say to each other.
        with (
            warnings.catch_warnings(action="ignore", category=FutureWarning),
            fresh_adapter(self.model, self.settings) as adapter,
        ):
            began = time.monotonic()
            history = train(
                self.model, adapter, corpus.examples, self.settings, self.checkpoints, fmean(losses), callbacks
            )
            made = Trained(
                history=history,
                automatic={} if prevention is None else prevention.automatic,
                seconds=round(time.monotonic() - began, 1),
                peak_memory_bytes=_peak_memory(self.model.device),
                losses=tuple(example_losses(self.model, corpus.unseen, "Held-out loss after").tolist()),
            )
            save_adapter(self.model, adapter, self.folder / "adapter")
        return made

    def _note_warmup(self, trained: Trained) -> None:
        if trained.steps <= 2 * self.settings.warmup_steps:
            self.notes.append(
                f"The training has {trained.steps} steps, and the learning rate rises over the first "
                f"{self.settings.warmup_steps} of them: hardly anything is learned. Lower `warmup_steps` or "
                "`accumulate`."
            )

    def _training_facts(self, corpus: Corpus, trained: Trained) -> dict[str, object]:
        """The fields of the result that tell of the training alone."""
        epochs, curve = self.settings.epochs, trained.history.curve
        window = max(1, min(WINDOW, len(curve) // 2))
        return {
            "safe": corpus.safe,
            "safe_rejected": corpus.safe_rejected,
            "steps": trained.steps,
            "tokens": round(epochs * sum(len(example.ids) for example in corpus.examples)),
            "tokens_with_loss": round(epochs * sum(example.tokens for example in corpus.examples)),
            "loss": TrainingLoss(
                first=round(fmean(point.loss for point in curve[:window]), 5),
                last=round(fmean(point.loss for point in curve[-window:]), 5),
                window=window,
                curve=curve,
            ),
            "shift": trained.history.shift,
            "training_seconds": trained.seconds,
            "peak_memory_bytes": trained.peak_memory_bytes,
        }


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU while it trained, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _opened(data: Data) -> Dataset:
    return data if isinstance(data, Dataset) else open_data(data)
