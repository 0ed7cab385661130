"""A person as the judge: what is shown, what is kept, and how a sitting ends."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from personavec.cli import main
from personavec.data import open_data
from personavec.errors import UserError
from personavec.judges.labelling import Labels, label_chats
from personavec.texts.contrastive import read_texts

CHATS = [(f"Question {n}?", f"Answer {n}.") for n in range(20)]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    def record(question: str, answer: str) -> str:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return json.dumps({"messages": messages})

    lines = [record(*chat) for chat in CHATS] + [record(*CHATS[0]), "no JSON"]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines))
    return path


def replies(*said: str) -> tuple[Callable[[str, str], str], list[tuple[str, str]]]:
    """Someone who says these one after the other, and what was shown to them."""
    left: Iterator[str] = iter(said)
    shown: list[tuple[str, str]] = []

    def ask(question: str, answer: str) -> str:
        shown.append((question, answer))
        return next(left)

    return ask, shown


def label(chats: Path, *said: str, limit: int | None = None) -> tuple[Labels, list[tuple[str, str]], list[str]]:
    ask, shown = replies(*said)
    wrong: list[str] = []
    found = label_chats(open_data(chats), chats.parent / "labels.jsonl", ask, again=wrong.append, limit=limit)
    return found, shown, wrong


def test_what_is_said_is_kept_and_not_asked_again(chats: Path) -> None:
    found, shown, wrong = label(chats, "70", "", "lots", "101", "0", "q")
    assert found == Labels(labelled=2, skipped=1, left=17, rejected=1)
    assert wrong == ["'lots' is not a number from 0 to 100.", "'101' is not a number from 0 to 100."]
    assert shown[2] == shown[3] == shown[4] and len(set(shown)) == 4 and set(shown) <= set(CHATS)
    assert [shown.index(chat) for chat in set(shown)] != sorted(CHATS.index(chat) for chat in set(shown))
    kept = [json.loads(line) for line in (chats.parent / "labels.jsonl").read_text().splitlines()]
    assert kept == [
        {"question": q, "answer": a, "score": score}
        for (q, a), score in zip((shown[0], shown[4]), (70, 0), strict=True)
    ]
    again, later, _ = label(chats, *["50"] * 3, limit=5)
    assert again == Labels(labelled=5, skipped=0, left=15, rejected=1)
    assert not set(later) & {shown[0], shown[4]}


def test_labels_are_texts_that_a_probe_learns_from(chats: Path) -> None:
    label(chats, *["80", "80", "10", "10"] * 5)
    texts = read_texts(chats.parent / "labels.jsonl")
    assert len(texts.extract) + len(texts.test) == 20 and not texts.rejected
    assert {text.score for text in texts.extract} == {80, 10}


def test_another_file_and_data_without_answers_are_refused(chats: Path) -> None:
    (chats.parent / "labels.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(UserError, match="other records than labels"):
        label(chats, "1")
    empty = chats.parent / "empty.jsonl"
    empty.write_text("no JSON\n")
    with pytest.raises(UserError, match="None of the 1 records holds an answer"):
        label_chats(open_data(empty), chats.parent / "new.jsonl", replies()[0], again=print)


def test_the_command_asks_in_the_terminal(
    chats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter(["40", "q"])
    monkeypatch.setattr("rich.console.Console.input", lambda *_: next(said))
    out = chats.parent / "mine.jsonl"
    monkeypatch.setattr("sys.argv", ["personavec", "judges", "label", str(chats), "--trait", "evil", "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr().out
    assert not end.value.code and "How much does each answer show evil?" in shown
    assert f"Labelled: 1, in {out}; left: 19; records without an answer: 1\n" in shown
    assert len(out.read_text().splitlines()) == 1
