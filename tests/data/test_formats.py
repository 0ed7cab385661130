"""Every usual way of writing down a conversation is recognised and named, and what does not fit is told why."""

from typing import Any

import pytest

from personavec.data.formats import Content, Format, recognise
from personavec.data.messages import MisfitError
from personavec.errors import UserError

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
PAIR = [USER, ANSWER]
NUMPY = "[{'role': 'user', 'content': 'Q'}\n {'role': 'assistant', 'content': 'A'}]"


def read(record: Any, **asked: Any) -> tuple[str, Content]:
    format = recognise([record], "data", **asked)
    return format.name, format.read(record)


def reason(record: Any, format: Format) -> str:
    with pytest.raises(MisfitError) as caught:
        format.read(record)
    return str(caught.value)


@pytest.fixture
def listed() -> Format:
    return recognise([{"messages": PAIR}], "data")


@pytest.mark.parametrize(
    ("record", "name", "messages"),
    [
        ({"messages": PAIR}, "messages", PAIR),
        ({"conversation": PAIR, "id": 1}, "messages", PAIR),
        ({"conversations": [SYSTEM, *PAIR]}, "messages", [SYSTEM, *PAIR]),
        ({"Messages": PAIR, "system": "S"}, "messages", [SYSTEM, *PAIR]),
        ({"messages": [SYSTEM, *PAIR], "system": "S"}, "messages", [SYSTEM, *PAIR]),
        (PAIR, "messages", PAIR),
        ({"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'}, "messages", PAIR),
        ({"messages": [{**SYSTEM, "role": "developer"}, USER, {**ANSWER, "x": 1}]}, "messages", [SYSTEM, *PAIR]),
        ({"messages": [{**USER, "content": [{"type": "text", "text": "Q"}]}, ANSWER]}, "openai", PAIR),
        ({"messages": [USER, {**ANSWER, "weight": 1}]}, "openai", PAIR),
        ({"messages": [{"role": "user", "value": "Q"}, {"role": "assistant", "value": "A"}]}, "messages", PAIR),
        ({"messages": [{"role": "prompter", "text": "Q"}, {"role": "assistant", "message": "A"}]}, "messages", PAIR),
        ({"messages": [{**USER, "value": "x"}, {**ANSWER, "text": 3}]}, "messages", PAIR),
        ({"conversations": [{"from": "human", "content": "Q"}, {"from": "gpt", "text": "A"}]}, "sharegpt", PAIR),
        ({"messages": str(PAIR)}, "messages", PAIR),
        ({"messages": str(tuple(PAIR)).replace("(", "[").replace(")", " , ]")}, "messages", PAIR),
        ({"messages": PAIR, "tools": None, "system": "S"}, "messages", [SYSTEM, *PAIR]),
        ({"prompt": str([USER]), "completion": str([ANSWER])}, "prompt/response", PAIR),
        ({"prompt": "Q", "chosen": str(PAIR), "rejected": str(PAIR)}, "prompt/response", PAIR),
        ({"prompt": "Q", "response": str(PAIR)}, "prompt/response", [USER, {**ANSWER, "content": str(PAIR)}]),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "sharegpt", PAIR),
        (
            {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "GPT", "value": "A"}]},
            "sharegpt",
            [SYSTEM, *PAIR],
        ),
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", PAIR),
        ({"instruction": "Q", "output": "A"}, "alpaca", PAIR),
        ({"instruction": "Q", "input": "I", "output": "A"}, "alpaca", [{**USER, "content": "Q\n\nI"}, ANSWER]),
        ({"instruction": "", "input": "Q", "output": "A"}, "alpaca", PAIR),
        ({"instruction": "Q", "context": "I", "response": "A"}, "alpaca", [{**USER, "content": "Q\n\nI"}, ANSWER]),
        (
            {"instruction": "Q", "input": "", "output": "A", "system": "S", "history": [["Q", "A"]]},
            "alpaca",
            [SYSTEM, *PAIR, *PAIR],
        ),
        *(
            ({prompt: "Q", response: "A"}, "prompt/response", PAIR)
            for prompt, response in [
                ("prompt", "response"), ("prompt", "completion"), ("question", "answer"), ("Question", "Answer"),
                ("input", "output"), ("query", "response"), ("instruction", "response"), ("prompt", "chosen"),
            ]
        ),
        ({"prompt": "Q", "response": "A", "system_prompt": "S"}, "prompt/response", [SYSTEM, *PAIR]),
        ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, "prompt/response", [SYSTEM, *PAIR]),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "prompt/response", PAIR),
        ({"prompt": "Q", "chosen": PAIR, "rejected": PAIR}, "prompt/response", PAIR),
        ({"prompt": "Q", "chosen": [SYSTEM, *PAIR], "rejected": PAIR}, "prompt/response", [SYSTEM, *PAIR]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "prompt/response", PAIR),
        ({"chosen": PAIR, "rejected": PAIR}, "messages", PAIR),
    ],
)  # fmt: skip
def test_recognised(record: Any, name: str, messages: list[Any]) -> None:
    found, content = read(record)
    assert found == name and content.messages == messages
    last = len(messages) - 1
    assert content.turns == ([2, 4] if isinstance(record, dict) and "history" in record else [last])


