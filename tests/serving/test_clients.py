"""Clients of others that sit on OpenAI's API, where they are installed; OpenAI's own is in every other file.

`clients.mjs` does the same with OpenAI's client for node and the AI SDK.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from serving_samples import WEATHER, Live, personas, saying

SAID = ("Wait.", "<tool_call>", '{"name": "weather", ', '"arguments": {"town": "Ulm"}}', "</tool_call>")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    model = saying(*SAID)
    made = Live(model, personas(model))
    yield made
    made.close()


def persona(id: str) -> dict[str, Any]:
    return {"persona": {"steer": {"evil": 0.0, "humorous": 0.001}, "monitor": ["evil"], "id": id}}


def kept(live: Live, id: str) -> Any:
    """Readings that a client which drops unknown fields asks for afterwards."""
    status, told, _ = live.ask("GET", f"/v1/persona/readings/{id}")
    assert status == 200
    return told


def test_langchain(live: Live) -> None:
    langchain: Any = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    chat = langchain.ChatOpenAI(
        base_url=live.url, api_key="none", model="default", temperature=0, max_retries=0, extra_body=persona("chain-1")
    )
    assert chat.invoke("rain?").content == "".join(SAID)
    assert kept(live, "chain-1")["steering"] == ["humorous +0.001"]
    streamed = [chunk.content for chunk in chat.stream("rain?")]
    assert "".join(streamed) == "".join(SAID) and len(streamed) > 3
    bound = chat.bind_tools([WEATHER])
    for message in (bound.invoke("rain?"), sum_of(bound.stream("rain?"))):
        [call] = message.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"town": "Ulm"})
    assert len(kept(live, "chain-1")["choices"][0]["tokens"]) == len(SAID)
    answers = langchain.ChatOpenAI(
        base_url=live.url, api_key="none", model="default", temperature=0, max_retries=0, use_responses_api=True
    )
    assert answers.invoke("rain?").text == "".join(SAID)


def sum_of(chunks: Iterator[Any]) -> Any:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


def test_litellm(live: Live) -> None:
    litellm: Any = pytest.importorskip("litellm", reason="pip install litellm")
    asked: dict[str, Any] = {
        "model": "openai/default", "api_base": live.url, "api_key": "none", "temperature": 0, "max_retries": 0,
        "messages": [{"role": "user", "content": "rain?"}], "extra_body": persona("lite-1"),
    }  # fmt: skip
    answer = litellm.completion(**asked)
    assert answer.choices[0].message.content == "".join(SAID)
    assert answer.persona["choices"][0]["summary"]["evil"]["mean"] == pytest.approx(
        kept(live, "lite-1")["choices"][0]["summary"]["evil"]["mean"]
    )
    chunks = list(litellm.completion(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(SAID)
    assert any(getattr(chunk, "persona", None) for chunk in chunks)
    called = litellm.completion(**asked, tools=[WEATHER]).choices[0]
    assert called.finish_reason == "tool_calls"
    assert json.loads(called.message.tool_calls[0].function.arguments) == {"town": "Ulm"}
