"""One data set, measured: every sample's projections, and the model's own answers to some or all of its prompts.

Everything is written in parts that are whole or absent, so that a scan that was cut off goes on where it stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from heapq import nsmallest
from itertools import count as counted
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from personavec.data import Dataset, Rejected, Sample
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.files import JsonLines, replacing
from personavec.model import Conversation
from personavec.progress import Progress, progress
from personavec.projection import Turns
from personavec.projection.measure import Tokens, measure_keeping, own_answers, prompt_key, readings, tokenise
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.screening.lookup import Lookup
from personavec.screening.table import Block, Table
from personavec.stats.moments import Moments
from personavec.stats.numbers import Floats
from personavec.stats.sampling import priorities, priority, smallest

PART = 512  # records measured together and written as one file
BATCH = 64  # samples that are answered together
WINDOW = 64  # batches whose samples are in memory together
FULL = 256  # samples whose readings are kept whole, so that any direction can be tried on them later
SHOWN = 3  # reasons in the message about data without a sample
SOME = 1 << 16  # samples that are held in memory together


@dataclass(frozen=True, eq=False)
class Survey:
    """What was read of every sample of a data set; n samples, k directions.

    Attributes:
        table: Of every sample.
        answers, prompts: Moments of every column of `table`'s projections, one column each.
        truncated: How many samples did not fit the model's context.
        priorities: (n,) the order in which samples are drawn, see `stats.sampling`.
        asked: (n,) a number that samples with the same prompt share.
        some: Of at most `SOME` samples, drawn at random: what needs many samples at once is computed from these.
    """

    table: Table
    answers: Sequence[Moments]
    prompts: Moments
    truncated: int
    priorities: Floats
    asked: NDArray[np.int64]
    some: Block

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True, eq=False)
class Scan:
    """A data set, and what the model itself says to some of its prompts; k directions.

    Attributes:
        survey: Of every sample.
        drawn: (m,) rows of the samples that the model itself answered, in the order they were drawn.
        known: (m,) of those samples.
        own: (m, k) projections of the model's own answers.
        theirs, ours: (f, layers, d) readings of the data's answers and of the model's own, for the first f drawn.
    """

    survey: Survey
    drawn: NDArray[np.intp]
    known: Block
    own: Floats
    theirs: Tensor
    ours: Tensor

    def __len__(self) -> int:
        return len(self.survey)


@dataclass(frozen=True, order=True)
class _Rejection:
    """Why a record is no sample, or none that the model can read."""

    index: int
    line: int
    reason: str


@dataclass(frozen=True)
class _Part:
    """Records that are measured together.

    Attributes:
        keep: Indices of those whose readings are kept whole.
    """

    number: int
    samples: list[Sample]
    rejected: list[_Rejection]
    keep: set[int]


Column: TypeAlias = Sequence[int] | Sequence[str] | NDArray[np.generic] | pa.Array


@dataclass(frozen=True)
class _Projection:
    """Of a part: the columns of its file, the readings kept whole, the samples that the model cannot read."""

    columns: dict[str, Column]
    whole: dict[str, Tensor]
    refused: list[_Rejection]


def _projection(engine: Engine, part: _Part, panel: Panel, turns: Turns, first: int | None) -> _Projection:
    good: list[Sample] = []
    tokens: list[Tokens] = []
    refused: list[_Rejection] = []
    for sample in part.samples:
        try:
            tokens.append(tokenise(engine, sample, turns, first))
            good.append(sample)
        except UserError as error:
            refused.append(_Rejection(sample.index, sample.line, error.problem))
    columns: dict[str, Column] = {
        "index": [s.index for s in good], "line": [s.line for s in good], "id": [s.id for s in good],
        "source": pa.array([s.source for s in good], pa.string()),
        "asked": pa.array([prompt_key(s, turns) for s in good], pa.int64()),
    }  # fmt: skip
    whole: dict[str, Tensor] = {}
    if good:
        keep = [at for at, sample in enumerate(good) if sample.index in part.keep]
        m, kept = measure_keeping(engine, good, tokens, panel, turns, keep)
        if keep:
            whole = {"index": torch.tensor([good[at].index for at in keep]), "readings": kept.contiguous()}
        columns |= {
            "answer_tokens": m.answer_tokens, "prompt_tokens": m.prompt_tokens, "refusal": m.refusals,
            "truncated": m.truncated,
            **{f"answer_{k}": m.answers[:, k] for k in range(m.answers.shape[1])},
            **{f"prompt_{k}": m.prompts[:, k] for k in range(m.prompts.shape[1])},
        }  # fmt: skip
    return _Projection(columns, whole, refused)


@dataclass(frozen=True)
class _Batch:
    """The model's own answers to some samples' prompts, a list for each sample, empty where it said nothing."""

    start: int
    ours: list[list[Conversation]]


def _read(engine: Engine, batch: _Batch, panel: Panel) -> dict[str, Tensor]:
    """Projections of own answers, and their readings where they are kept whole."""
    ours = torch.full((len(batch.ours), len(panel.depths), panel.units.shape[1]), torch.nan)
    spoken = [i for i, answers in enumerate(batch.ours) if answers]
    if spoken:
        ours[spoken] = readings(engine, [batch.ours[i] for i in spoken], panel.depths).answers
    own = {"own": panel.along(ours)}
    return {**own, "ours": ours} if batch.start < FULL else own


def check_some(data: Dataset) -> None:
    """Refuse data without a sample before anything is read by the model.

    Raises:
        UserError: With the first reasons.
    """
    first: list[_Rejection] = []
    count = 0
    for record in data:
        if isinstance(record, Sample):
            return
        if len(first) < SHOWN:
            first.append(_Rejection(record.index, record.line, record.reason))
        count += 1
    raise _nothing_read("the data", count, first)


def _nothing_read(name: str, count: int, first: Sequence[_Rejection]) -> UserError:
    """The message for data without a sample: how many records, and the first ones."""
    return UserError(
        f"{name}: none of {count} records is a sample that can be read. First reasons:\n"
        + "\n".join(f"  line {rejection.line}: {rejection.reason}" for rejection in first),
        "Name the format with `format`, or the columns with `columns`.",
    )


class Scanner:
    """Measures one data set into a folder.

    Args:
        engine: Runs the model.
        data: The data set; read several times.
        panel: What is projected on.
        folder: For the parts.
        turns: Which assistant turns count.
        first: How many tokens of each answer are read; None: all.
        seed: Decides the order in which samples are drawn.
        name: For the progress bars.
    """

    def __init__(
        self, engine: Engine, data: Dataset, panel: Panel, folder: Path,
        *, turns: Turns, seed: int, name: str, first: int | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.data, self.panel, self.folder = engine, data, panel, folder
        self.turns, self.first, self.seed, self.name = turns, first, seed, name
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self) -> Survey:
        """Project every sample. What an earlier try has measured is not read again.

        Raises:
            UserError: Not one record is a sample (with the first reasons), or a single one.
        """
        with progress(f"Reading {self.name}", total=self.data.total, unit="samples") as job:
            project = partial(_projection, panel=self.panel, turns=self.turns, first=self.first)
            for part, projected in self.engine.each(project, self._missing(job)):
                self._write(part, projected)
                job.advance(len(part.samples) + len(part.rejected))
        return self._survey()

    def _missing(self, job: Progress) -> Iterator[_Part]:
        """The parts that are not written yet.

        Kept whole is what may be among the first `FULL` to be drawn: a sample that is so among all is so among those
        before it. Second occurrences are not foreseen, since that would take all ids in memory; `_theirs` reads them.
        """
        records = iter(self.data)
        lowest: list[float] = []  # priorities of the first to be drawn, so far
        for number in counted():
            window = list(islice(records, PART))
            if not window:
                return
            samples = [record for record in window if isinstance(record, Sample)]
            before, new = set(lowest), dict[float, int]()
            for sample in samples:
                new.setdefault(priority(sample.id, 0, self.seed), sample.index)
            lowest = nsmallest(FULL, before | new.keys())
            if self._part_path(number).exists():
                job.advance(len(window))
                continue
            rejected = [_Rejection(r.index, r.line, r.reason) for r in window if isinstance(r, Rejected)]
            keep = {index for at, index in new.items() if at <= lowest[-1] and at not in before}
            yield _Part(number, samples, rejected, keep)

    def _part_path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _whole_path(self, name: str) -> Path:
        return self.folder / f"whole-{name}.safetensors"

    def _write(self, part: _Part, projected: _Projection) -> None:
        path = self._part_path(part.number)
        if projected.whole:
            _save(self._whole_path(f"{part.number:06}"), projected.whole)
        reasons = path.with_suffix(".rejected.jsonl")
        reasons.unlink(missing_ok=True)
        if rejected := sorted([*part.rejected, *projected.refused]):
            JsonLines(reasons).append(*(asdict(rejection) for rejection in rejected))
        with replacing(path) as temporary:
            pq.write_table(pa.table(projected.columns), temporary)

    def _survey(self) -> Survey:
        several = len(self.panel.names)
        table = Table(sorted(self.folder.glob("part-*.parquet")), several)
        if not len(table):
            first = list(islice(self._rejected(), SHOWN))
            raise _nothing_read(self.name, sum(1 for _ in self._rejected()), first)
        if len(table) == 1:
            raise UserError(
                f"{self.name}: only one record is a sample that can be read, and one sample has no spread.",
                "Screen at least two samples. To look at a single conversation: personavec monitor.",
            )
        answers, prompts, truncated = [Moments(1) for _ in range(several)], Moments(several), 0
        asked = []
        for block in table.blocks():
            for k, moments in enumerate(answers):
                moments.update(block.measured.answers[:, [k]])
            prompts.update(block.measured.prompts)
            truncated += int(block.measured.truncated.sum())
            asked.append(block.asked)
        order = priorities(table, self.seed)
        some = table.take(np.sort(smallest(order, SOME)))
        return Survey(table, answers, prompts, truncated, order, np.concatenate(asked), some)

    def _rejected(self) -> Iterator[_Rejection]:
        for path in sorted(self.folder.glob("part-*.rejected.jsonl")):
            yield from (_Rejection(**record) for record in JsonLines(path))

    def reasons(self) -> dict[int, str]:
        """Why records were rejected, by their index."""
        return {rejection.index: rejection.reason for rejection in self._rejected()}

    def draw(self, survey: Survey, count: int, own: OwnAnswers | None, *, growing: bool = False) -> Scan:
        """Let the model answer the prompts of `count` samples drawn at random.

        Args:
            survey: What `measure` found.
            own: The model's answers; None: it is not asked.
            growing: More may be drawn later. Otherwise all but the first `FULL` come in the order of the data, so that
                one pass finds them.

        Raises:
            UserError: The model says nothing to all prompts but one.
        """
        table, count = survey.table, min(count, len(survey))
        order = smallest(survey.priorities, -(-count // BATCH) * BATCH if growing else count)  # growing: whole batches
        if not growing:
            order = np.concatenate([order[:FULL], np.sort(order[FULL:])])
        theirs = self._theirs(table, order[: min(FULL, count)])
        if own is None:
            silence = np.zeros((count, len(self.panel.names)))
            return Scan(survey, order, table.take(order), silence, theirs, torch.zeros_like(theirs))
        starts = range(0, count, BATCH)
        self._answer(table, order, [start for start in starts if not self._drawn_path(start).exists()], own)
        loaded = [load_file(self._drawn_path(start)) for start in starts]
        rows = torch.cat([batch["rows"] for batch in loaded])[:count].numpy()
        said = torch.cat([batch["own"] for batch in loaded])[:count].double().numpy()
        spoken = np.isfinite(said).all(1)
        if spoken.sum() < 2:
            raise UserError(
                f"{self.name}: the model itself answers {spoken.sum()} of {count} prompts, too few to compare with.",
                "Compare with the prompts, `baseline` prompt, or give the answers more room, `max_new_tokens`.",
            )
        full = torch.from_numpy(spoken[: len(theirs)])
        ours = torch.cat([batch["ours"] for batch in loaded if "ours" in batch])[: len(full)]
        drawn = rows[spoken]
        return Scan(survey, drawn, table.take(drawn), said[spoken], theirs[full], ours[full])

    def _theirs(self, table: Table, rows: NDArray[np.intp]) -> Tensor:
        """Readings (n, layers, d) of the data's answers: kept when they were measured, or read now."""
        indices = table.take(rows).indices.tolist()
        wanted = set(indices)
        found: dict[int, Tensor] = {}
        for path in sorted(self.folder.glob("whole-*.safetensors")):
            kept = load_file(path)
            pairs = zip(kept["index"].tolist(), kept["readings"], strict=True)
            found |= {index: reading for index, reading in pairs if index in wanted}
        missing = {index: row for row, index in zip(rows.tolist(), indices, strict=True) if index not in found}
        if missing:
            found |= self._read_late(missing)
        return torch.stack([found[index] for index in indices])

    def _read_late(self, missing: Mapping[int, int]) -> dict[int, Tensor]:
        """Readings by index of samples that were not kept, from their rows by index; kept from now on."""
        late: dict[int, Tensor] = {}
        lookup, order = Lookup(self.data), list(missing)
        with progress(f"Reading whole some of {self.name}", total=len(missing), unit="samples") as job:
            for at in range(0, len(order), BATCH):
                samples = list(lookup(order[at : at + BATCH]).values())
                tokens = [tokenise(self.engine, sample, self.turns, self.first).conversations for sample in samples]
                read = readings(self.engine, tokens, self.panel.depths).answers.contiguous()
                index = torch.tensor([sample.index for sample in samples])
                _save(self._whole_path(f"late-{missing[order[at]]:09}"), {"index": index, "readings": read})
                late |= dict(zip(index.tolist(), read, strict=True))
                job.advance(len(samples))
        return late

    def _drawn_path(self, start: int) -> Path:
        return self.folder / f"drawn-{start:08}.safetensors"

    def _answer(self, table: Table, order: NDArray[np.intp], missing: Sequence[int], own: OwnAnswers) -> None:
        """Let the model answer the batches of `order` that begin at these places, and write down what was read."""
        if not missing:
            return
        lookup = Lookup(self.data)
        total = sum(len(order[start : start + BATCH]) for start in missing)
        with progress(f"Answering {self.name}", total=total, unit="samples") as job:
            for at in range(0, len(missing), WINDOW):
                window = missing[at : at + WINDOW]
                rows = np.concatenate([order[start : start + BATCH] for start in window])
                indices = dict(zip(rows.tolist(), table.take(rows).indices.tolist(), strict=True))
                samples = lookup(indices.values())
                for first in range(0, len(window), self.engine.width):
                    together = window[first : first + self.engine.width]
                    batches = self._batches(
                        {
                            start: [samples[indices[row]] for row in order[start : start + BATCH].tolist()]
                            for start in together
                        },
                        own,
                    )
                    for batch, tensors in self.engine.each(partial(_read, panel=self.panel), batches):
                        answered = np.ascontiguousarray(order[batch.start : batch.start + BATCH])
                        _save(self._drawn_path(batch.start), {"rows": torch.from_numpy(answered), **tensors})
                        job.advance(len(answered))

    def _batches(self, batches: Mapping[int, Sequence[Sample]], own: OwnAnswers) -> list[_Batch]:
        """Batches by their start, answered in one go: an engine of many workers has then work for all of them."""
        everyone = [sample for samples in batches.values() for sample in samples]
        answered = iter(own_answers(self.engine, everyone, self.turns, own))
        return [_Batch(start, list(islice(answered, len(samples)))) for start, samples in batches.items()]


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file(tensors, temporary)