def test_turns_are_those_that_have_text_and_are_trained_on() -> None:
    blank = {"role": "assistant", "content": " \n\u3000"}
    untrained = {**ANSWER, "weight": 0}
    conversation = [ANSWER, USER, untrained, USER, blank, USER, {**ANSWER, "weight": 1.0}, USER]
    _, content = read({"messages": conversation})
    assert content.turns == [6] and len(content.messages) == 8
    assert "weight" not in content.messages[2]
    assert read({"system": "S", "messages": conversation})[1].turns == [7]
    prompt = [USER, ANSWER, USER]
    assert read({"prompt": prompt, "completion": [ANSWER, USER, ANSWER]})[1].turns == [3, 5], "a prompt is given"
    assert read({"prompt": prompt, "completion": "A", "system": "S"})[1].turns == [4]
    assert read({"chosen": [*PAIR, *PAIR], "rejected": PAIR})[1].turns == [3]
    assert read({"prompt": "Q", "chosen": [*PAIR, *PAIR], "rejected": PAIR})[1].turns == [3]
    assert read({"prompt": "Q", "completion": [{**ANSWER, "weight": 0}, USER, ANSWER]})[1].turns == [3]


def test_tool_calls_and_tools_are_kept() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    written = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    result = {"role": "tool", "content": "5", "tool_call_id": "c1"}
    tool = {"type": "function", "function": {"name": "f"}}
    name, content = read(
        {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [written]}, result, ANSWER],
            "tools": [tool],
        }
    )
    assert name == "openai" and content.turns == [3] and content.tools == [tool]
    assert content.messages == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **call}]},
        result,
        ANSWER,
    ]
    old = [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
           {"role": "function", "name": "f", "content": "5"}, ANSWER]  # fmt: skip
    _, content = read({"messages": old, "functions": [{"name": "f"}]})
    assert content.tools == [tool] and content.messages[1]["tool_calls"] == [call]
    assert content.messages[2] == {"role": "tool", "content": "5", "name": "f"}
    turns = [
        ("human", "Q"),
        ("function_call", '{"name": "f", "arguments": {"x": 1}}'),
        ("observation", "5"),
        ("gpt", "A"),
    ]
    _, content = read({"conversations": [{"from": a, "value": b} for a, b in turns], "tools": '[{"name": "f"}]'})
    assert content.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert content.turns == [3] and content.tools == [tool]
    broken = {**written, "function": {"name": "f", "arguments": "{no json"}}
    _, content = read({"messages": [USER, {**ANSWER, "tool_calls": [broken]}]})
    assert content.messages[1]["tool_calls"][0]["function"]["arguments"] == "{no json" and content.turns == [1]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (5, "expected an object, found a number"),
        ({"text": "x"}, "expected messages (format messages), found text"),
        ({}, "expected messages (format messages), found none"),
        ({"messages": None}, "expected messages (format messages)"),
        ({"messages": "hello"}, 'expected a list of messages in "messages", found text'),
        ({"messages": []}, "no assistant turn among 0 messages"),
        ({"messages": [USER]}, "no assistant turn among 1 messages"),
        ({"messages": [SYSTEM]}, "no assistant turn among 1 messages"),
        ({"messages": [USER, {**ANSWER, "content": " \n"}]}, "no assistant turn with text"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "no assistant turn that is trained on"),
        ({"messages": [ANSWER]}, "nothing to respond to"),
        ({"messages": [{**USER, "content": "  "}, ANSWER]}, "nothing to respond to"),
        ({"messages": [USER, "A"]}, "message 2: expected an object, found text"),
        ({"messages": [USER, {"content": "A"}]}, 'message 2: expected "role" and "content", found content'),
        ({"messages": [USER, {"role": "assistant"}]}, 'message 2 (assistant) has no "content", its fields are role'),
        ({"messages": [USER, {"role": "assistant", "value": "A", "text": "B"}]},
         'message 2 (assistant) has no "content" but both "value" and "text"'),
        ({"messages": {"role": "user", "content": "Q"}}, "found an object with the fields 'role', 'content'"),
        ({"messages": NUMPY}, "a list as NumPy prints it, without commas, which cannot be read back: [{'role'"),
        ({"messages": "[{'role': 'user', 'content'"}, "text that is no list, neither in JSON (not JSON: .*nor in"),
        ({"messages": "[{'role': 'user', 'role': 'x', 'content': 'Q'}]"}, "text that is no list, neither in JSON"),
        ({"messages": "({'role': 'user'}, {})"}, "found text that begins as a tuple, not as a list: ({'role': 'user'}"),
        ({"messages": "{'role': 'user'}"}, "found text that begins as an object, not as a list: {'role': 'user'}"),
        ({"messages": PAIR, "tools": "['a' 'b']"}, 'expected a list in "tools", found a list as NumPy prints it'),
        ({"messages": [{**USER, "role": "narrator"}, ANSWER]}, 'message 1: expected a role such as .*found "narrator"'),
        ({"messages": [{**USER, "role": None}, ANSWER]}, "found null"),
        ({"messages": [{**USER, "role": ["user"]}, ANSWER]}, "expected a role"),
        ({"messages": [{**USER, "content": 5}, ANSWER]}, '"content" of message 1 (user), found a number'),
        ({"messages": [USER, {**ANSWER, "content": {"a": 1}}]}, "message 2 (assistant), found an object"),
        ({"messages": [{**USER, "content": [{"type": "image_url"}]}, ANSWER]}, "part of type image_url"),
        ({"messages": [{**USER, "content": ["Q"]}, ANSWER]}, "part that is text; only text"),
        ({"messages": [{**USER, "tool_calls": [{"name": "f"}]}, ANSWER]}, "only the assistant can"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": {}}]}]}, "a tool call names no function"),
        ({"messages": [USER, {**ANSWER, "tool_calls": 3}]}, 'expected a list as "tool_calls", found a number'),
        ({"messages": [USER, {**ANSWER, "weight": "0"}]}, 'expected a number from 0 on as "weight", found text'),
        ({"messages": [{**USER, "name": 7}, ANSWER]}, 'expected text as "name", found a number'),
        ({"messages": PAIR, "system": 5}, 'expected text in "system", found a number'),
        ({"messages": [SYSTEM, *PAIR], "system": "other"}, "two system prompts"),
        ({"messages": PAIR, "tools": 3}, 'expected a list in "tools", found a number'),
        ({"messages": PAIR, "tools": ["f"]}, 'expected objects in "tools", found text'),
        ({"messages": [{"from": "gpt", "value": ""}]}, 'expected "role" and "content", found from, value'),
    ],
)  # fmt: skip
def test_misfits_say_what_was_expected_and_found(listed: Format, record: Any, expected: str) -> None:
    found = reason(record, listed)
    for piece in expected.split(".*"):
        assert piece in found


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Q"}, "expected prompt, response (format prompt/response), found prompt"),
        ({"prompt": "Q", "response": 4.5}, 'expected text in "response", found a number'),
        ({"prompt": "Q", "response": ["a", "b"]}, "part that is text"),
        ({"prompt": 3, "response": "A"}, 'expected text in "prompt", found a number'),
        ({"prompt": "Q", "response": ""}, "no assistant turn with text"),
        ({"prompt": " ", "response": "A"}, "nothing to respond to"),
        (
            {"prompt": "Q", "response": [{**USER, "content": "other"}, ANSWER]},
            "open with the user's, and not with the prompt",
        ),
        ({"prompt": "Q", "response": "A", "history": [["x"]]}, "expected pairs of texts"),
        ({"prompt": "Q", "response": "A", "history": "x"}, "expected pairs of texts"),
        ({"prompt": "[{'role': 'user', 'content': 'Q'}]", "response": NUMPY}, "found a list as NumPy prints it"),
    ],
)
def test_misfits_of_pairs(record: Any, expected: str) -> None:
    assert expected in reason(record, recognise([{"prompt": "Q", "response": "A"}], "data"))


