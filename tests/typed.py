"""What a user types, in the process of the test."""

import pytest

from personavec.cli import main


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Of `personavec WORDS...`."""
    monkeypatch.setattr("sys.argv", ["personavec", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)
