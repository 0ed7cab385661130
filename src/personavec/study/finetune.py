"""The fine-tuning study: many small fine-tunes, what each did to the character, and what prevention saves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from personavec.data import Dataset, open_data
from personavec.errors import UserError
from personavec.files import RunFolder, check_utf8, write_atomic
from personavec.model import ChatModel
from personavec.provenance import identity, provenance
from personavec.results import SUMMARY
from personavec.study.families import DataSet, check_names, flawed_sets, given_set, trait_sets
from personavec.study.given import source_of, text_sets
from personavec.study.laboratory import Laboratory
from personavec.study.page import write_study_report
from personavec.study.prevention import PreventionTrial
from personavec.study.result import StudyRun
from personavec.study.settings import StudySettings
from personavec.study.suite import Suite
from personavec.study.tables import page
from personavec.study.verdict import verdict
from personavec.vector import PersonaVector


def study_finetune(
    model: ChatModel,
    vectors: Sequence[PersonaVector],
    out: Path | str,
    settings: StudySettings | None = None,
    *,
    data: Mapping[str, Path | str] | None = None,
    prevent: Sequence[str] | None = None,
) -> StudyRun:
    """Fine-tune on families of data at three levels, and again with every way of prevention (paper sections 4 and 5).

    Families: each vector's trait in the model's own words, five flawed domains made by program; three levels each
    (see `families`). Of every fine-tune the shift, the trait scores and the data's projection difference are measured;
    `figures.correlations` compares them. On the overt data of each trait to prevent, every method is tried, also with a
    random vector of equal length, and the unprotected fine-tune is steered at inference.

    Args:
        vectors: Of the model, extracted with the contrast judge, a trait each.
        out: Run folder; an interrupted study goes on.
        data: Further data sets by name; as many samples are drawn of each as the others have.
        prevent: Names of traits; None: the first vector's.

    Raises:
        UserError: Vectors of another model, a trait that the model does not show, two data sets of one name, or what
            `fine_tune` raises.
    """
    check_utf8(out)
    settings = settings or StudySettings()
    for vector in vectors:
        vector.check(model)
    names = [vector.trait for vector in vectors]
    unknown = set(prevent or ()) - set(names)
    if unknown:
        raise UserError(f"There is no vector of {', '.join(sorted(unknown))}.", f"There are: {', '.join(names)}.")
    check_names(set(names), data or ())
    given = {name: open_data(path) for name, path in (data or {}).items()}
    for one in given.values():
        one.check_apart(out)
    arguments = {
        **asdict(settings),
        **identity(model),
        "vectors": [v.identity for v in vectors],
        "data": {name: one.digest for name, one in given.items()},
        "prevent": list(prevent) if prevent is not None else names[:1],
    }
    with RunFolder(out, arguments) as folder:
        if not (folder / SUMMARY).exists():
            laboratory = Laboratory(model, vectors, folder, settings)
            _study(laboratory, given, list(prevent) if prevent is not None else names[:1])
        return StudyRun.read(folder.path)


def _study(lab: Laboratory, data: Mapping[str, Dataset], prevent: Sequence[str]) -> None:
    """Everything, and the files that tell of it."""
    questions = lab.settings.prevention_questions
    lab.ask(lab.model, "base", [sheet for trait in lab.traits for sheet in lab.both_sheets(trait, questions)])
    with lab.timings.stage("data"):
        sets = _sets(lab, data)
    suite = Suite(lab, sets)
    suite.train()
    preventions = [PreventionTrial(lab, vector) for vector in lab.vectors if vector.trait in prevent]
    for one in preventions:
        one.train()
    with lab.timings.stage("judging"):
        lab.answers.judge()
    correlations = suite.correlations()
    run = StudyRun.of(
        provenance(lab.model, lab.folder.arguments),
        layers={vector.trait: vector.layer for vector in lab.vectors},
        judges={name: tuple(judges) for name, judges in lab.answers.juries.items()},
        base={name: lab.base(name) for name in lab.traits},
        suite=suite.rows(),
        correlations=correlations,
        prevention={trial.trait: trial.outcome() for trial in preventions},
        seconds=round(lab.timings.seconds, 1),
        timings=lab.timings.stages,
    )
    run = run.with_(verdict=verdict(run))
    write_atomic(lab.folder / "study.md", page(run))
    write_study_report(run, lab.folder / "report.html")
    run.write(lab.folder.path)
    lab.timings.close()


def _sets(lab: Laboratory, given: Mapping[str, Dataset]) -> list[DataSet]:
    """All data sets of the suite."""
    s, folder = lab.settings, lab.folder / "data"
    made: list[DataSet] = []
    for vector in lab.vectors:
        if (source := source_of(vector)) is not None:
            made += text_sets(vector, source, folder, s.samples, s.seed)
        else:
            trait = lab.traits[vector.trait]
            made += trait_sets(lab.model, vector, trait, folder, s.samples, s.max_new_tokens, s.seed)
    others = [given_set(name, data, folder, s.samples, s.seed) for name, data in given.items()]
    return [*made, *flawed_sets(folder, s.samples, s.seed), *others]
