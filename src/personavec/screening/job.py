"""Screening from end to end: reference, data, differences, thresholds, findings, files."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from personavec.cache import cache_folder
from personavec.data import Dataset, Sample, open_data
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.files import RunFolder, write_json
from personavec.judges.scorer import Scorer
from personavec.model import Conversation
from personavec.progress import progress
from personavec.projection import CLEAN
from personavec.projection.measure import readings, tokenise
from personavec.projection.own_answers import OwnAnswers
from personavec.projection.panel import Panel
from personavec.screening.declined import refusing
from personavec.screening.differences import Differences
from personavec.screening.estimate import planned_sizes, settled
from personavec.screening.findings import Compared, placed, trait_findings
from personavec.screening.judged import FROM, judged
from personavec.screening.outputs import Column, split, write_scores
from personavec.screening.page import histogram, write_screen_report
from personavec.screening.scan import FULL, Scan, Scanner, check_some
from personavec.screening.settings import Settings
from personavec.screening.shown import Standing, find, listed, select, texts, tokens
from personavec.screening.specific import Apart, Specific, Whitening, length_direction, refusal_direction
from personavec.screening.threshold import Threshold, check_size, threshold, with_error
from personavec.screening.verdict import verdict
from personavec.stats.numbers import Floats
from personavec.vector import PersonaVector

CLEAN_GENERATED = 96  # own answers to the clean reference's prompts in a hybrid screening
REFERENCE_FORM = 3  # of what the cache keeps of a reference; one of another form is made anew
SOURCES_SHOWN = 10  # of those that held no sample
FOR_DIRECTIONS = 96  # clean samples from which the directions of length and refusal are taken


class Screen:
    """One screening, over one run folder.

    Args:
        engine: Runs the model.
        vectors: Traits to screen for.
        others: Further vectors of the model, for comparison.
        settings: See `Settings`.
        clean: The clean reference; None: the bundled one.
        scorers: The judge of each trait, by its name; None: no judge.
        beside: Further reference sets, among which the data are placed.
    """

    def __init__(
        self,
        engine: Engine,
        vectors: Sequence[PersonaVector],
        others: Sequence[PersonaVector],
        settings: Settings,
        clean: Dataset | None,
        scorers: Mapping[str, Scorer] | None = None,
        beside: Sequence[Dataset] = (),
    ) -> None:
        self.scorers, self.beside = scorers or {}, beside
        self.engine, self.settings = engine, settings
        self.clean, self.bundled = clean or open_data(CLEAN), clean is None
        self.panel = Panel.of(vectors)
        self.vectors = vectors
        self.others = [v for v in others if v.trait not in self.panel.names]
        self.own = OwnAnswers(engine, settings.max_new_tokens)
        self.intervals = [1] * len(vectors)  # looks that each trait's interval must hold for together
        self.kept: list[float] = [1.0] * len(vectors)  # share of each direction that `specific` left
        # Of each trait, what is done to a direction before it is put in the vector's place, and the other traits'.
        self.treat: list[Callable[[Tensor], Tensor]] = [lambda direction: direction] * len(vectors)
        self.rivals = [
            {v.trait: v.unit(one.layer) for v in [*vectors, *self.others] if v.trait != one.trait} for one in vectors
        ]

    def specific(self) -> None:
        """Replace the panel's directions by specific ones, as the settings say, and likewise what they stand beside.

        For whitening the clean reference is parted: what the direction was made from sets no threshold along it.
        """
        if self.settings.specific == "no":
            return
        clean = self.clean
        if self.settings.specific == "whiten":
            clean, self.clean = self.clean.every(2), self.clean.every(2, 1)
        samples, tokens = self._read_first(clean, FOR_DIRECTIONS)
        depths = self.panel.depths
        answering = readings(self.engine, tokens, depths)[:, 1]
        declining = refusing(self.engine, samples, depths)
        lengths = torch.tensor([sum(e - s for c in mine for s, e in c.spans[1::2]) for mine in tokens]).log1p()
        units = []
        for k, vector in enumerate(self.vectors):
            at = depths.index(vector.layer)
            make: Callable[[Tensor, str], Specific]
            if self.settings.specific == "whiten":
                make = Whitening(answering[:, at])
            else:
                common = [
                    length_direction(answering[:, at], lengths),
                    refusal_direction(declining[:, at], answering[:, at]),
                ]
                make = Apart({vector.trait: self.panel.units[k], **self.rivals[k]}, common)
            made = make(self.panel.units[k], vector.trait)
            units.append(made.direction)
            self.kept[k] = made.kept
            self.treat[k] = partial(_treated, make=make, trait=vector.trait)
            rivals: dict[str, Tensor] = {}
            for name, direction in self.rivals[k].items():
                with suppress(UserError):  # nothing is left of it
                    rivals[name] = make(direction, name).direction
            self.rivals[k] = rivals
        self.panel = Panel(self.panel.names, self.panel.layers, torch.stack(units))

    def _read_first(self, clean: Dataset, count: int) -> tuple[list[Sample], list[list[Conversation]]]:
        """The first samples of a reference that the model can read."""
        samples: list[Sample] = []
        tokens: list[list[Conversation]] = []
        for record in clean:
            with suppress(UserError):
                if isinstance(record, Sample):
                    tokens.append(tokenise(self.engine, record, "last").conversations)
                    samples.append(record)
            if len(samples) == count:
                break
        return samples, tokens

    def reference(self, data: Dataset) -> Compared:
        """A reference set, read once per model, panel and settings, and kept in the cache folder."""
        s = self.settings
        decides = [
            REFERENCE_FORM, self.engine.identity, data.digest, s.baseline, s.turns, s.max_new_tokens, s.seed,
            self.panel.names, self.panel.layers,
            hashlib.sha256(self.panel.units.numpy().tobytes()).hexdigest(),
        ]  # fmt: skip
        name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
        folder = cache_folder() / "references" / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            scanner = self._scanner(data, folder, "the clean reference" if data is self.clean else _name(data))
            scanner.measure()
            if s.threshold is None and data is self.clean:
                parts = 2 if s.specific == "whiten" else 1
                check_size(len(scanner.table), s.false_alarm_rate, parts)  # before the model answers anything
            count = {"exact": len(scanner.table), "prompt": FULL, "hybrid": CLEAN_GENERATED}[s.baseline]
            scan = scanner.draw(count, None if s.baseline == "prompt" else self.own)
        return self._compared(scan)

    def data(self, data: Dataset, folder: Path, clean: Compared) -> tuple[Compared, Mapping[int, str]]:
        """The data set, with as many own answers as the baseline asks for; and why lines were rejected."""
        s = self.settings
        scanner = self._scanner(data, folder, "the data")
        scanner.measure()
        if s.baseline == "prompt":
            return self._compared(scanner.draw(FULL, None)), scanner.reasons()
        if s.baseline == "exact":
            return self._compared(scanner.draw(len(scanner.table), self.own)), scanner.reasons()
        looks = planned_sizes(len(scanner.table))
        precision = [s.precision * float(mine.some.std(ddof=1)) for mine in clean.along]
        levels = [mine.total.mean for mine in clean.along]
        for count in looks:
            found = self._compared(scanner.draw(count, self.own, growing=True))
            totals = [mine.total for mine in found.along]
            reasons = [
                settled(total, looks, near, level) for total, near, level in zip(totals, precision, levels, strict=True)
            ]
            if all(reasons):
                break
        # An interval that decided when to stop must hold for all the looks together.
        self.intervals = [len(looks) if reason == "clear" else 1 for reason in reasons]
        return found, scanner.reasons()

    def write(
        self,
        folder: RunFolder,
        data: Dataset,
        found: Compared,
        clean: Compared,
        beside: Mapping[str, Compared],
        reasons: Mapping[int, str],
        record: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Thresholds, flags, findings; all files but the summary, which comes back."""
        s, scan, names = self.settings, found.scan, self.panel.names
        levels: list[Threshold | None] = [None] * len(names)
        if s.threshold is None:
            errors = [math.hypot(d.common_error, c.common_error) for d, c in zip(found.along, clean.along, strict=True)]
            plain = [threshold(c.some, s.false_alarm_rate) for c in clean.along]
            levels = [with_error(*both) for both in zip(plain, [c.some for c in clean.along], errors, strict=True)]
        limits = [float(s.threshold or 0.0) if level is None else level.value for level in levels]
        flags = np.zeros((len(scan), len(names)), dtype=bool)
        standing = [Standing(partial(_selected, threshold=limit)) for limit in limits]
        farthest = Standing(listed)
        for block in scan.table.blocks():
            scores = [mine.of(block).difference for mine in found.along]
            for k, difference in enumerate(scores):
                flags[block.rows, k] = difference > limits[k]
                standing[k].add(block.rows, difference)
            farthest.add(block.rows, np.stack([_z(d, c) for d, c in zip(scores, clean.along, strict=True)], 1))
        traits: dict[str, dict[str, Any]] = {}
        for k, (name, level) in enumerate(zip(names, levels, strict=True)):
            traits[name] = {
                **trait_findings(self.panel, k, found, clean, self.rivals[k], self.intervals[k], s.seed, self.treat[k]),
                "threshold": round(limits[k], 4),
                "false_alarms": None if level is None else [round(level.low, 4), round(level.high, 4)],
                "flagged": int(flags[:, k].sum()),
                "specific_share": round(self.kept[k], 4),
                "references": placed(k, found, clean, beside, self.intervals[k]),
            }
        opinions: dict[str, Floats] = {}
        if self.scorers:
            everyone = np.arange(len(scan))
            rows = {n: everyone if s.judge_all else np.flatnonzero(flags[:, k]) for k, n in enumerate(names)}
            opinions = judged(self.engine, data, scan.table, rows, self.scorers, s.turns)
            for k, name in enumerate(names):
                seen = np.isfinite(opinions[name])
                above = seen & (np.nan_to_num(opinions[name]) > FROM)
                traits[name]["judge"] = {"scored": int(seen.sum()), "above_50": int(above.sum())}
                if s.judge_all:
                    flags[:, k] |= above
                    traits[name]["flagged"] = int(flags[:, k].sum())
        flagged: NDArray[np.bool_] = np.logical_or.reduce(flags, axis=1)
        write_scores(folder / "scores.parquet", self.columns(found, clean, flags, opinions))
        indices = (index for block in scan.table.blocks() for index in block.indices.tolist())
        with progress("Writing", total=data.total, unit="records") as job:
            counts, useless = split(folder.path, data, indices, flagged, reasons, job.advance)
        unread = [
            f"All {count} records of {source} were rejected. The format is {data.format}, as in most of the first "
            "records: screen files of another format by themselves."
            for source, count in list(useless.items())[:SOURCES_SHOWN]
        ]
        summary = {
            "command": "screen",
            **record,
            **counts,
            "format": data.format,
            "traits": traits,
            "baseline": s.baseline,
            "truncated": scan.truncated,
            "generated": self.own.made,
            "drawn": len(scan.drawn),
            "clean": {
                "name": ", ".join(self.clean.sources),
                "bundled": self.bundled,
                "samples": len(clean.scan),
                "drawn": len(clean.scan.drawn),
            },
            "warnings": [*self.warnings(data, found, clean), *unread],
            "data": ", ".join(data.sources),
            "arguments": asdict(s),
        }
        summary["verdict"] = verdict(summary)
        shown = self.shown(data, found, clean, limits, flags, standing, farthest)
        write_screen_report(summary, shown, folder / "report.html")
        return summary

    def columns(
        self, found: Compared, clean: Compared, flags: NDArray[np.bool_], judged: Mapping[str, Floats]
    ) -> Iterator[dict[str, Column]]:
        """The columns of scores.parquet, some rows at a time."""
        for block in found.scan.table.blocks():
            columns: dict[str, Column] = {
                "id": block.ids, "index": block.indices, "source": block.sources, "line": block.lines,
            }  # fmt: skip
            for k, name in enumerate(self.panel.names):
                scores = found.along[k].of(block)
                columns |= {
                    f"{name}_projection": block.measured.answers[:, k],
                    f"{name}_prompt": block.measured.prompts[:, k],
                    f"{name}_baseline": scores.baseline,
                    f"{name}_baseline_error": scores.error,
                    f"{name}_own": scores.own,
                    f"{name}_difference": scores.difference,
                    f"{name}_z": _z(scores.difference, clean.along[k]),
                    f"{name}_flagged": flags[block.rows, k],
                }
            columns |= {f"{name}_judge": scores[block.rows] for name, scores in judged.items()}
            columns["flagged"] = flags[block.rows].any(1)
            yield columns

    def warnings(self, data: Dataset, found: Compared, clean: Compared) -> list[str]:
        """What limits the figures."""
        notes = [*self.engine.template.notes, *data.notes]
        cut = found.scan.truncated
        if cut:
            notes.append(
                f"{cut} of {len(found.scan)} samples do not fit the model's context of {self.engine.context_length} "
                "tokens: their ends were not read."
            )
        if len(found.scan) < 20:
            notes.append(
                f"There are only {len(found.scan)} samples: intervals are wide, and the shape of the data is unknown."
            )
        for k, name in enumerate(self.panel.names):
            r2 = found.along[k].r_squared
            if r2 is not None and r2 < 0.1:
                notes.append(
                    f"Prompts hardly predict the model's own answers along {name} (R^2 {r2:.2f}): scores of single "
                    "samples are rough. --baseline exact gives exact ones."
                )
            if self.kept[k] < 0.5:
                notes.append(
                    f"The specific direction of {name} keeps {100 * self.kept[k]:.0f} % of the vector: most of it was "
                    "shared with other traits, length or refusals."
                )
        return notes

    def shown(
        self,
        data: Dataset,
        found: Compared,
        clean: Compared,
        limits: Sequence[float],
        flags: NDArray[np.bool_],
        standing: Sequence[Standing],
        farthest: Standing,
    ) -> dict[str, Any]:
        """What the report shows of single samples."""
        table, names, turns = found.scan.table, self.panel.names, self.settings.turns
        picked = [
            (k, int(one.rows[at]), place)
            for k, one in enumerate(standing)
            for at, place in select(one.values, limits[k])
        ]
        rows = [int(farthest.rows[at]) for at in listed(farthest.values)]
        block = table.take(sorted({*rows, *(row for _, row, _ in picked)}))
        at = {int(row): i for i, row in enumerate(block.rows)}
        difference = [mine.of(block).difference for mine in found.along]
        z = [_z(mine, theirs) for mine, theirs in zip(difference, clean.along, strict=True)]
        samples = find(data, block.indices.tolist())

        def sample(row: int) -> Sample:
            return samples[int(block.indices[at[row]])]

        def where(row: int) -> str:
            line = f"line {sample(row).line}"
            return line if len(data.sources) == 1 else f"{Path(sample(row).source).name}, {line}"

        pieces = tokens(
            self.engine, [sample(row) for _, row, _ in picked], self.panel, [k for k, _, _ in picked], turns
        )
        chosen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for (k, row, place), said in zip(picked, pieces, strict=True):
            chosen[names[k]].append(
                {
                    "place": place,
                    "where": where(row),
                    "difference": float(difference[k][at[row]]),
                    "z": float(z[k][at[row]]),
                    "flagged": bool(flags[row, k]),
                    "asked": texts(sample(row), turns)["asked"],
                    "tokens": said,
                }
            )
        return {
            "histograms": {name: histogram(found.along[k].some, clean.along[k].some) for k, name in enumerate(names)},
            "samples": chosen,
            "rows": [
                {
                    "where": where(row),
                    **texts(sample(row), turns),
                    "flagged": bool(flags[row].any()),
                    "z": {name: float(z[k][at[row]]) for k, name in enumerate(names)},
                }
                for row in rows
            ],
        }

    def _scanner(self, data: Dataset, folder: Path, name: str) -> Scanner:
        s = self.settings
        return Scanner(self.engine, data, self.panel, folder, turns=s.turns, seed=s.seed, name=name)

    def _compared(self, scan: Scan) -> Compared:
        return Compared(scan, [Differences(scan, self.settings.baseline, k) for k in range(len(self.panel.names))])


