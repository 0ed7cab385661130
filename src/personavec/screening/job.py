"""Screening from end to end: reference, data, differences, thresholds, findings, files."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from personavec.data import Dataset, Sample, open_data
from personavec.engine import Engine
from personavec.files import RunFolder, write_json
from personavec.judges.scorer import Scorer
from personavec.model.default import cache_folder
from personavec.progress import progress
from personavec.report.screening import histogram, write_screen_report
from personavec.screening.answers import OwnAnswers
from personavec.screening.declined import refusing
from personavec.screening.differences import Differences, differences
from personavec.screening.estimate import planned_sizes, settled
from personavec.screening.findings import Compared, placed, trait_findings
from personavec.screening.judged import FROM, judged
from personavec.screening.measure import readings, tokenise
from personavec.screening.outputs import split, write_scores
from personavec.screening.panel import Panel
from personavec.screening.scan import Scan, Scanner
from personavec.screening.settings import Settings
from personavec.screening.shown import find, listed, select, texts, tokens
from personavec.screening.specific import length_direction, refusal_direction, remove_span, whiten
from personavec.screening.threshold import check_size, threshold
from personavec.screening.verdict import verdict
from personavec.statistics import Floats
from personavec.vector import PersonaVector

CLEAN = Path(__file__).with_name("clean.jsonl")
CLEAN_GENERATED = 96  # own answers to the clean reference's prompts in a hybrid screening
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

    def specific(self) -> None:
        """Replace the panel's directions by specific ones, as the settings say."""
        if self.settings.specific == "no":
            return
        samples = [s for s in self.clean if isinstance(s, Sample)][:FOR_DIRECTIONS]
        tokens = [tokenise(self.engine, sample, "last").conversations for sample in samples]
        depths = self.panel.depths
        answering = readings(self.engine, tokens, depths)[:, 1]
        declining = refusing(self.engine, samples, depths)
        lengths = torch.tensor([sum(e - s for c in mine for s, e in c.spans[1::2]) for mine in tokens]).log1p()
        units = []
        for k, vector in enumerate(self.vectors):
            at = depths.index(vector.layer)
            if self.settings.specific == "whiten":
                made = whiten(self.panel.units[k], answering[:, at])
            else:
                shared = [v.unit(vector.layer) for v in [*self.vectors, *self.others] if v.trait != vector.trait]
                shared.append(length_direction(answering[:, at], lengths))
                shared.append(refusal_direction(declining[:, at], answering[:, at]))
                made = remove_span(self.panel.units[k], torch.stack(shared))
            units.append(made.direction)
            self.kept[k] = made.kept
        self.panel = Panel(self.panel.names, self.panel.layers, torch.stack(units))

    def reference(self, data: Dataset) -> Compared:
        """A reference set, read once per model, panel and settings, and kept in the cache folder."""
        s = self.settings
        decides = [
            self.engine.identity, data.digest, s.baseline, s.turns, s.max_new_tokens, s.seed,
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
                check_size(len(scanner.lines), s.false_alarm_rate)  # before the model answers anything
            count = {"exact": len(scanner.lines), "prompt": len(scanner.lines), "hybrid": CLEAN_GENERATED}[s.baseline]
            scan = scanner.draw(count, None if s.baseline == "prompt" else self.own)
        return self._compared(scan)

    def data(self, data: Dataset, folder: Path, clean: Compared) -> tuple[Compared, Mapping[int, str]]:
        """The data set, with as many own answers as the baseline asks for; and why lines were rejected."""
        s = self.settings
        scanner = self._scanner(data, folder, "the data")
        scanner.measure()
        if s.baseline == "prompt":
            return self._compared(scanner.draw(256, None)), scanner.reasons()
        if s.baseline == "exact":
            return self._compared(scanner.draw(len(scanner.lines), self.own)), scanner.reasons()
        looks = planned_sizes(len(scanner.lines))
        precision = [s.precision * float(mine.difference.std(ddof=1)) for mine in clean.along]
        levels = [mine.total.mean for mine in clean.along]
        for count in looks:
            found = self._compared(scanner.draw(count, self.own))
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
        s, scan = self.settings, found.scan
        names = self.panel.names
        columns: dict[str, Any] = {"id": scan.ids.column, "index": scan.indices, "line": scan.lines}
        flagged = np.zeros(len(scan), dtype=bool)
        traits: dict[str, dict[str, Any]] = {}
        for k, name in enumerate(names):
            mine, theirs = found.along[k], clean.along[k]
            found_level = None if s.threshold is not None else threshold(theirs.difference, s.false_alarm_rate)
            level = found_level.value if found_level is not None else float(s.threshold or 0.0)
            flags = mine.difference > level
            flagged |= flags
            columns |= {
                f"{name}_projection": scan.measured.answers[:, k],
                f"{name}_prompt": scan.measured.prompts[:, k],
                f"{name}_baseline": mine.baseline,
                f"{name}_baseline_error": mine.error,
                f"{name}_own": mine.own,
                f"{name}_difference": mine.difference,
                f"{name}_z": _z(mine, theirs),
                f"{name}_flagged": flags,
            }
            others = {v.trait: v.unit(self.panel.layers[k]) for v in [*self.vectors, *self.others] if v.trait != name}
            traits[name] = {
                **trait_findings(self.panel, k, found, clean, others, self.intervals[k], s.seed),
                "threshold": round(level, 4),
                "false_alarms": None
                if found_level is None
                else [round(found_level.low, 4), round(found_level.high, 4)],
                "flagged": int(flags.sum()),
                "specific_share": round(self.kept[k], 4),
                "references": placed(k, found, clean, beside, self.intervals[k]),
            }
        if self.scorers:
            everyone = np.arange(len(scan))
            rows = {n: everyone if s.judge_all else np.flatnonzero(columns[f"{n}_flagged"]) for n in names}
            for name, scores in judged(self.engine, data, scan.indices, rows, self.scorers, s.turns).items():
                columns[f"{name}_judge"] = scores
                seen = np.isfinite(scores)
                traits[name]["judge"] = {"scored": int(seen.sum()), "above_50": int((scores[seen] > FROM).sum())}
                if s.judge_all:
                    columns[f"{name}_flagged"] |= seen & (np.nan_to_num(scores) > FROM)
                    traits[name]["flagged"] = int(columns[f"{name}_flagged"].sum())
                    flagged |= columns[f"{name}_flagged"]
        columns["flagged"] = flagged
        write_scores(folder / "scores.parquet", columns)
        with progress("Writing", total=data.total, unit="records") as job:
            counts = split(folder.path, data, scan.indices, flagged, reasons, job.advance)
        summary = {
            "command": "screen",
            **record,
            **counts,
            "format": data.format,
            "traits": traits,
            "baseline": s.baseline,
            "truncated": int(scan.measured.truncated.sum()),
            "generated": self.own.made,
            "drawn": len(scan.drawn),
            "clean": {
                "name": ", ".join(self.clean.sources),
                "bundled": self.bundled,
                "samples": len(clean.scan),
                "drawn": len(clean.scan.drawn),
            },
            "warnings": self.warnings(data, found, clean),
            "data": ", ".join(data.sources),
            "arguments": asdict(s),
        }
        summary["verdict"] = verdict(summary)
        write_screen_report(summary, self.shown(data, found, clean, traits), folder / "report.html")
        return summary

    def warnings(self, data: Dataset, found: Compared, clean: Compared) -> list[str]:
        """What limits the figures."""
        notes = [*self.engine.template.notes, *data.notes]
        cut = int(found.scan.measured.truncated.sum())
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

    def shown(self, data: Dataset, found: Compared, clean: Compared, traits: Mapping[str, Any]) -> dict[str, Any]:
        """What the report shows of single samples."""
        scan, names, turns = found.scan, self.panel.names, self.settings.turns
        z = {name: _z(found.along[k], clean.along[k]) for k, name in enumerate(names)}
        picked = [
            (k, row, place)
            for k, name in enumerate(names)
            for row, place in select(found.along[k].difference, traits[name]["threshold"])
        ]
        rows = listed(z)
        samples = find(data, [int(scan.indices[row]) for row in {*rows, *(row for _, row, _ in picked)}])

        def sample(row: int) -> Sample:
            return samples[int(scan.indices[row])]

        pieces = tokens(
            self.engine, [sample(row) for _, row, _ in picked], self.panel, [k for k, _, _ in picked], turns
        )
        chosen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for (k, row, place), said in zip(picked, pieces, strict=True):
            chosen[names[k]].append(
                {
                    "place": place,
                    "line": int(scan.lines[row]),
                    "difference": float(found.along[k].difference[row]),
                    "z": float(z[names[k]][row]),
                    "asked": texts(sample(row), turns)["asked"],
                    "tokens": said,
                }
            )
        flags = {
            row: any(found.along[k].difference[row] > traits[n]["threshold"] for k, n in enumerate(names))
            for row in rows
        }
        return {
            "histograms": {
                name: histogram(found.along[k].difference, clean.along[k].difference) for k, name in enumerate(names)
            },
            "samples": chosen,
            "rows": [
                {
                    "line": int(scan.lines[row]),
                    **texts(sample(row), turns),
                    "flagged": flags[row],
                    "z": {name: float(z[name][row]) for name in names},
                }
                for row in rows
            ],
        }

    def _scanner(self, data: Dataset, folder: Path, name: str) -> Scanner:
        s = self.settings
        return Scanner(self.engine, data, self.panel, folder, turns=s.turns, seed=s.seed, name=name)

    def _compared(self, scan: Scan) -> Compared:
        return Compared(scan, [differences(scan, self.settings.baseline, k) for k in range(len(self.panel.names))])


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
        The content of summary.json.

    Raises:
        UserError: See `Scanner.measure`, `Panel.of`, `conformal`, `remove_span`.
    """
    job = Screen(engine, vectors, others, settings, clean, scorers, beside)
    arguments = {
        **asdict(settings),
        **engine.identity,
        "data": data.digest,
        "clean": job.clean.digest,
        "beside": [one.digest for one in beside],
        "vectors": [[v.trait, v.layer, _digest(v.unit(v.layer))] for v in vectors],
        "others": [[v.trait, v.layer, _digest(v.unit(v.layer))] for v in job.others],
    }
    with RunFolder(out, arguments) as folder:
        if (folder / "summary.json").exists():
            summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
            return summary
        start = time.monotonic()
        parts = folder / "parts"
        job.specific()
        reference = job.reference(job.clean)
        among = {_name(one): job.reference(one) for one in beside}
        found, reasons = job.data(data, parts, reference)
        summary = job.write(folder, data, found, reference, among, reasons, record or {})
        summary["seconds"] = round(time.monotonic() - start, 1)
        write_json(folder / "summary.json", summary)
        shutil.rmtree(parts)
    return summary


def _z(mine: Differences, clean: Differences) -> Floats:
    """(n,) in deviations of clean samples."""
    z: Floats = (mine.difference - clean.difference.mean()) / clean.difference.std(ddof=1)
    return z


def _name(data: Dataset) -> str:
    return ", ".join(data.sources)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
