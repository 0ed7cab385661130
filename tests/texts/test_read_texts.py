"""Contrastive texts from files, and what a model reads in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.texts import read_answers, read_texts


def records(**more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"q{number}", "answer": f"{side} answer {number}", "side": side, **more}
        for number in range(12)
        for side in ("positive", "negative")
    ]


def written(folder: Path, lines: list[Any]) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_questions_are_dealt_to_the_halves_in_turn(tmp_path: Path) -> None:
    texts = read_texts(written(tmp_path, records()))
    assert {text.question for text in texts.extract} == {f"q{number}" for number in range(0, 12, 2)}
    assert len(texts.extract) == len(texts.test) == 12 and not texts.rejected


def test_a_split_is_kept(tmp_path: Path) -> None:
    lines = [r | {"split": "test" if int(r["question"][1:]) < 5 else "extract"} for r in records()]
    texts = read_texts(written(tmp_path, lines))
    assert {text.question for text in texts.test} == {f"q{number}" for number in range(5)}


def test_scores_say_the_side_and_other_names_and_formats_are_read(tmp_path: Path) -> None:
    lines = ["prompt,response,score"]
    lines += [f"q{number},answer {number},{score}" for number in range(24) for score in (50, 49.5)]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    texts = read_texts(tmp_path / "texts.csv")
    assert [(text.side, text.score) for text in texts.extract[:2]] == [("positive", 50.0), ("negative", 49.5)]


def test_records_that_are_no_texts_are_kept_with_their_lines_and_reasons(tmp_path: Path) -> None:
    bad: list[Any] = [
        {"answer": "a", "side": "pos"},
        {"question": "q", "answer": " ", "side": "pos"},
        {"question": "q", "answer": "a"},
        {"question": "q", "answer": "a", "side": "left"},
        {"question": "q", "answer": "a", "score": 101},
        {"question": "q", "answer": "a", "score": True, "side": "pos"},
        {"question": "q", "answer": "a", "side": "pos", "split": "dev"},
        [1],
    ]
    texts = read_texts(written(tmp_path, [*bad, *records()]))
    found = [(record.line, reason) for record, reason in texts.rejected]
    assert [line for line, _ in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    words = (
        "`question`",
        "`answer`",
        "neither `side` nor `score`",
        "`side` is 'left'",
        "`score` is 101",
        "`score` is True",
        "`split`",
        "",
    )
    assert all(word in reason for word, (_, reason) in zip(words, found, strict=True))
    assert len(texts.extract) + len(texts.test) == 24


def test_too_few_texts_and_questions_in_both_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 4 positive texts for the split 'extract'"):
        read_texts(written(tmp_path, records()[:16]))
    mixed = [r | {"split": ("extract", "test")[r["side"] == "positive"]} for r in records()]
    with pytest.raises(UserError, match="'q0' is in both splits"):
        read_texts(written(tmp_path, mixed))


def test_a_reading_is_the_mean_over_the_first_tokens_of_the_answer_after_its_question(tiny: ChatModel) -> None:
    asked, answer = "how are you", "fine thanks and what about you today"
    found = read_answers(tiny, [asked, asked], [answer, "fine"], [0, 2], tokens=3)
    prompt = tiny.prompt_ids([{"role": "user", "content": asked}])
    ids = [*prompt, *tiny.template.answer_ids(answer)[:3]]
    states = tiny.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    wanted = torch.stack([states[layer][0, -3:].float().mean(0) for layer in (0, 2)])
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)
    assert read_answers(tiny, [], [], [1]).shape == (0, 1, tiny.hidden_size)
    with pytest.raises(UserError, match="empty"):
        read_answers(tiny, [asked], [""])
