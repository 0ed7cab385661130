"""One data set, measured: every sample's projections, and the model's own answers to some or all of its prompts.

Everything is written in parts that are whole or absent, so that a scan that was cut off goes on where it stopped.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from personavec.screening.answers import OwnAnswers
from personavec.screening.measure import Measured, Tokens, Turns, measure, own_answers, readings, tokenise
from personavec.screening.panel import Panel
from personavec.screening.subset import priorities
from personavec.statistics import Floats

ROWS = 1 << 16  # ids that are Python strings at a time
PART = 512  # records measured together and written as one file
BATCH = 64  # samples that are answered together
FULL = 256  # samples whose readings are kept whole, so that any direction can be tried on them later


@dataclass(frozen=True, eq=False)
class Scan:
    """What was read of a data set; n samples, k directions.

    Attributes:
        ids, indices, lines: (n,) as `Sample` has them.
        measured: Of every sample.
        rejected: Records that are no samples.
        drawn: (m,) rows of the samples that the model itself answered, in the order they were drawn.
        own: (m, k) projections of the model's own answers.
        theirs, ours: (f, layers, d) readings of the data's answers and of the model's own, for the first f drawn.
    """

    ids: "Identities"
    indices: NDArray[np.int64]
    lines: NDArray[np.int64]
    measured: Measured
    rejected: int
    drawn: NDArray[np.intp]
    own: Floats
    theirs: Tensor
    ours: Tensor

    def __len__(self) -> int:
        return len(self.lines)


class Identities(Collection[str]):
    """Ids of samples, in Arrow's memory: a tenth of what they take as Python strings."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column.cast(pa.large_string()).combine_chunks()

    def __len__(self) -> int:
        return len(self.column)

    def __contains__(self, identity: object) -> bool:
        return any(one == identity for one in self)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS):
            yield from self.column.slice(start, ROWS).to_pylist()


_Reason = tuple[int, int, str]  # index and line of a record, and why it is no sample


@dataclass(frozen=True)
class _Part:
    number: int
    samples: list[Sample]
    rejected: list[_Reason]


def _project(engine: Engine, part: _Part, panel: Panel, turns: Turns) -> tuple[dict[str, Any], list[_Reason]]:
    """Columns of the part's file, and the samples that the model cannot read."""
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
    }  # fmt: skip
    if good:
        m = measure(engine, good, tokens, panel)
        columns |= {
            "answer_tokens": m.answer_tokens, "prompt_tokens": m.prompt_tokens, "refusal": m.refusals,
            "truncated": m.truncated,
            **{f"answer_{k}": m.answers[:, k] for k in range(m.answers.shape[1])},
            **{f"prompt_{k}": m.prompts[:, k] for k in range(m.prompts.shape[1])},
        }  # fmt: skip
    return columns, refused


@dataclass(frozen=True)
class _Batch:
    """Samples that were answered together, in tokens.

    Attributes:
        ours: The model's own answers, a list for each sample, empty where it said nothing; None: it was not asked.
        theirs: The data's answers; None where they need not be read in full.
    """

    start: int
    ours: list[list[Conversation]] | None
    theirs: list[list[Conversation]] | None


