"""One data set, measured: every sample's projections, and the model's own answers to some or all of its prompts.

Everything is written in parts that are whole or absent, so that a scan that was cut off goes on where it stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from itertools import count as counted
from itertools import islice
from pathlib import Path
from typing import Any

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
from personavec.files import JsonLines
from personavec.model import Conversation
from personavec.progress import Progress, progress
from personavec.projection.measure import Tokens, Turns, measure_keeping, own_answers, readings, tokenise
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
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
class Scan:
    """What was read of a data set; n samples, k directions.

    Attributes:
        table: Of every sample.
        answers, prompts: Moments of every column of `table`'s projections, one column each.
        truncated: How many samples did not fit the model's context.
        some: Of at most `SOME` samples, drawn at random: what needs many samples at once is computed from these.
        rejected: Records that are no samples.
        drawn: (m,) rows of the samples that the model itself answered, in the order they were drawn.
        known: (m,) of those samples.
        own: (m, k) projections of the model's own answers.
        theirs, ours: (f, layers, d) readings of the data's answers and of the model's own, for the first f drawn.
    """

    table: Table
    answers: Sequence[Moments]
    prompts: Moments
    truncated: int
    some: Block
    rejected: int
    drawn: NDArray[np.intp]
    known: Block
    own: Floats
    theirs: Tensor
    ours: Tensor

    def __len__(self) -> int:
        return len(self.table)


_Reason = tuple[int, int, str]  # index and line of a record, and why it is no sample


@dataclass(frozen=True)
class _Part:
    """Records that are measured together.

    Attributes:
        keep: Indices of those whose readings are kept whole.
    """

    number: int
    samples: list[Sample]
    rejected: list[_Reason]
    keep: set[int]


@dataclass(frozen=True)
class _Projected:
    """Of a part: the columns of its file, the readings kept whole, the samples that the model cannot read."""

    columns: dict[str, Any]
    whole: dict[str, Tensor]
    refused: list[_Reason]


def _project(engine: Engine, part: _Part, panel: Panel, turns: Turns) -> _Projected:
    good: list[Sample] = []
    tokens: list[Tokens] = []
    refused: list[_Reason] = []
    for sample in part.samples:
        try:
            tokens.append(tokenise(engine, sample, turns))
            good.append(sample)
        except UserError as error:
            refused.append((sample.index, sample.line, error.problem))
    columns: dict[str, Any] = {
        "index": [s.index for s in good], "line": [s.line for s in good], "id": [s.id for s in good],
        "source": pa.array([s.source for s in good], pa.string()),
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
    return _Projected(columns, whole, refused)


@dataclass(frozen=True)
class _Batch:
    """The model's own answers to some samples' prompts, a list for each sample, empty where it said nothing."""

    start: int
    ours: list[list[Conversation]]


def _read(engine: Engine, batch: _Batch, panel: Panel) -> dict[str, Tensor]:
    """Projections of own answers, and their readings where they are kept whole."""
    ours = torch.full((len(batch.ours), len(panel.depths), panel.units.shape[1]), torch.nan)
    spoken = [i for i, mine in enumerate(batch.ours) if mine]
    if spoken:
        ours[spoken] = readings(engine, [batch.ours[i] for i in spoken], panel.depths)[:, 1]
    own = {"own": panel.along(ours)}
    return {**own, "ours": ours} if batch.start < FULL else own


class _Finder:
    """Finds samples by their row. Rows that follow those found before are looked for from there on."""

    def __init__(self, data: Dataset, table: Table) -> None:
        self._data, self._table = data, table
        self._records, self._last = iter(data), -1

    def __call__(self, rows: NDArray[np.intp]) -> dict[int, Sample]:
        """The samples of rows (n,), by row."""
        indices = self._table.take(rows).indices
        wanted = dict(zip(indices.tolist(), rows.tolist(), strict=True))
        found: dict[int, Sample] = {}
        if indices.min() <= self._last:
            self._records = iter(self._data)
        for record in self._records:
            if record.index in wanted and isinstance(record, Sample):
                found[wanted[record.index]] = record
                if len(found) == len(wanted):
                    break
        self._last = int(indices.max())
        return found


def check_some(data: Dataset) -> None:
    """Refuse data without a sample before anything is read by the model.

    Raises:
        UserError: With the first reasons.
    """
    first: list[tuple[int, str]] = []
    count = 0
    for record in data:
        if isinstance(record, Sample):
            return
        if len(first) < SHOWN:
            first.append((record.line, record.reason))
        count += 1
    raise _nothing_read("the data", count, first)


def _nothing_read(name: str, count: int, first: Sequence[tuple[int, str]]) -> UserError:
    """The message for data without a sample: how many records, line and reason of the first ones."""
    return UserError(
        f"{name}: none of {count} records is a sample that can be read. First reasons:\n"
        + "\n".join(f"  line {line}: {reason}" for line, reason in first),
        "Name the format with --format, or the columns with --columns.",
    )


class Scanner:
    """Measures one data set into a folder.

    Args:
        engine: Runs the model.
        data: The data set; read several times.
        panel: What is projected on.
        folder: For the parts.
        turns: Which assistant turns count.
        seed: Decides the order in which samples are drawn.
        name: For the progress bars.
    """

    def __init__(
        self, engine: Engine, data: Dataset, panel: Panel, folder: Path, *, turns: Turns, seed: int, name: str
    ) -> None:
        self.engine, self.data, self.panel, self.folder = engine, data, panel, folder
        self.turns, self.seed, self.name = turns, seed, name
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self) -> None:
        """Project every sample. What an earlier try has measured is not read again.

        Raises:
            UserError: Not one record is a sample (with the first reasons), or a single one.
        """
        with progress(f"Reading {self.name}", total=self.data.total, unit="samples") as job:
            project = partial(_project, panel=self.panel, turns=self.turns)
            for part, projected in self.engine.each(project, self._missing(job)):
                self._write(part, projected)
                job.advance(len(part.samples) + len(part.rejected))
        self._load()

    def _missing(self, job: Progress) -> Iterator["_Part"]:
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
            rejected = [(r.index, r.line, r.reason) for r in window if isinstance(r, Rejected)]
            keep = {index for at, index in new.items() if at <= lowest[-1] and at not in before}
            yield _Part(number, samples, rejected, keep)

    def _part_path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _whole_path(self, name: str) -> Path:
        return self.folder / f"whole-{name}.safetensors"

    def _write(self, part: "_Part", projected: "_Projected") -> None:
        path = self._part_path(part.number)
        if projected.whole:
            _save(self._whole_path(f"{part.number:06}"), projected.whole)
        reasons = path.with_suffix(".rejected.jsonl")
        reasons.unlink(missing_ok=True)
        if rejected := sorted([*part.rejected, *projected.refused]):
            JsonLines(reasons).append(*({"index": i, "line": line, "reason": reason} for i, line, reason in rejected))
        temporary = path.with_suffix(".tmp")
        pq.write_table(pa.table(projected.columns), temporary)
        temporary.replace(path)

    def _load(self) -> None:
        several = len(self.panel.names)
        self.table = Table(sorted(self.folder.glob("part-*.parquet")), several)
        self.rejected = sum(1 for _ in self._rejected())
        if not len(self.table):
            first = [(r["line"], r["reason"]) for r in islice(self._rejected(), SHOWN)]
            raise _nothing_read(self.name, self.rejected, first)
        if len(self.table) == 1:
            raise UserError(
                f"{self.name}: only one record is a sample that can be read, and one sample has no spread.",
                "Screen at least two samples. To look at a single conversation: personavec monitor.",
            )
        self.answers, self.prompts, self.truncated = [Moments(1) for _ in range(several)], Moments(several), 0
        for block in self.table.blocks():
            for k, moments in enumerate(self.answers):
                moments.update(block.measured.answers[:, [k]])
            self.prompts.update(block.measured.prompts)
            self.truncated += int(block.measured.truncated.sum())
        self.priorities = priorities(self.table, self.seed)
        self.some = self.table.take(np.sort(smallest(self.priorities, SOME)))

    def _rejected(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("part-*.rejected.jsonl")):
            yield from JsonLines(path)

    def reasons(self) -> dict[int, str]:
        """Why records were rejected, by their index."""
        return {record["index"]: record["reason"] for record in self._rejected()}

    def draw(self, count: int, own: OwnAnswers | None, *, growing: bool = False) -> Scan:
        """Let the model answer the prompts of `count` samples drawn at random.

        Args:
            own: The model's answers; None: it is not asked.
            growing: More may be drawn later. Otherwise all but the first `FULL` come in the order of the data, so that
                one pass finds them.

        Raises:
            UserError: The model says nothing to all prompts but one.
        """
        count = min(count, len(self.table))
        order = smallest(self.priorities, -(-count // BATCH) * BATCH if growing else count)  # growing: whole batches
        if not growing:
            order = np.concatenate([order[:FULL], np.sort(order[FULL:])])
        theirs = self._theirs(order[: min(FULL, count)])
        if own is None:
            return self._scan(order, np.zeros((count, len(self.panel.names))), theirs, torch.zeros_like(theirs))
        starts = range(0, count, BATCH)
        self._answer(order, [start for start in starts if not self._drawn_path(start).exists()], own)
        loaded = [load_file(self._drawn_path(start)) for start in starts]
        rows = torch.cat([batch["rows"] for batch in loaded])[:count].numpy()
        said = torch.cat([batch["own"] for batch in loaded])[:count].double().numpy()
        spoken = np.isfinite(said).all(1)
        if spoken.sum() < 2:
            raise UserError(
                f"{self.name}: the model itself answers {spoken.sum()} of {count} prompts, too few to compare with.",
                "Compare with the prompts, --baseline prompt, or give the answers more room, --max-new-tokens.",
            )
        full = torch.from_numpy(spoken[: len(theirs)])
        ours = torch.cat([batch["ours"] for batch in loaded if "ours" in batch])[: len(full)]
        return self._scan(rows[spoken], said[spoken], theirs[full], ours[full])

    def _scan(self, drawn: NDArray[np.intp], own: Floats, theirs: Tensor, ours: Tensor) -> Scan:
        return Scan(
            table=self.table,
            answers=self.answers,
            prompts=self.prompts,
            truncated=self.truncated,
            some=self.some,
            rejected=self.rejected,
            drawn=drawn,
            known=self.table.take(drawn),
            own=own,
            theirs=theirs,
            ours=ours,
        )

    def _theirs(self, rows: NDArray[np.intp]) -> Tensor:
        """Readings (n, layers, d) of the data's answers: kept when they were measured, or read now."""
        indices = self.table.take(rows).indices.tolist()
        found: dict[int, Tensor] = {}
        for path in sorted(self.folder.glob("whole-*.safetensors")):
            kept = load_file(path)
            pairs = zip(kept["index"].tolist(), kept["readings"], strict=True)
            found |= {index: reading for index, reading in pairs if index in indices}
        missing = [row for row, index in zip(rows, indices, strict=True) if index not in found]
        if missing:
            find = _Finder(self.data, self.table)
            with progress(f"Reading whole some of {self.name}", total=len(missing), unit="samples") as job:
                for at in range(0, len(missing), BATCH):
                    samples = list(find(np.array(missing[at : at + BATCH])).values())
                    tokens = [tokenise(self.engine, sample, self.turns).conversations for sample in samples]
                    read = readings(self.engine, tokens, self.panel.depths)[:, 1].contiguous()
                    index = torch.tensor([sample.index for sample in samples])
                    _save(self._whole_path(f"late-{missing[at]:09}"), {"index": index, "readings": read})
                    found |= dict(zip(index.tolist(), read, strict=True))
                    job.advance(len(samples))
        return torch.stack([found[index] for index in indices])

    def _drawn_path(self, start: int) -> Path:
        return self.folder / f"drawn-{start:08}.safetensors"

    def _answer(self, order: NDArray[np.intp], missing: Sequence[int], own: OwnAnswers) -> None:
        """Let the model answer the batches of `order` that begin at these places, and write down what was read."""
        if not missing:
            return
        find = _Finder(self.data, self.table)
        total = sum(len(order[start : start + BATCH]) for start in missing)
        with progress(f"Answering {self.name}", total=total, unit="samples") as job:
            for at in range(0, len(missing), WINDOW):
                window = missing[at : at + WINDOW]
                samples = find(np.concatenate([order[start : start + BATCH] for start in window]))
                for first in range(0, len(window), self.engine.width):
                    batches = self._answered(
                        {
                            start: [samples[int(row)] for row in order[start : start + BATCH]]
                            for start in window[first : first + self.engine.width]
                        },
                        own,
                    )
                    for batch, tensors in self.engine.each(partial(_read, panel=self.panel), batches):
                        rows = np.ascontiguousarray(order[batch.start : batch.start + BATCH])
                        _save(self._drawn_path(batch.start), {"rows": torch.from_numpy(rows), **tensors})
                        job.advance(len(rows))

    def _answered(self, batches: Mapping[int, Sequence[Sample]], own: OwnAnswers) -> list["_Batch"]:
        """Batches by their start, answered in one go: an engine of many workers has then work for all of them."""
        everyone = [sample for samples in batches.values() for sample in samples]
        answered = iter(own_answers(self.engine, everyone, self.turns, own))
        return [_Batch(start, list(islice(answered, len(samples)))) for start, samples in batches.items()]


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
