"""Screening of data sets that are already in memory as `datasets.Dataset`, and a function for its `map`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from personavec.data import Rejected, Sample, from_dataset
from personavec.data.formats import Format
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.projection import Turns
from personavec.projection.measure import measure, tokenise
from personavec.projection.panel import Panel
from personavec.vector import PersonaVector, reading_sides

if TYPE_CHECKING:
    import datasets

HIDDEN = ("id", "source", "line")  # columns of scores.parquet that say which row it is


def screen(
    model: ChatModel,
    dataset: "datasets.Dataset",
    vectors: Sequence[PersonaVector],
    out: Path | str | None = None,
    **given: Any,
) -> "datasets.Dataset":
    """Screen a data set; go on with `dataset.filter`.

    Args:
        dataset: Of chat samples in any form that `personavec.data` recognises.
        vectors: Traits to screen for.
        out: Run folder, with the report; None: nothing is kept.
        given: Of `screen_files`: settings, others, clean, other_weights.

    Returns:
        The data set with the columns of scores.parquet: for every trait NAME_projection, NAME_prompt, NAME_baseline,
        NAME_baseline_error, NAME_own, NAME_difference, NAME_z, NAME_flagged, and flagged. A row that is no sample has
        None in all of them.

    Raises:
        UserError: The data set has a column of such a name already, or what `screen_files` raises.

    Example:
        >>> scored = screen(model, dataset, [vector])
        >>> scored.filter(lambda row: row["flagged"] is False)
    """
    from personavec.screening import screen_files

    own = {"flagged", *(f"{vector.trait}_flagged" for vector in vectors)}
    taken = [name for name in dataset.column_names if name in own]
    if taken:  # before all the work
        raise UserError(
            f"The data set has a column {taken[0]!r} already, from an earlier screening perhaps.",
            "Rename it: dataset.rename_columns({...}), or give the data set without these columns.",
        )
    data = from_dataset(dataset)
    with TemporaryDirectory() as temporary:
        folder = Path(out) if out is not None else Path(temporary)
        screen_files(model, data, vectors, folder, **given)
        table = pq.read_table(folder / "scores.parquet")
    rows = np.full(len(dataset), -1)
    rows[table["index"].to_numpy()] = np.arange(len(table))
    for name in table.column_names:
        if name in (*HIDDEN, "index"):
            continue
        values = table[name].to_pylist()
        dataset = dataset.add_column(name, [None if row < 0 else values[row] for row in rows])
    return dataset


def projector(
    model: ChatModel, vectors: Sequence[PersonaVector], *, turns: Turns = "all"
) -> Callable[[Mapping[str, list[Any]]], dict[str, list[float | None]]]:
    """A function for `dataset.map(function, batched=True)`, or for any pipeline that hands on batches of columns.

    It adds, for every trait, NAME_projection (of the answer) and NAME_prompt (of the last prompt token); their
    difference is the cheapest estimate of the projection difference. None where a row is no sample. The format is
    recognised in the first batch.

    Raises:
        UserError: A vector of another model; later, a first batch whose format is not recognised.
    """
    for vector in vectors:
        vector.check(model)
    engine, panel = TransformersEngine(model), Panel.of(reading_sides(vectors))
    form: Format | None = None

    def project(batch: Mapping[str, list[Any]]) -> dict[str, list[float | None]]:
        nonlocal form
        from datasets import Dataset

        good: list[Sample] = []
        tokens = []
        data = from_dataset(Dataset.from_dict(dict(batch)), format=form)
        form, records = data.form, list(data)
        for record in records:
            if isinstance(record, Rejected):
                continue
            try:
                tokens.append(tokenise(engine, record, turns))
                good.append(record)
            except UserError:
                continue
        result: dict[str, list[float | None]] = {
            f"{name}_{what}": [None] * len(records) for name in panel.names for what in ("projection", "prompt")
        }
        if good:
            measured = measure(engine, good, tokens, panel, turns)
            for k, name in enumerate(panel.names):
                for row, sample in enumerate(good):
                    result[f"{name}_projection"][sample.index] = float(measured.answers[row, k])
                    result[f"{name}_prompt"][sample.index] = float(measured.prompts[row, k])
        return result

    return project