def _read(engine: Engine, batch: _Batch, panel: Panel) -> dict[str, Tensor]:
    """Projections of the model's own answers, and readings of both where they are wanted."""
    depths, tensors = panel.depths, {}
    if batch.theirs is not None:
        tensors["theirs"] = readings(engine, batch.theirs, depths)[:, 1].contiguous()
    if batch.ours is None:
        tensors["own"] = torch.zeros(len(tensors["theirs"]), len(panel.names))
        tensors["ours"] = torch.zeros_like(tensors["theirs"])
        return tensors
    ours = torch.full((len(batch.ours), len(depths), panel.units.shape[1]), torch.nan)
    spoken = [i for i, mine in enumerate(batch.ours) if mine]
    if spoken:
        ours[spoken] = readings(engine, [batch.ours[i] for i in spoken], depths)[:, 1]
    tensors["own"] = panel.along(ours)
    if batch.theirs is not None:
        tensors["ours"] = ours
    return tensors


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
            UserError: Not one record is a sample (with the first reasons).
        """
        with progress(f"Reading {self.name}", total=self.data.total, unit="samples") as job:
            project = partial(_project, panel=self.panel, turns=self.turns)
            for part, (columns, refused) in self.engine.each(project, self._missing(job)):
                self._write(part, columns, refused)
                job.advance(len(part.samples) + len(part.rejected))
        self._load()

    def _missing(self, job: Progress) -> Iterator["_Part"]:
        """The parts that are not written yet."""
        records = iter(self.data)
        for number in counted():
            window = list(islice(records, PART))
            if not window:
                return
            if self._part_path(number).exists():
                job.advance(len(window))
                continue
            samples = [record for record in window if isinstance(record, Sample)]
            rejected = [(r.index, r.line, r.reason) for r in window if isinstance(r, Rejected)]
            yield _Part(number, samples, rejected)

    def _part_path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _write(self, part: "_Part", columns: dict[str, Any], refused: list["_Reason"]) -> None:
        path = self._part_path(part.number)
        reasons = path.with_suffix(".rejected.jsonl")
        reasons.unlink(missing_ok=True)
        if rejected := sorted([*part.rejected, *refused]):
            JsonLines(reasons).append(*({"index": i, "line": line, "reason": reason} for i, line, reason in rejected))
        temporary = path.with_suffix(".tmp")
        pq.write_table(pa.table(columns), temporary)
        temporary.replace(path)

    def _load(self) -> None:
        tables = [pq.read_table(path) for path in sorted(self.folder.glob("part-*.parquet"))]
        tables = [table for table in tables if len(table)]
        self.rejected = sum(1 for _ in self._rejected())
        if not tables:
            raise UserError(
                f"{self.name}: none of {self.rejected} records is a sample that can be read. First reasons:\n"
                + "\n".join(f"  line {r['line']}: {r['reason']}" for r in islice(self._rejected(), 3)),
                "Name the format with --format, or the columns with --columns.",
            )
        table = pa.concat_tables(tables)
        several = range(len(self.panel.names))

        def column(name: str) -> Floats:
            return np.asarray(table[name].to_numpy(), dtype=np.float64)

        self.indices: NDArray[np.int64] = table["index"].to_numpy()
        self.lines: NDArray[np.int64] = table["line"].to_numpy()
        self.ids = Identities(table["id"])
        self.measured = Measured(
            answers=np.stack([column(f"answer_{k}") for k in several], 1),
            prompts=np.stack([column(f"prompt_{k}") for k in several], 1),
            answer_tokens=column("answer_tokens"),
            prompt_tokens=column("prompt_tokens"),
            refusals=column("refusal"),
            truncated=column("truncated"),
        )
        self.order = np.argsort(priorities(self.ids, self.seed), kind="stable")

    def _rejected(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("part-*.rejected.jsonl")):
            yield from JsonLines(path)

    def reasons(self) -> dict[int, str]:
        """Why records were rejected, by their index."""
        return {record["index"]: record["reason"] for record in self._rejected()}

    def draw(self, count: int, own: OwnAnswers | None) -> Scan:
        """Let the model answer the prompts of the first `count` samples in the drawn order, and read both answers.

        Args:
            own: The model's answers; None: only read the data's answers in full.
        """
        count = min(count, len(self.lines))
        starts = range(0, count, BATCH)
        missing = [start for start in starts if not self._drawn_path(start).exists()]
        if missing:
            rows = np.concatenate([self.order[start : start + BATCH] for start in missing])
            samples = self._samples({int(self.indices[row]): int(row) for row in rows})
            with progress(f"Answering {self.name}", total=len(rows), unit="samples") as job:
                for at in range(0, len(missing), self.engine.width):
                    batches = [
                        self._answered(start, [samples[int(row)] for row in self.order[start : start + BATCH]], own)
                        for start in missing[at : at + self.engine.width]
                    ]
                    for batch, tensors in self.engine.each(partial(_read, panel=self.panel), batches):
                        chosen = self.order[batch.start : batch.start + BATCH]
                        self._save(batch.start, {"rows": torch.from_numpy(np.ascontiguousarray(chosen)), **tensors})
                        job.advance(len(chosen))
        loaded = [load_file(self._drawn_path(start)) for start in starts]
        rows = torch.cat([batch["rows"] for batch in loaded])[:count].numpy()
        ours = torch.cat([batch["own"] for batch in loaded])[:count].double().numpy()
        spoken = np.isfinite(ours).all(1)
        full = torch.from_numpy(spoken[: min(FULL, count)])
        theirs, mine = (
            torch.cat([b[key] for b in loaded if key in b])[: len(full)][full] for key in ("theirs", "ours")
        )
        return Scan(
            self.ids, self.indices, self.lines, self.measured, self.rejected, rows[spoken], ours[spoken], theirs, mine
        )

    def _drawn_path(self, start: int) -> Path:
        return self.folder / f"drawn-{start:08}.safetensors"

    def _samples(self, wanted: dict[int, int]) -> dict[int, Sample]:
        """The samples with these indices, by row."""
        found = {}
        for record in self.data:
            if isinstance(record, Sample) and record.index in wanted:
                found[wanted[record.index]] = record
                if len(found) == len(wanted):
                    break
        return found

    def _answered(self, start: int, samples: Sequence[Sample], own: OwnAnswers | None) -> "_Batch":
        ours = None if own is None else own_answers(self.engine, samples, self.turns, own)
        wanted = own is None or start < FULL
        theirs = [tokenise(self.engine, sample, self.turns).conversations for sample in samples] if wanted else None
        return _Batch(start, ours, theirs)

    def _save(self, start: int, tensors: dict[str, Tensor]) -> None:
        temporary = self._drawn_path(start).with_suffix(".tmp")
        save_file(tensors, temporary)
        temporary.replace(self._drawn_path(start))
