"""Screening chat data that lie in files."""

from collections.abc import Sequence
from pathlib import Path

from personavec.data import Dataset, open_data
from personavec.engine import Engine
from personavec.engine.transformers import TransformersEngine
from personavec.judges.api.terms import ApiTerms
from personavec.model import ChatModel
from personavec.screening.job import run_screening
from personavec.screening.judge import scorers
from personavec.screening.result import ScreeningRun
from personavec.screening.settings import ScreenSettings
from personavec.vector import PersonaVector


def screen_files(
    model: ChatModel | Engine,
    data: Dataset | Path | str | Sequence[Path | str],
    vectors: Sequence[PersonaVector],
    out: Path | str,
    settings: ScreenSettings | None = None,
    *,
    others: Sequence[PersonaVector] = (),
    clean: Dataset | Path | str | None = None,
    beside: Sequence[Dataset | Path | str] = (),
    other_weights: bool = False,
    terms: ApiTerms | None = None,
) -> ScreeningRun:
    """Screen chat data in files (paper section 6): how far they lie along each trait, which samples do it.

    Args:
        model: The model, or another engine that runs it.
        data: Files or folders, see `personavec.data.open_data`.
        vectors: Traits to screen for, each at its layer.
        out: Run folder, see `run_screening`.
        settings: None: what suits the model's device.
        others: Further vectors of the model: how far do the data shift along those?
        clean: Data that are known to be harmless; they set thresholds and scale. None: the bundled set.
        beside: Further reference sets: where among them do the data stand?
        other_weights: See `PersonaVector.check`.
        terms: Price and pace of a judge behind an endpoint.

    Raises:
        UserError: A vector of another model, data that cannot be read, settings that do not fit.
    """
    engine = TransformersEngine(model) if isinstance(model, ChatModel) else model
    for vector in [*vectors, *others]:
        vector.check(engine.model, other_weights=other_weights)
    settings = settings or ScreenSettings.suited(engine.model.device.type)
    return run_screening(
        engine, _opened(data), vectors, out, settings,
        others=others, clean=None if clean is None else _opened(clean), beside=[_opened(each) for each in beside],
        scorers=None if settings.judge is None else scorers(engine.model, settings.judge, vectors, terms),
    )  # fmt: skip


def _opened(data: Dataset | Path | str | Sequence[Path | str]) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return open_data(data)