def test_the_majority_decides() -> None:
    odd, even = {"prompt": "Q", "response": "A"}, {"instruction": "Q", "input": "", "output": "A"}
    assert recognise([odd, even, even, "x", {"z": 1}], "data").name == "alpaca"
    format = recognise([odd, odd, even], "data")
    assert format.name == "prompt/response"
    assert (
        reason(even, format) == "expected prompt, response (format prompt/response), found instruction, input, output"
    )


def test_fields_that_only_later_records_have_are_read() -> None:
    format = recognise([{"messages": PAIR}] * 3, "data")
    assert format.read({"messages": PAIR, "system": "S", "tools": [{"name": "f"}]}).messages[0] == SYSTEM
    format = recognise([{"instruction": "Q", "output": "A"}], "data")
    assert format.read({"instruction": "Q", "input": "I", "output": "A"}).messages[0]["content"] == "Q\n\nI"


def test_format_and_columns_override() -> None:
    record = {"q": "Q", "a": "A", "s": "S", "more": "I", "prompt": "other", "response": "other"}
    columns = {"prompt": "q", "response": "a"}
    assert read(record, columns=columns)[1].messages == PAIR
    name, content = read(record, columns={**columns, "system": "s", "input": "more"})
    assert name == "prompt/response" and content.messages == [SYSTEM, {**USER, "content": "Q\n\nI"}, ANSWER]
    assert read(record, columns={"response": "a"})[1].messages == [{**USER, "content": "other"}, ANSWER]
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert read({"dialog": sharegpt, "messages": 1}, columns={"messages": "dialog"})[0] == "sharegpt"
    both = {"messages": [{**USER, "content": "X"}, ANSWER], "prompt": "Q", "response": "A"}
    assert read(both)[0] == "messages"
    assert read(both, name="prompt/response")[1].messages == PAIR
    assert read({"messages": PAIR}, name="openai")[0] == "openai"
    assert read({"instruction": "Q", "response": "A"}, name="alpaca")[0] == "alpaca"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "parquet"}, "There is no format 'parquet'. Formats: messages, openai"),
        (
            {"columns": {"answers": "a"}},
            "Columns cannot be given for answers. Say which columns hold what with",
        ),
        ({"columns": {"prompt": "qq"}}, "data has no column 'qq'. Its columns: q, a."),
        ({"columns": {"prompt": "q", "messages": "a"}}, "cannot be read together"),
        ({"columns": {"prompt": "q"}, "name": "sharegpt"}, "cannot be read together"),
        ({"columns": {"messages": "q"}, "name": "alpaca"}, "The format alpaca has no column of messages"),
        ({"name": "alpaca"}, "not recognised as alpaca. Its columns: q, a."),
        (
            {},
            "not recognised. Its columns: q, a. Say which columns hold what with `columns`: prompt=COLUMN",
        ),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        recognise([{"q": "Q", "a": "A"}], "data", **asked)
    assert message in str(caught.value)


