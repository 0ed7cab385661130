"""Two screenings of the same data side by side: which samples moved, and how alike the rankings are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from personavec.errors import UserError
from personavec.stats.bootstrap import spearman

MOVED = 20  # samples named


def compare(first: Path | str, second: Path | str) -> dict[str, Any]:
    """Compare two runs of `screen`, sample by sample; samples are matched by id, duplicates in their order.

    Returns:
        {"differ": {argument: [of the first, of the second]} where they are not the same, "samples": in both,
        "only_first", "only_second": counts, "traits": {name: {"spearman": rank correlation of the
        differences, "flagged_both", "flagged_first", "flagged_second": counts, "agreement": share of samples with the
        same flag, "moved": [{"id", "source", "line", "first", "second"}], those whose rank moved most}}}

    Raises:
        UserError: A folder holds no finished screening, or they share no sample or no trait.
    """
    tables, settings = [], []
    for folder in (Path(first), Path(second)):
        path = folder / "scores.parquet"
        if not path.is_file():
            raise UserError(f"{folder} holds no finished screening.", "Give two folders that --out of screen named.")
        tables.append(pq.read_table(path))
        begun = folder / "arguments.json"
        settings.append(json.loads(begun.read_text(encoding="utf-8")) if begun.is_file() else {})
    keys: list[dict[tuple[str, int], int]] = []
    for table in tables:
        seen: dict[str, int] = {}
        rows = {}
        for row, name in enumerate(table["id"].to_pylist()):
            rows[name, seen.setdefault(name, 0)] = row
            seen[name] += 1
        keys.append(rows)
    shared = [key for key in keys[0] if key in keys[1]]
    if not shared:
        raise UserError("The two runs share no sample.", "Compare runs on the same data.")
    at = [np.array([rows[key] for key in shared]) for rows in keys]
    suffix = "_difference"
    names = [c.removesuffix(suffix) for c in tables[0].column_names if c.endswith(suffix)]
    names = [name for name in names if name + suffix in tables[1].column_names]
    if not names:
        raise UserError("The two runs share no trait.", "Compare runs with the same vectors.")
    lines, sources = (tables[0].take(at[0])[name].to_pylist() for name in ("line", "source"))
    traits = {}
    for name in names:
        a, b = (t[name + suffix].to_numpy()[rows] for t, rows in zip(tables, at, strict=True))
        ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (a, b)]
        flags = [t[f"{name}_flagged"].to_numpy(zero_copy_only=False)[r] for t, r in zip(tables, at, strict=True)]
        farthest = np.argsort(-np.abs(ranks[0] - ranks[1]), kind="stable")[:MOVED]
        traits[name] = {
            "spearman": round(spearman(a, b), 4) if len(a) > 1 else None,
            "flagged_both": int((flags[0] & flags[1]).sum()),
            "flagged_first": int(flags[0].sum()),
            "flagged_second": int(flags[1].sum()),
            "agreement": round(float((flags[0] == flags[1]).mean()), 4),
            "moved": [
                {
                    "id": shared[i][0], "source": sources[i], "line": lines[i],
                    "first": round(float(a[i]), 4), "second": round(float(b[i]), 4),
                }
                for i in farthest
                if ranks[0][i] != ranks[1][i]
            ],
        }  # fmt: skip
    return {
        "differ": {key: [a, b] for key, a in settings[0].items() if (b := settings[1].get(key, a)) != a},
        "samples": len(shared),
        "only_first": len(keys[0]) - len(shared),
        "only_second": len(keys[1]) - len(shared),
        "traits": traits,
    }