def run_screening(
    engine: Engine,
    data: Dataset,
    vectors: Sequence[PersonaVector],
    out: Path | str,
    settings: Settings,
    *,
    others: Sequence[PersonaVector] = (),
    clean: Dataset | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    beside: Sequence[Dataset] = (),
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Screen a data set into a run folder.

    Args:
        out: Gets scores.parquet, kept.jsonl, flagged.jsonl, rejected.jsonl, summary.json, report.html. A run that was
            cut off goes on where it stopped; a finished one is read back.
        clean: The clean reference; None: the bundled one.
        scorers: The judge of each trait, by its name; None: no judge.
        beside: Further reference sets: where among them do the data stand?
        record: Provenance for the summary.

    Returns:
        The content of summary.json. "seconds" and "generated" are of the attempt that finished; "resumed": whether
        another one was cut off before.

    Raises:
        UserError: See `Scanner.measure`, `Panel.of`, `conformal`, `remove_span`.
    """
    job = Screen(engine, vectors, others, settings, clean, scorers, beside)
    for one in (data, job.clean, *beside):
        one.check_apart(out)
    arguments = {
        **asdict(settings),
        **engine.identity,
        "data": data.digest,
        "clean": job.clean.digest,
        "beside": [one.digest for one in beside],
        "vectors": [[v.trait, v.layer, _digest(v.unit(v.layer))] for v in vectors],
    }
    if settings.specific == "span":  # elsewhere the others decide no score, and may have come since the run began
        arguments["others"] = [[v.trait, v.layer, _digest(v.unit(v.layer))] for v in job.others]
    with RunFolder(out, arguments) as folder:
        if (folder / "summary.json").exists():
            shutil.rmtree(folder / "parts", ignore_errors=True)  # where a run was killed at the very end
            summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            return summary
        start = time.monotonic()
        parts = folder / "parts"
        resumed = parts.exists()
        check_some(data)
        job.specific()
        reference = job.reference(job.clean)
        among = {_name(one): job.reference(one) for one in beside}
        found, reasons = job.data(data, parts, reference)
        summary = job.write(folder, data, found, reference, among, reasons, record or {})
        summary |= {"seconds": round(time.monotonic() - start, 1), "resumed": resumed}
        write_json(folder / "summary.json", summary)
        shutil.rmtree(parts)
    return summary


def _treated(directions: Tensor, make: Callable[[Tensor, str], Specific], trait: str) -> Tensor:
    """(m, d) of (m, d): every direction as the trait's own was made."""
    return torch.stack([make(direction, trait).direction for direction in directions])


def _z(difference: Floats, clean: Differences) -> Floats:
    """(n,) in deviations of clean samples."""
    z: Floats = (difference - clean.some.mean()) / clean.some.std(ddof=1)
    return z


def _selected(difference: Floats, threshold: float) -> NDArray[np.intp]:
    return np.array([row for row, _ in select(difference, threshold)], dtype=np.intp)


def _name(data: Dataset) -> str:
    return ", ".join(data.sources)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