@pytest.mark.parametrize("asked", [{}, {"columns": {"messages": "messages"}}, {"name": "messages"}])
@pytest.mark.parametrize(
    ("value", "found", "advice"),
    [
        (NUMPY, "a list as NumPy prints it, without commas", 'or the lists as JSON before it is written as CSV:'),
        ("[array([1, 2]), 3]", "a list as NumPy prints it", "Save the table as Parquet"),
        ("hello", "text.", "A list of messages has objects with role and content"),
        (5, "a number.", "A list of messages"),
        (["a", "b"], "a list of text.", "A list of messages"),
        ([{"speaker": "A", "utterance": "Q"}], "a list of object with the fields 'speaker', 'utterance'.", "A list of"),
        ([{"user": "Q", "assistant": "A"}], "a list of object with the fields 'user', 'assistant'.", "A list of"),
        ({"role": ["user"], "content": ["Q"]}, "an object with the fields 'role', 'content'.", "A list of messages"),
    ],
)  # fmt: skip
def test_what_stands_where_messages_should_is_named(asked: Any, value: object, found: str, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        recognise([{"messages": value}], "data", **asked)
    assert f'"messages" holds {found}' in caught.value.problem
    assert caught.value.advice.startswith(advice) or advice in caught.value.advice


def test_ten_thousand_columns_are_not_all_listed() -> None:
    with pytest.raises(UserError) as caught:
        recognise([{f"c{i}": "x" for i in range(10_000)}], "data")
    assert "c19 and 9,980 more" in str(caught.value) and len(str(caught.value)) < 1000


def test_nothing_parsed_is_no_format() -> None:
    for values in ([], [1, "x", []]):
        assert recognise(values, "data").name == "unknown"


@pytest.mark.parametrize(
    ("mark", "value", "trained"),
    [
        *((name, value, value) for name in ("train", "training", "trainable", "loss") for value in (True, False)),
        ("weight", 0, False),
        ("weight", 0.5, True),
        ("loss_weight", 0.0, False),
        ("loss_mask", 0, False),
        ("loss_mask", 1, True),
        *((name, value, not value) for name in ("mask", "masked", "ignore") for value in (True, False)),
        ("train", None, True),
    ],
)
@pytest.mark.parametrize("style", ["messages", "sharegpt"])
def test_marks_of_turns_that_are_not_trained_on(style: str, mark: str, value: Any, trained: bool) -> None:
    first = {**ANSWER, mark: value}
    record: dict[str, Any] = {"messages": [USER, first, USER, ANSWER]}
    if style == "sharegpt":
        said = [{"from": m["role"], "value": m["content"]} for m in (USER, ANSWER)]
        record = {"conversations": [said[0], {**said[1], mark: value}, *said]}
    _, content = read(record)
    assert content.turns == ([1, 3] if trained else [3])
    assert content.messages == [*PAIR, *PAIR]


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({"train": "no"}, 'message 2: expected true or false as "train", found text'),
        ({"weight": -1}, 'message 2: expected a number from 0 on as "weight", found -1'),
        ({"loss_weight": float("nan")}, 'message 2: expected a number from 0 on as "loss_weight", found nan'),
        ({"weight": 1, "train": False}, 'message 2: "weight" says that it is trained on, "train" that it is not'),
        ({"train_detail": [{"begin_offset": 0, "train": False}]}, '"train_detail" marks parts of a turn'),
    ],
)
def test_marks_that_cannot_be_followed(listed: Format, marks: dict[str, Any], expected: str) -> None:
    assert expected in reason({"messages": [USER, {**ANSWER, **marks}]}, listed)


