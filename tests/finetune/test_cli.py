"""`personavec finetune`: what it prints, and mistakes that end with one message and exit code 2."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from personavec.cli import main
from personavec.cli.finetune import read_prevention
from personavec.errors import UserError
from personavec.traits import load_trait

pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")
pytestmark = pytest.mark.usefixtures("few_passages", "short_answers", "unpainted")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    error: str


@dataclass(frozen=True)
class Place:
    """A folder with a tiny model, a vector of it, and data."""

    path: Path

    def run(self, *arguments: object, data: str = "data.jsonl") -> Result:
        out, error = io.StringIO(), io.StringIO()
        given = ["personavec", "finetune", self.path / data, "--model", self.path / "model", *arguments]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            pytest.raises(SystemExit) as exit,
        ):
            patch.setattr(sys, "argv", [str(one) for one in given])
            main()
        return Result(int(exit.value.code or 0), out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    path = tmp_path_factory.mktemp("finetune")
    chat = tiny.chat_model(tiny.qwen2(num_hidden_layers=2, max_position_embeddings=2048))
    chat.model.save_pretrained(path / "model")
    chat.tokenizer.save_pretrained(path / "model")
    trait = load_trait("evil").model_dump(mode="json")
    # For time: most of what is read are questions and instructions.
    trait |= {key: trait[key][:2] for key in ("instructions", "evaluation_questions")}
    ones = torch.ones(chat.n_layers + 1)
    for name, judge in (("kind", {"judge": tiny.JUDGE}), ("plain", {})):
        vector = tiny.vector(chat, layer=1, info={"trait": trait | {"name": name}, **judge})
        vector = replace(vector, neutral_token_mean=ones, neutral_token_deviation=ones)
        replace(vector, trait=name).save(path / f"{name}.safetensors")
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": f"hello {i}"}, {"role": "assistant", "content": f"well {i}"}]}
        )
        for i in range(12)
    ]
    (path / "data.jsonl").write_text("\n".join([*lines, '{"messages": 3}']) + "\n")
    (path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    return Place(path)


def test_it_trains_and_says_what_next(place: Place, tmp_path: Path) -> None:
    vector = place.path / "kind.safetensors"
    options = ["--rank", 4, "--dtype", "float32", "--out", tmp_path / "run"]
    found = place.run("--prevent", f"{vector}=2", *options)
    assert found.code == 0, found.error
    assert "13 records (messages): 11 trained on + 1 held out + 1 rejected = 13 read." in found.out
    assert "Prevented by steer: kind, coefficient 2." in found.out
    adapter = tmp_path / "run" / "adapter"
    assert f'personavec generate "Who are you?" --model {place.path / "model"} --adapter {adapter}' in found.out
    assert "kind: score" in found.out and "perplexity" in found.out and "--method none" in found.out
    assert "What did it learn" in (tmp_path / "run" / "report.html").read_text()
    assert (adapter / "adapter_config.json").exists()
    assert "Training: 1 of 1 steps" in found.error and "Warning" not in found.error and "it/s" not in found.error
    again = place.run("--prevent", f"{vector}=2", *options, "--json")
    assert again.code == 0 and "Training" not in again.error
    told = json.loads(again.out)
    assert told["adapter"] == str(adapter) and told["prevented"][0]["coefficient"] == 2
    assert told["traits"].keys() == {"kind"} and told["traits"]["kind"].keys() == {
        "shift",
        "score_before",
        "score_after",
    }
    for one in (*told["traits"]["kind"].values(), *told["perplexity"].values(), *told["loss"]["held_out"].values()):
        assert one.keys() == {"mean", "low", "high", "n"} and (
            one["low"] is None or one["low"] <= one["mean"] <= one["high"]
        )
    assert told["perplexity"].keys() == {"before", "after"} and told["loss"]["train"] > 0
    assert (told["read"], told["trained"], told["held_out"], told["rejected"]) == (13, 11, 1, 1)


def test_without_measuring(place: Place, tmp_path: Path) -> None:
    vector, options = place.path / "kind.safetensors", ["--rank", 4, "--dtype", "float32", "--no-measure"]
    found = place.run("--prevent", f"{vector}=2", *options, "--out", tmp_path / "run")
    assert found.code == 0 and "was not measured" in found.out
    adapter = tmp_path / "run" / "adapter"
    for command in ("generate", "evaluate kind", "shift"):
        assert any(f"personavec {command}" in line and str(adapter) in line for line in found.out.splitlines())
    again = place.run("--prevent", f"{vector}=2", *options, "--out", tmp_path / "run", "--json")
    told = json.loads(again.out)
    assert told["traits"] == {} and told["perplexity"] is None


def test_a_bound_is_called_one(place: Place, tmp_path: Path) -> None:
    bound = ["--method", "floor", "--prevent", f"{place.path / 'plain.safetensors'}=-1"]
    found = place.run(*bound, "--rank", 4, "--no-measure", "--out", tmp_path / "run")
    assert found.code == 0 and "Prevented by floor: plain, bound -1." in found.out
    assert "plain (bound" in (tmp_path / "run" / "report.html").read_text()


def test_a_folder_of_runs_is_watched(place: Place, tmp_path: Path) -> None:
    for name in ("kind", "plain"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "vector.safetensors").write_bytes((place.path / f"{name}.safetensors").read_bytes())
    found = place.run("--watch", tmp_path / "runs", "--rank", 4, "--out", tmp_path / "run", "--json")
    traits = json.loads(found.out)["traits"]
    assert traits["kind"]["score_after"] is not None and traits["plain"]["score_after"] is None
    (tmp_path / "empty").mkdir()
    found = place.run("--watch", tmp_path / "empty", "--out", tmp_path / "other")
    assert found.code == 2 and "vector.safetensors" in found.error


@pytest.mark.parametrize("out", ["taken"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda p: ["--prevent", p / "none.safetensors"], "There is no vector file"),
        (lambda p: ["--prevent", f"{p / 'kind.safetensors'}=much"], "is not FILE=NUMBER"),
        (lambda p: ["--prevent", p / "kind.safetensors"], "needs a coefficient"),
        (lambda p: ["--method", "steer"], "needs a vector"),
        (lambda p: ["--method", "vaccinate"], "is not understood"),
        (lambda p: ["--layers", "some"], "--layers"),
        (lambda p: ["--epochs", "0"], "--epochs"),
        (lambda p: ["--dtype", "float16"], "Gradients do not fit float16"),
        (lambda p: ["--safe", p / "data.jsonl"], "interleave only"),
        (lambda p: ["--rank", "x"], "rank"),
        (lambda p: ["--lm-eval", ","], "names no task"),
    ],
)
def test_mistakes(place: Place, tmp_path: Path, out: str, arguments: Callable[[Path], list[Any]], message: str) -> None:
    found = place.run(*arguments(place.path), "--out", tmp_path / out)
    assert found.code == 2 and message in found.error and "Traceback" not in found.error
    assert not found.out


def test_nothing_to_train_on(place: Place, tmp_path: Path) -> None:
    found = place.run("--out", tmp_path / "run", data="bad.jsonl")
    assert found.code == 2 and "can be trained on" in found.error and "rejected.jsonl" in found.error


def test_without_trl(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    found = place.run("--out", tmp_path / "run")
    assert found.code == 2 and "pip install 'personavec[finetune]'" in found.error


def test_without_the_harness(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    found = place.run("--out", tmp_path / "run", "--lm-eval", "mmlu")
    assert found.code == 2 and "pip install 'personavec[eval]'" in found.error


def test_prevention_in_words(tmp_path: Path) -> None:
    assert read_prevention("a.safetensors=auto") == (Path("a.safetensors"), "auto")
    assert read_prevention("a=b.safetensors=-1.5") == (Path("a=b.safetensors"), -1.5)
    assert read_prevention("a.safetensors") == (Path("a.safetensors"), None)
    (tmp_path / "a=b").touch()
    assert read_prevention(str(tmp_path / "a=b")) == (tmp_path / "a=b", None)
    for text in ("=auto", "a=automatic", "a=nan", "=3"):
        with pytest.raises(UserError, match="FILE=NUMBER"):
            read_prevention(text)
