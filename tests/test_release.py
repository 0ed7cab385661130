"""What is handed out: one version everywhere, and nothing missing from what is installed."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import main

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "personavec"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_command_line_says_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["personavec", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert capsys.readouterr().out == f"personavec {version('personavec')}\n"


def test_the_citation_is_of_this_version() -> None:
    cited = re.findall(r"^ *version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(cited) == {PROJECT["version"]}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_all_that_the_package_reads_is_handed_out(kind: str) -> None:
    """Every file of the package that git has, and what the metadata names."""
    builder = pytest.importorskip(f"hatchling.builders.{kind}", reason="hatchling comes with the dev extra")
    made = {"wheel": "WheelBuilder", "sdist": "SdistBuilder"}[kind]
    found = {Path(file.path) for file in getattr(builder, made)(str(ROOT)).recurse_included_files()}
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/personavec"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    tracked = {ROOT / name for name in listed if name and (ROOT / name).exists()}
    data = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}}
    assert len(data) > 40, "templates, traits, texts, domains, passages"
    assert not (tracked | data) - found
