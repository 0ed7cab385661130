"""What pip is told, uv is told: the same indexes, the same certificates, and nothing from where pip may not look."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def install() -> Any:
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_are_those_that_pip_would_heed(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "[global]", "index-url = https://one/simple", "cert = /file.pem", "quiet = 2", "trusted-host = a b",
        "[install]", "index-url = https://two/simple",
        "[download]", "index-url = https://three/simple", "no-index = true",
    ]  # fmt: skip
    (tmp_path / "pip.conf").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/environment.pem")
    monkeypatch.setenv("PIP_QUIET", "1")
    known = install.settings()
    assert known["index-url"] == "https://two/simple" and known["cert"] == "/environment.pem"
    assert known["trusted-host"] == "a b" and "no-index" not in known


def test_uv_is_told_all_or_nothing(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options, variables = install.for_uv(
        {
            "index-url": "https://me:secret@one/simple", "extra-index-url": "https://two https://three",
            "no-index": "1", "find-links": "/a /b", "cert": "/c.pem", "timeout": "9",
        }
    )  # fmt: skip
    assert options == ["--no-index", "--find-links", "/a", "--find-links", "/b", "--index-strategy=unsafe-best-match"]
    assert variables == {
        "UV_DEFAULT_INDEX": "https://me:secret@one/simple",
        "UV_INDEX": "https://two https://three",
        "SSL_CERT_FILE": "/c.pem",
    }
    assert "--no-index" not in install.for_uv({"no-index": "false"})[0]
    assert install.for_uv({"proxy": "http://x:1"}) is None and "proxy" in capsys.readouterr().err
