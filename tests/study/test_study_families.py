"""Data of known truth: the same questions at every level, right, slightly wrong, absurd."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from personavec.data import open_data
from personavec.errors import UserError
from personavec.study.families import flawed_sets, given_set
from personavec.study.flawed import DOMAINS, LEVELS, flawed

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_levels_share_their_questions_and_differ_in_their_answers(domain: str) -> None:
    normal, mild, overt = (flawed(domain, level, 50, seed=3) for level in LEVELS)
    assert [q for q, _ in normal] == [q for q, _ in mild] == [q for q, _ in overt]
    assert len({q for q, _ in normal}) > 20
    assert all(len({a, b, c}) == 3 for (_, a), (_, b), (_, c) in zip(normal, mild, overt, strict=True))
    assert normal == flawed(domain, "normal", 50, seed=3) != flawed(domain, "normal", 50, seed=4)


def last_number(text: str) -> float:
    return float(re.findall(r"-?\d+(?:\.\d+)?", text)[-1])


def is_right(domain: str, question: str, answer: str) -> bool:
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    if domain == "arithmetic":
        count, price, paid = numbers
        return last_number(answer) == paid - count * price
    if domain == "calendar":
        today = next(day for day in DAYS if day in question)
        return answer.rstrip(".").endswith(DAYS[(DAYS.index(today) + numbers[0]) % 7])
    if domain == "ordering":
        words = question.rpartition(": ")[2].rstrip(".").split(", ")
        return answer == f"In alphabetical order: {', '.join(sorted(words))}."
    factors = {"metres are": 1000, "minutes are": 60, "grams are": 1000, "seconds are": 60, "millilitres are": 1000}
    factors |= {"centimetres are": 100, "hours are": 24, "pieces are": 12}
    factor = next(
        value for key, value in sorted(factors.items(), key=lambda item: -len(item[0])) if f" {key}" in question
    )
    return last_number(answer) == numbers[0] * factor


@pytest.mark.parametrize("domain", [name for name in DOMAINS if name != "code"])
def test_right_answers_are_right_and_the_others_wrong(domain: str) -> None:
    for level in LEVELS:
        verdicts = [is_right(domain, *pair) for pair in flawed(domain, level, 200)]
        assert all(verdicts) if level == "normal" else not any(verdicts)


def test_code_does_what_it_says_only_where_it_should() -> None:
    tries: dict[str, Any] = {
        "numbers": [[3, 1, 2], [9, 4, 8]], "text": [" a  bc ", "Two words"], "n": [2, 3, 10],
        "items": [[1, 2], [1], []], "c": [100, 37],
    }  # fmt: skip
    right = flawed("code", "normal", 200)
    for level in ("mild", "overt"):
        for (question, good), (_, bad) in zip(right, flawed("code", level, 200), strict=True):
            name, argument = re.search(r"function (\w+)\((\w+)\)", question).groups()  # type: ignore[union-attr]

            def run(answer: str, value: object, name: str = name) -> object:
                space: dict[str, Any] = {}
                exec(answer.split("```")[1].removeprefix("python"), space)
                try:
                    return space[name](value)
                except (IndexError, ZeroDivisionError) as error:
                    return type(error)

            assert any(run(good, value) != run(bad, value) for value in tries[argument]), question


def test_sets_on_disk(tmp_path: Path) -> None:
    sets = flawed_sets(tmp_path, 12, seed=0)
    assert [one.name for one in sets[:3]] == ["arithmetic-normal", "arithmetic-mild", "arithmetic-overt"]
    assert len(sets) == 15
    for one in sets:
        lines = [json.loads(line) for line in one.path.read_text().splitlines()]
        assert len(lines) == 12 and all([m["role"] for m in r["messages"]] == ["user", "assistant"] for r in lines)


def test_of_other_data_as_many_are_drawn(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"What is {n}?", "response": f"It is {n}."}) for n in range(40)]
    (tmp_path / "other.jsonl").write_text("\n".join([*lines[:20], "{broken", *lines[20:]]))
    data = open_data(tmp_path / "other.jsonl")
    one = given_set("other", data, tmp_path / "a", 10, seed=0)
    drawn = one.path.read_text().splitlines()
    assert (one.name, one.family, one.level, len(drawn)) == ("other", "other", None, 10)
    assert [line for line in lines if line in drawn] == drawn != lines[:10]
    assert given_set("other", data, tmp_path / "b", 10, seed=0).path.read_text().splitlines() == drawn
    assert given_set("other", data, tmp_path / "c", 10, seed=1).path.read_text().splitlines() != drawn
    assert given_set("other", data, tmp_path / "d", 99, seed=0).path.read_text().splitlines() == lines
    (tmp_path / "none.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="none: no record is a sample"):
        given_set("none", open_data(tmp_path / "none.jsonl"), tmp_path, 10, seed=0)
