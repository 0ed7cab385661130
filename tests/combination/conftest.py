"""What the tests of new vectors from old ones share."""

from collections.abc import Callable

import pytest

from personavec.cli import main

Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`personavec vectors ...`: its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["personavec", "vectors", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run