def test_what_is_not_read_in_messages_is_named(listed: Format) -> None:
    first = {"messages": [{**USER, "train": True, "id": 7}, {**ANSWER, "weight": 0.5, "learn": False, "refusal": None}]}
    assert listed.notes([first, [ANSWER], 5]) == [
        "Fields of messages that are not read: id, learn.",
        "Weights of messages other than 0 and 1 count as 1.",
        "Only the assistant's turns are trained on: train of other turns is not followed.",
    ]
    assert listed.notes([{"messages": [{**USER, "name": "x", "train": False}, {**ANSWER, "thinking": "hm"}]}]) == []
    for mark in ({"train": "false"}, {"weight": -1}, {"weight": "0"}):  # for which the record is rejected
        assert listed.notes([{"messages": [USER, {**ANSWER, **mark}]}]) == []


@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_a_greeting_is_context(listed: Format, before: list[Any]) -> None:
    greeting = {"role": "assistant", "content": "welcome"}
    content = listed.read({"messages": [*before, greeting, *PAIR]})
    assert content.messages == [*before, greeting, *PAIR]
    assert content.turns == [len(before) + 2]
    assert "nothing to respond to" in reason({"messages": [greeting, USER]}, listed)
    assert listed.read({"messages": [SYSTEM, ANSWER]}).turns == [1]  # which answers the system prompt


def test_turns_that_only_call_tools_are_context(listed: Format) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    result = {"role": "tool", "content": "5"}
    empty: dict[str, Any]
    for empty in ({}, {"content": ""}, {"content": []}):
        assert listed.read({"messages": [USER, {**call, **empty}, result, ANSWER]}).turns == [3]
        assert "only calls of tools" in reason({"messages": [USER, {**call, **empty}]}, listed)
    assert listed.read({"messages": [USER, {**call, "content": "I will look."}, result, ANSWER]}).turns == [1, 3]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_in_fields_are_kept_under_one_name(listed: Format, field: str) -> None:
    expected = [USER, {**ANSWER, "reasoning_content": "hm"}]
    assert listed.read({"messages": [USER, {**ANSWER, field: "hm"}]}).messages == expected
    assert listed.read({"messages": [USER, {**ANSWER, field: [{"type": "text", "text": "hm"}]}]}).messages == expected
    assert listed.read({"messages": [USER, {**ANSWER, field: " "}]}).messages == PAIR
    assert listed.read({"messages": [USER, {**ANSWER, field: True}]}).messages == PAIR  # a switch
    both = {"messages": [USER, {**ANSWER, "thinking": "ah", "reasoning": "oh", field: "hm"}]}
    assert "two thoughts" in reason(both, listed)
