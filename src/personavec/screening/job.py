"""Screening from end to end: reference, data, differences, thresholds, findings, files."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from personavec.data import Dataset, Joined, open_data
from personavec.engine import Engine
from personavec.errors import UserError
from personavec.files import RunFolder, check_utf8
from personavec.judges.base import Judge
from personavec.progress import progress
from personavec.projection import CLEAN
from personavec.projection.bank import bank_digest
from personavec.projection.discriminant import CONSTANTS
from personavec.projection.domains import load_domains
from personavec.provenance import provenance
from personavec.results import SUMMARY
from personavec.screening.axis import Axis, domain_axes, panel_of, plain_axes, specific_axes
from personavec.screening.differences import ScoredScan
from personavec.screening.examples import sample_views
from personavec.screening.findings import all_findings, directions_for
from personavec.screening.judge import judge_scores
from personavec.screening.marks import Marks, columns, mark
from personavec.screening.outputs import Split, split, write_scores
from personavec.screening.page import write_screen_report
from personavec.screening.reader import DataScan, Reader
from personavec.screening.result import CleanReference, ScreeningRun
from personavec.screening.scan import check_some
from personavec.screening.settings import ScreenSettings
from personavec.screening.table import Table
from personavec.screening.track import tracks
from personavec.screening.verdict import cautions, verdict
from personavec.vector import PersonaVector, reading_sides, two_directions

OLD_SUMMARY = "summary.json"  # of versions before run.json


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a screening is given.

    Attributes:
        engine: Runs the model.
        data: The data set.
        clean: The clean reference.
        bundled: Whether that is the one that comes with personavec.
        beside: Further reference sets, among which the data are placed.
        scorers: The judge of each trait, by its name; empty: no judge.
        settings: See `ScreenSettings`.
        notes: Sentences on the vectors.
    """

    engine: Engine
    data: Dataset
    clean: Dataset
    bundled: bool
    beside: Sequence[Dataset]
    scorers: Mapping[str, Judge]
    settings: ScreenSettings
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Scans:
    """What was read.

    Attributes:
        data: The data set.
        clean: The clean reference.
        beside: Further reference sets, by name.
    """

    data: DataScan
    clean: ScoredScan
    beside: Mapping[str, ScoredScan]

    @property
    def table(self) -> Table:
        """Of the data's samples."""
        return self.data.scored.scan.survey.table


def run_screening(
    engine: Engine,
    data: Dataset,
    vectors: Sequence[PersonaVector],
    out: Path | str,
    settings: ScreenSettings,
    *,
    others: Sequence[PersonaVector] = (),
    clean: Dataset | None = None,
    scorers: Mapping[str, Judge] | None = None,
    beside: Sequence[Dataset] = (),
) -> ScreeningRun:
    """Screen a data set into a run folder.

    Args:
        out: Gets scores.parquet, kept.jsonl, flagged.jsonl, rejected.jsonl, run.json, report.html. A run that was cut
            off goes on where it stopped; a finished one is read back.
        others: Further vectors of the model, for comparison.
        clean: The clean reference; None: the bundled one.
        scorers: The judge of each trait, by its name; None: no judge.
        beside: Further reference sets: where among them do the data stand?

    Raises:
        UserError: See `Scanner.measure`, `Panel.of`, `threshold`, `remove_span`.
    """
    check_utf8(out)
    notes = two_directions(vectors)
    vectors, others = reading_sides(vectors), reading_sides(others)
    axes = plain_axes(vectors, [v for v in others if v.trait not in {vector.trait for vector in vectors}])
    inputs = Inputs(engine, data, clean or open_data(CLEAN), clean is None, beside, scorers or {}, settings, notes)
    for source in (data, inputs.clean, *beside):
        source.check_apart(out)
    with RunFolder(out, _arguments(inputs, vectors, others)) as folder:
        parts = folder / "parts"
        if (folder / SUMMARY).exists():
            shutil.rmtree(parts, ignore_errors=True)  # where a run was killed at the very end
            return ScreeningRun.read(folder.path)
        if (folder / OLD_SUMMARY).exists():
            raise UserError(
                f"{folder.path} holds a screening of another version of personavec.",
                "Repeat it in another folder, or use the version that wrote it.",
            )
        start, resumed = time.monotonic(), parts.exists()
        check_some(data)
        run = _screen(inputs, axes, folder, resumed=resumed)
        run = run.with_(seconds=round(time.monotonic() - start, 1))
        run.write(folder.path)
        shutil.rmtree(parts)
    return run


def _arguments(
    inputs: Inputs, vectors: Sequence[PersonaVector], others: Sequence[PersonaVector]
) -> dict[str, JsonValue]:
    """What decides the result."""
    arguments: dict[str, JsonValue] = {
        **asdict(inputs.settings),
        **inputs.engine.identity,
        "schema": ScreeningRun.SCHEMA,  # what was begun by another version has other parts
        "data": inputs.data.digest,
        "clean": inputs.clean.digest,
        "beside": [each.digest for each in inputs.beside],
        "vectors": [vector.identity for vector in vectors],
    }
    if inputs.settings.specific == "domains":
        arguments["bank"] = bank_digest()
        arguments["constants"] = list(CONSTANTS)
    if inputs.settings.specific in (
        "span",
        "domains",
    ):  # elsewhere the others decide no score, and may have come since it began
        screened = {vector.trait for vector in vectors}
        arguments["others"] = [vector.identity for vector in others if vector.trait not in screened]
    return arguments


