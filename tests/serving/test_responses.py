"""`/v1/responses` as OpenAI's client meets it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from serving_samples import WEATHER, Live, digits_model, personas, saying

from personavec.model import ChatModel, Request


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return digits_model()


@pytest.fixture(scope="module")
def live(model: ChatModel) -> Iterator[Live]:
    made = Live(model, personas(model))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url, api_key="none", max_retries=0) as made:
        yield made


def test_a_response_is_the_answer_of_a_chat(client: OpenAI, model: ChatModel) -> None:
    answer = client.responses.create(
        model="default", instructions="be kind", temperature=0, max_output_tokens=9,
        input=[
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "12"},
            {"role": "user", "content": [{"type": "input_text", "text": "a "}, {"type": "input_text", "text": "b"}]},
        ],
    )  # fmt: skip
    said = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "12"},
        {"role": "user", "content": "a b"},
    ]
    ids = model.prompt_ids(said)
    assert answer.output_text == model.decode(model.generate([Request(ids, 9, 0.0)])[0].ids)
    assert answer.status == "incomplete" and answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens) == (len(ids), 9)
    persona: Any = answer.model_extra and answer.model_extra["persona"]
    assert len(persona["choices"][0]["tokens"]) == 9


def test_usage_tells_what_was_not_read_again(model: ChatModel) -> None:
    """The last token of a prompt is always read: the answer's first one comes of it."""
    live = Live(model, [])
    try:
        with OpenAI(base_url=live.url, api_key="none", max_retries=0) as client:
            usages = [
                client.responses.create(model="default", input="12 34", max_output_tokens=2).usage for _ in range(2)
            ]
            chat = live.chat("12 34", max_tokens=2, n=2)["usage"]
    finally:
        live.close()
    cached = [usage.input_tokens_details.cached_tokens for usage in usages if usage]
    assert usages[0] and cached == [0, usages[0].input_tokens - 1]
    assert chat["prompt_tokens_details"] == {"cached_tokens": cached[1]} and chat["prompt_tokens"] == cached[1] + 1
    assert chat["total_tokens"] == chat["prompt_tokens"] + chat["completion_tokens"]


def test_a_stream_has_the_events_of_the_client(client: OpenAI) -> None:
    asked: Any = {
        "model": "default+evil-0.5",
        "input": "hello",
        "max_output_tokens": 6,
        "temperature": 0,
        "metadata": {"a": "b"},
    }
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events[4:-4]) == whole.output_text == events[-1].response.output_text
    assert events[-1].response.metadata == {"a": "b"}
    assert events[0].model_extra["persona"]["steering"] == ["evil -0.5"]


def test_functions_are_called_and_told_what_came_of_it() -> None:
    said = ("Wait.", "<tool_call>", '{"name": "weather", ', '"arguments": {"town": "Ulm"}}', "</tool_call>")
    tool: Any = {"type": "function", **WEATHER["function"]}
    for pieces in (said, said[1:]):
        model = saying(*pieces)
        live = Live(model, [])
        try:
            with OpenAI(base_url=live.url, api_key="none", max_retries=0) as client:
                asked: Any = {"model": "default", "tools": [tool], "temperature": 0}
                answer = client.responses.create(**asked, input="rain?")
                *message, call = answer.output
                assert call.type == "function_call" and json.loads(call.arguments) == {"town": "Ulm"}
                assert [one.type for one in message] == ["message"] * (len(pieces) - 4)
                events: list[Any] = list(client.responses.create(**asked, input="rain?", stream=True))
                done = [event for event in events if event.type == "response.function_call_arguments.done"]
                assert [(one.output_index, one.arguments) for one in done] == [(len(message), call.arguments)]
                assert events[-1].type == "response.completed"
                with client.responses.stream(**asked, input="rain?") as stream:
                    assert stream.get_final_response().output_text == answer.output_text
                items: Any = [
                    {"role": "user", "content": "rain?"},
                    *[one.model_dump(exclude_none=True) for one in answer.output],
                    {"type": "function_call_output", "call_id": call.call_id, "output": "no"},
                ]
                after = client.responses.create(**asked, input=items)
        finally:
            live.close()
        function = {"name": "weather", "arguments": {"town": "Ulm"}}
        read: list[dict[str, Any]] = [
            {"role": "user", "content": "rain?"},
            {"role": "assistant", "content": answer.output_text, "tool_calls": [
                {"id": call.call_id, "type": "function", "function": function}]},
            {"role": "tool", "content": "no", "tool_call_id": call.call_id},
        ]  # fmt: skip
        assert after.usage and after.usage.input_tokens == len(model.template.prompt_ids(read, [WEATHER]))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "keeps no responses"),
        ({"conversation": "conv_1"}, "conversation", "keeps no responses"),
        ({"prompt": {"id": "p"}}, "prompt", "keeps no responses"),
        ({"store": True}, "store", "keeps no responses"),
        ({"background": True}, "background", "False"),
        ({"tools": [{"type": "web_search"}]}, "tools.0", "of type function"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "function_call_output"),
        ({"input": [{"role": "robot", "content": "x"}], "instructions": "y"}, "input.0.role", "must be one of"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", "input_text"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input.0", "call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0", "call_id"),
        ({"input": [{"role": "user", "content": "x", "name": "y"}]}, "input.0.name", "unknown"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]},
            "input.0.content.0.y",
            "unknown",
        ),
        ({"input": [{"type": ["message"]}]}, "input.0.type", "must be"),
        ({"input": []}, "input", "holds nothing"),
        ({"max_output_tokens": 600}, "max_output_tokens", "tokens in the model's context of 512"),
        ({"persona": {"steer": {"kind": 1}}}, "persona.steer", "no vector"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "Unknown field"),
    ],
)
def test_what_is_not_kept_or_known_is_refused(live: Live, fields: Any, param: str, message: str) -> None:
    status, told, _ = live.ask("POST", "/v1/responses", {"input": "hello", **fields})
    assert (status, told["error"]["param"]) == (400, param)
    assert message in told["error"]["message"]


def test_the_client_knows_a_refusal(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="default", input="hello", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
