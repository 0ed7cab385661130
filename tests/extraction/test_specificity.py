"""What vector files say of themselves may be anything: it is used, or it counts as unknown; nothing crashes."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from personavec.cli import main
from personavec.errors import UserError
from personavec.extraction.specificity import matrix
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.stats.estimate import Estimate
from personavec.vector import PersonaVector, siblings
from tiny import vector

TRAIT = {
    "name": "kind",
    "description": "Helps.",
    "instructions": [{"positive": f"Help {n}.", "negative": f"Do not help {n}."} for n in range(2)],
    "extraction_questions": ["How are you?"],
    "evaluation_questions": ["Who are you?"],
    "rubric": "{question} {answer}",
}
ESTIMATE = {"mean": 12.5, "low": 10.0, "high": 15.0, "n": 20}
INFO: dict[str, Any] = {
    "personavec": "0.1.0",
    "written": "2026-01-01T00:00:00+0000",
    "trait": TRAIT,
    "judge": {
        "name": "contrast",
        "auc": ESTIMATE,
        "threshold": 50.0,
        "state": {
            "calibration": {"middle": 0.5, "slope": 2.0, "pairs": 3},
            "coherence": {"worst_mean": -1.0, "worst_deviation": 0.5, "repetition_mean": 0.1},
        },
    },
    "rollouts": {"generated": 90, "extraction": 20, "kept": 10, "kept_pairs": 5, "reasons": {"coherence below 50": 5}},
    "dose_response": [{"coefficient": -1.0, "score": ESTIMATE, "coherence": ESTIMATE, "share": -0.2}],
    "coherent_range": [-1.0, 1.0],
    "recommended_coefficient": 1.0,
    "steering": {
        "effect": ESTIMATE,
        "effect_on_null_questions": 11.0,
        "coefficient": 1.0,
        "null": {"effects": [1.0, -2.0], "layers": [1, 2], "p": 0.33, "mean": 1.5, "p95": 1.95, "max": 2.0, "n": 2},
    },
    "cross_effects": {"rude": ESTIMATE},
}
ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(-1e308, 1e308), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["mean", "name", "state", "effect", "rude", "score"]), inner, max_size=3),
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested JSON."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed(value[key], tuple(rest), change)
    return copy


PLACES = [path for path in places(INFO) if path]


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["personavec", *map(str, arguments)])
        main()
    return int(ended.value.code or 0)


def test_what_the_files_know(tiny: ChatModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = vector(tiny, info=INFO), vector(tiny, seed=1)
    other = PersonaVector("rude", other.directions, 1, other.model)
    table = matrix([one, other])
    known = Estimate(12.5, 10.0, 15.0, 20)
    assert table.effect == ((known, known), (None, None)) and table.vectors == ("kind", "rude")
    assert judge_of(tiny, one).state().record() == INFO["judge"]["state"]
    one.save(tmp_path / "v")
    assert run("vectors", "show", tmp_path / "v") == 0
    lines = capsys.readouterr().out
    for words in ("kept 10 of 20 rollouts", "judge contrast", "-1   12.5 [10.0, 15.0]", "from -1 to 1; recommended"):
        assert words in lines
    other.save(tmp_path / "w")
    assert run("vectors", "show", tmp_path / "w") == 0
    assert "holds no measurements that this version knows" in capsys.readouterr().out


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PLACES), odd=ODD, drop=st.booleans())
@example(path=("coherent_range", 0), odd=10**400, drop=False)
@example(path=("steering", "effect", "mean"), odd="nan", drop=False)
@example(path=("judge", "state", "calibration", "slope"), odd="inf", drop=False)
def test_anything_in_the_place_of_anything(
    tiny: ChatModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: tuple[Any, ...], odd: Any, drop: bool
) -> None:
    info = changed(INFO, path, lambda _: odd)
    if drop and isinstance(path[-1], str):
        info = changed(INFO, path[:-1], lambda part: {key: value for key, value in part.items() if key != path[-1]})
    file = tmp_path / "runs" / "hostile" / "vector.safetensors"
    header = {"trait": "kind", "layer": 2, "model": dict(vector(tiny).model), "info": info, "normed_last_row": False}
    metadata = {"format": "personavec", "version": "1", "header": json.dumps(header)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(save({"response_mean": vector(tiny).directions}, metadata))
    good = PersonaVector("rude", torch.ones(4, 32), 1, vector(tiny).model)
    good.save(tmp_path / "good")
    for arguments in (["show", file], ["show", file, "--json"]):
        assert run("vectors", *arguments) in (0, 2)
    for more in ([], ["--json"]):
        assert run("vectors", "compare", file, tmp_path / "good", *more) in (0, 2)
    try:
        hostile = PersonaVector.load(file)
    except UserError:
        return
    assert matrix([hostile, good]).vectors == ("kind", "rude")
    assert [v.trait for v in siblings(tmp_path / "runs" / "mine", good)] == ["kind"]
    with contextlib.suppress(UserError):
        judge_of(tiny, hostile).score([])
    assert "Traceback" not in capsys.readouterr().err


def test_siblings_of_another_shape_are_left_out(tiny: ChatModel, tmp_path: Path) -> None:
    """However alike their identity: they could not be compared at the end of a long run."""
    mine = vector(tiny)
    others = {
        "alike": PersonaVector("alike", mine.directions + 1, 3, mine.model),
        "wide": PersonaVector("wide", torch.ones(4, 33), 2, mine.model),
        "deep": PersonaVector("deep", torch.ones(5, 32), 4, mine.model),
        "imported": PersonaVector("imported", torch.ones(4, 32), 2, mine.model, normed_last_row=True),
    }
    for name, other in others.items():
        other.save(tmp_path / name / "vector.safetensors")
    assert [v.trait for v in siblings(tmp_path / "mine", mine)] == ["alike"]