def _screen(inputs: Inputs, axes: Sequence[Axis], folder: RunFolder, *, resumed: bool) -> ScreeningRun:
    """All files but run.json, whose content comes back, but for the time that it took."""
    engine, data, clean, settings = inputs.engine, inputs.data, inputs.clean, inputs.settings
    if settings.specific == "whiten":  # what a direction was made from sets no threshold along it
        axes = specific_axes(engine, axes, clean.every(2), "whiten")
        clean = clean.every(2, 1)
    elif settings.specific == "span":
        axes = specific_axes(engine, axes, clean, "span")
    elif settings.specific == "domains":
        references, count = _references(inputs), directions_for(len(axes))
        given = frozenset[str]() if inputs.bundled else frozenset(references)
        axes = domain_axes(engine, axes, references, given, count, settings.seed)
        clean = _second(references)
    reader = Reader(engine, settings, panel_of(axes))
    scans = _scans(inputs, reader, clean, folder)
    along = tracks(axes, scans.data, scans.clean, settings)
    marks = mark(along, scans.table)
    if inputs.scorers:
        marks = _with_judge(inputs, scans.table, marks)
    write_scores(folder / "scores.parquet", columns(along, scans.table, marks))
    parted = _split(data, scans, marks, folder)
    data_scan, clean_scan = scans.data.scored.scan, scans.clean.scan
    traits = all_findings(along, data_scan, clean_scan, scans.beside, marks, settings.seed)
    reference = CleanReference(
        name=_name(clean), bundled=inputs.bundled, samples=len(clean_scan), drawn=len(clean_scan.drawn)
    )
    truncated, prompts = data_scan.survey.truncated, len(np.unique(data_scan.survey.asked))
    run = ScreeningRun.of(
        provenance(engine.model, asdict(settings)),
        engine=engine.version,
        data=_name(data),
        format=data.format,
        records=parted.records,
        kept=parted.kept,
        flagged=parted.flagged,
        rejected=parted.rejected,
        baseline=settings.baseline,
        truncated=truncated,
        generated=reader.own.made,
        drawn=len(data_scan.drawn),
        prompts=prompts,
        clean=reference,
        traits=traits,
        verdict=verdict(settings, traits, reference),
        warnings=[*inputs.notes, *cautions(engine, data, along, truncated, prompts, parted)],
        seconds=0.0,
        resumed=resumed,
    )
    views = sample_views(engine, data, scans.table, along, marks, settings.turns)
    write_screen_report(run, views, folder / "report.html")
    return run


def _scans(inputs: Inputs, reader: Reader, clean: Dataset, folder: RunFolder) -> Scans:
    """Clean reference, further ones, and the data set.

    Args:
        clean: What of the clean reference sets thresholds.
    """
    parts = None
    if inputs.settings.threshold is None:
        parts = 2 if inputs.settings.specific in ("whiten", "domains") else 1
    reference = reader.reference(clean, "the clean reference", parts)
    halved = inputs.settings.specific == "domains"  # what made directions is placed nowhere along them
    beside = {
        _name(each): reader.reference(each.every(2, 1) if halved else each, _name(each)) for each in inputs.beside
    }
    return Scans(reader.data(inputs.data, folder / "parts", reference), reference, beside)


def _references(inputs: Inputs) -> dict[str, Dataset]:
    """The clean domains of the user's, or the bundled clean chats, by name."""
    given = [inputs.clean, *inputs.beside]
    short = [_name(each).rpartition("/")[2] for each in given]
    names = short if len(set(short)) == len(short) else map(_name, given)
    return dict(zip(names, given, strict=True))


def _second(references: Mapping[str, Dataset]) -> Dataset:
    """The half of all clean domains that makes no direction."""
    domains = {**load_domains(), **references}
    return Joined([data.every(2, 1) for data in domains.values()], f"half of {len(domains)} clean domains")


def _with_judge(inputs: Inputs, table: Table, marks: Marks) -> Marks:
    """The judge's scores of the flagged samples, or of all."""
    everyone, settings = np.arange(len(table)), inputs.settings
    rows = {trait: everyone if settings.judge_all else np.flatnonzero(flags) for trait, flags in marks.flags.items()}
    opinions = judge_scores(inputs.engine, inputs.data, table, rows, inputs.scorers, settings.turns)
    return marks.with_opinions(opinions, flagging=settings.judge_all)


def _split(data: Dataset, scans: Scans, marks: Marks, folder: RunFolder) -> Split:
    indices = (index for block in scans.table.blocks() for index in block.indices.tolist())
    with progress("Writing", total=data.total, unit="records") as job:
        return split(folder.path, data, indices, marks.flagged, scans.data.reasons, job.advance)


def _name(data: Dataset) -> str:
    return ", ".join(data.sources)
