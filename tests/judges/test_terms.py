"""The price and the pace of a paid judge, from the command line: said once, kept to, no part of what a run is."""

import json
import re
import sys
from pathlib import Path

import pytest
from endpoint import Serve, says

from personavec.cli import main
from personavec.cli.options import read_terms
from personavec.errors import UserError
from personavec.judges.api.terms import ApiTerms
from personavec.traits import load_library
from tiny import chat_model, qwen2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = chat_model(qwen2(eos_token_id=258))
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["personavec", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_price_and_pace(
    serve: Serve,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(lambda *_: says("50"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    run = tmp_path / "run"
    arguments = ["evaluate", "evil", "--model", folder, "--dtype", "float32", "--judge", "api:j", "--out", run]
    arguments += ["--max-new-tokens", 6, "--json"]
    assert command(monkeypatch, *arguments, "--judge-price", "1000,0", "--judge-rpm", 3000) == 0, capsys.readouterr()
    questions = len(load_library("evil").evaluation_questions)
    (said,) = [record.message for record in caplog.records if "prompt tokens" in record.message]
    assert f"at most {2 * questions} requests" in said and re.search(r"\$[1-9]", said)
    asked = len(server.requests)
    assert questions < asked <= 2 * questions
    assert server.times[-1] - server.times[0] >= (asked - 1) * 60 / 3000 - 0.05
    # Another price and pace are the same run: nothing is refused, nothing asked again.
    assert command(monkeypatch, *arguments, "--judge-price", "2,2") == 0
    assert len(server.requests) == asked
    assert not {"price", "terms", "rpm"} & json.loads((run / "arguments.json").read_text()).keys()
    # Another judge compares the run; it is told its terms too.
    caplog.clear()
    again = ["judges", "compare", run, "--judge", "api:k", "--judge-price", "3000,0", "--limit", 10]
    assert command(monkeypatch, *again) == 0, capsys.readouterr()
    (said,) = [record.message for record in caplog.records if "prompt tokens" in record.message]
    assert "at most 20 requests" in said and re.search(r"\$[1-9]", said)


def test_terms() -> None:
    assert read_terms("contrast", None, None) == ApiTerms()
    assert read_terms("api:m", "0.4,1.6", 500) == ApiTerms((0.4, 1.6), 500)
    assert read_terms("api:m", "0, 0", None) == ApiTerms((0.0, 0.0), None)


@pytest.mark.parametrize(
    ("judge", "price", "rpm", "message"),
    [
        ("contrast", "1,2", None, "do not go with the judge contrast"),
        ("local:m", None, 10.0, "do not go with the judge local:m"),
        *[("api:m", text, None, "is not IN,OUT") for text in ("1", "1,2,3", "a,b", "-1,2", "nan,1", "1,inf", "")],
        *[("api:m", None, pace, "is not usable") for pace in (0.0, -3.0, float("nan"), float("inf"))],
    ],
)
def test_terms_that_are_none(judge: str, price: str | None, rpm: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_terms(judge, price, rpm)
