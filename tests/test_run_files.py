"""The page that documents run.json says what the sources say."""

import importlib.util
import json
from pathlib import Path

import pytest

from personavec.cli import main
from personavec.cli.schema import ROOMS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_sources_make_of_it() -> None:
    spec = importlib.util.spec_from_file_location("run_files", DOCS / "run_files.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (DOCS / "run-files.md").read_text(encoding="utf-8") == maker.page(), "run: python docs/run_files.py"


@pytest.mark.parametrize("job", ROOMS)
def test_every_field_has_a_meaning(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["personavec", "schema", job])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    made = json.loads(capsys.readouterr().out)
    assert made["properties"]["schema_version"]
    assert [name for name, field in made["properties"].items() if not field.get("description")] == []
