"""Calls of tools: from what models write to what OpenAI's clients read."""

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from openai import OpenAI
from serving_samples import WEATHER, Live, personas, saying

from personavec.serving.calls import Listener

CALL = '{"name": "weather", "arguments": {"town": "Köln"}}'
OTHER = '{"name": "clock", "arguments": {}}'
TOOLS = ("weather", "clock")


def heard(pieces: Sequence[str], tools: Sequence[str] = TOOLS) -> tuple[str, str, list[tuple[str, Any]]]:
    """What is told before the end, what at the end, and the calls."""
    listener = Listener(tools)
    early = "".join(listener.hear(piece) for piece in pieces)
    late, calls = listener.end([])
    return early, late, [(call.name, json.loads(call.arguments)) for call in calls]


KOELN = ("weather", {"town": "Köln"})
CLOCK: tuple[str, Any] = ("clock", {})


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (CALL, "", [KOELN]),
        (f" \n{CALL}\n", "", [KOELN]),
        (f"```json\n{CALL}\n```", "", [KOELN]),
        (f"[{CALL}, {OTHER}]", "", [KOELN, CLOCK]),
        (f"{CALL}\n{OTHER}", "", [KOELN, CLOCK]),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [KOELN]),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>", "", [KOELN, CLOCK]),
        (f"I look.\n\n<tool_call>\n{CALL}", "I look.", [KOELN]),
        ('{"name": "weather", "parameters": {"town": "Köln"}}', "", [KOELN]),
        ('{"name": "weather", "arguments": "{\\"town\\": \\"Köln\\"}"}', "", [KOELN]),
        ('{"name": "clock"}', "", [CLOCK]),
    ],
)
def test_calls_are_found(text: str, said: str, calls: list[tuple[str, Any]]) -> None:
    """However the text is cut."""
    for pieces in ([text], list(text), [text[i : i + 5] for i in range(0, len(text), 5)]):
        early, late, found = heard(pieces)
        assert (early + late, found) == (said, calls)


@pytest.mark.parametrize(
    "text",
    [
        "Hello there, how are you?",
        "a < b, <tool, <tool_",
        '{"town": "Ulm"}',
        '{"name": "other", "arguments": {}}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": {"x": NaN}}',
        '{"name": ["weather"]}',
        f"{CALL} and that is it",
        f"[{CALL}, 3]",
        "```python\nprint(1)\n```",
        "<tool_call>\nnonsense\n</tool_call>",
        f"<tool_call>{CALL}</tool_call><tool_call>{{</tool_call>",
        "<tool_call></tool_call>",
        "{" * 3000,
        "[" * 7000,
        "",
        "  ",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    for size in (7, len(text) + 1):
        pieces = [text[i : i + size] for i in range(0, min(len(text), 1000 * size), size)]
        early, late, found = heard(pieces)
        assert (early + late, found) == (text, [])


def test_text_before_a_call_does_not_wait() -> None:
    early, late, calls = heard(["Let me ", "see. <to", "ol_call>", CALL])
    assert (early, late, calls) == ("Let me see.", "", [KOELN])
    assert heard(["Let me see ", "it."])[0] == "Let me see it."


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    model = saying("Wait.", "<tool_call>", '{"name": "weather", ', '"arguments": {"town": "Ulm"}}', "</tool_call>")
    made = Live(model, personas(model))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url, api_key="none", max_retries=0) as made:
        yield made


ASKED: Any = {
    "model": "default",
    "messages": [{"role": "user", "content": "rain?"}],
    "tools": [WEATHER],
    "temperature": 0,
}


def test_openai_s_client_gets_a_call(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**ASKED, logprobs=True).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Wait."
    [call] = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"town": "Ulm"}
    assert choice.logprobs and len(choice.logprobs.content or []) == 5
    untold = {name: value for name, value in ASKED.items() if name != "tools"}
    [plain] = client.chat.completions.create(**untold).choices
    assert plain.finish_reason == "stop" and "<tool_call>" in (plain.message.content or "")


def test_openai_s_client_streams_a_call(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASKED, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Wait."
    [call] = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert call.id and call.function and json.loads(call.function.arguments or "") == {"town": "Ulm"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    told: list[Any] = [chunk.model_extra and chunk.model_extra["persona"] for chunk in chunks]
    assert sum(len(one.get("tokens", ())) for one in told) == 5
    with client.chat.completions.stream(**ASKED) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls" and final.message.content == "Wait."
    [made] = final.message.tool_calls or []
    assert json.loads(made.function.arguments) == {"town": "Ulm"}


def test_an_answer_that_was_cut_off_is_not_over(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**ASKED, max_tokens=3).choices
    assert choice.finish_reason == "length" and not choice.message.tool_calls
    assert (choice.message.content or "").startswith("Wait.")


def test_a_tokenizer_s_own_response_template_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its marks may be special tokens, which no text shows."""
    model = saying("<|call|>", '{"name": "weather", ', '"arguments": {"town": "Ulm"}}', special=("<|call|>",))
    model.tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {
                "open": "<|call|>",
                "close": "<|end|>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"content": "text"},
        },
    }
    parse, threads = model.tokenizer.parse_response, list[threading.Thread]()

    def noting(*args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return parse(*args, **options)

    monkeypatch.setattr(model.tokenizer, "parse_response", noting)
    live = Live(model, [])
    try:
        told = live.chat(tools=[WEATHER], temperature=0)["choices"][0]
        unknown = {"type": "function", "function": {"name": "clock"}}
        text = live.chat(tools=[unknown], temperature=0)["choices"][0]
        assert len(threads) == 2 and live._thread not in threads, "others are answered in the meantime"
    finally:
        live.close()
    assert told["finish_reason"] == "tool_calls" and told["message"]["content"] is None
    [call] = told["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"town": "Ulm"})
    assert text["finish_reason"] == "stop" and text["message"]["content"].endswith('"arguments": {"town": "Ulm"}}')
