"""Two screenings of the same data side by side: which samples moved, and how alike the rankings are."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from personavec.errors import UserError
from personavec.screening.result import MovedSample, ScreeningComparison, ScreeningRun, TraitComparison
from personavec.stats.bootstrap import spearman
from personavec.stats.numbers import Floats

MOVED = 20  # samples named
DIFFERENCE = "_difference"  # ends the names of the columns that are compared


@dataclass(frozen=True)
class _Scored:
    """A finished screening: its arguments and scores, and the row of each sample by id and occurrence."""

    arguments: dict[str, JsonValue]
    table: pa.Table
    rows: dict[tuple[str, int], int]

    @classmethod
    def read(cls, folder: Path) -> "_Scored":
        ScreeningRun.read(folder)  # refused unless it is finished
        begun = folder / "arguments.json"
        table = pq.read_table(folder / "scores.parquet")
        seen: Counter[str] = Counter()
        rows = {}
        for row, identity in enumerate(table["id"].to_pylist()):
            rows[identity, seen[identity]] = row
            seen[identity] += 1
        return cls(json.loads(begun.read_text(encoding="utf-8")) if begun.is_file() else {}, table, rows)

    @property
    def traits(self) -> list[str]:
        return [name.removesuffix(DIFFERENCE) for name in self.table.column_names if name.endswith(DIFFERENCE)]

    def shared(self, keys: list[tuple[str, int]]) -> pa.Table:
        """The rows of these samples, in this order."""
        return self.table.take([self.rows[key] for key in keys])


def compare_screenings(first: Path | str, second: Path | str) -> ScreeningComparison:
    """Compare two runs of `screen`, sample by sample; samples are matched by id, duplicates in their order.

    Raises:
        UserError: A folder holds no finished screening, or they share no sample or no trait.
    """
    one, two = (_Scored.read(Path(folder)) for folder in (first, second))
    keys = [key for key in one.rows if key in two.rows]
    if not keys:
        raise UserError("The two runs share no sample.", "Compare runs on the same data.")
    traits = [trait for trait in one.traits if trait in two.traits]
    if not traits:
        raise UserError("The two runs share no trait.", "Compare runs with the same vectors.")
    a, b = one.shared(keys), two.shared(keys)
    return ScreeningComparison(
        differ={
            name: (value, other)
            for name, value in one.arguments.items()
            if (other := two.arguments.get(name, value)) != value
        },
        samples=len(keys),
        only_first=len(one.rows) - len(keys),
        only_second=len(two.rows) - len(keys),
        traits={trait: _trait(trait, a, b) for trait in traits},
    )


def _trait(trait: str, first: pa.Table, second: pa.Table) -> TraitComparison:
    """Of tables with the same samples in the same order."""
    a, b = (table[trait + DIFFERENCE].to_numpy() for table in (first, second))
    flags, others = (table[f"{trait}_flagged"].to_numpy(zero_copy_only=False) for table in (first, second))
    distance = np.abs(_ranks(a) - _ranks(b))
    return TraitComparison(
        spearman=spearman(a, b) if len(a) > 1 else None,
        flagged_both=int((flags & others).sum()),
        flagged_first=int(flags.sum()),
        flagged_second=int(others.sum()),
        agreement=float((flags == others).mean()),
        moved=[
            MovedSample(
                id=first["id"][at].as_py(),
                source=first["source"][at].as_py(),
                line=first["line"][at].as_py(),
                first=float(a[at]),
                second=float(b[at]),
            )
            for at in np.argsort(-distance, kind="stable")[:MOVED].tolist()
            if distance[at]
        ],
    )


def _ranks(values: Floats) -> NDArray[np.intp]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
