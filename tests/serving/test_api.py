"""The server as clients meet it, on a socket of this machine."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from serving_samples import TOOLS, WEATHER, Live, digits_model, halted, personas

from personavec.errors import UserError
from personavec.interventions import interventions, steering
from personavec.model import ChatModel, Request
from personavec.monitoring import project
from personavec.operations import CAP, OPERATIONS
from personavec.serving import api
from personavec.serving.bodies import PersonaBody
from personavec.serving.persona import Cast
from personavec.serving.readings import WINDOW
from personavec.vector import PersonaVector
from tiny import causal_model, qwen2, tokenizer


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return digits_model()


@pytest.fixture(scope="module")
def vectors(model: ChatModel) -> list[PersonaVector]:
    return personas(model)


@pytest.fixture(scope="module")
def live(model: ChatModel, vectors: list[PersonaVector]) -> Iterator[Live]:
    made = Live(model, vectors)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url, api_key="none", max_retries=0) as made:
        yield made


SAID: Any = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello there"}]


def answered(model: ChatModel, edits: Any = (), count: int = 8, said: Any = None, **options: Any) -> str:
    """What the model itself answers."""
    request = Request(model.prompt_ids(said or SAID), count, interventions=edits, **options)
    return model.decode(model.generate([request])[0].ids)


def test_a_chat_and_its_readings_are_those_of_monitor(
    client: OpenAI, model: ChatModel, vectors: list[PersonaVector]
) -> None:
    answer = client.chat.completions.create(model="default", messages=SAID, max_tokens=40, seed=5)
    text = answer.choices[0].message.content
    assert text == answered(model, count=40, seed=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        len(model.prompt_ids(SAID)), 40
    )  # fmt: skip
    persona: Any = answer.model_extra and answer.model_extra["persona"]
    [[seen]] = project(model, [[*SAID, {"role": "assistant", "content": text}]], vectors)
    told = persona["choices"][0]
    for trait, expected in seen.items():
        assert told["prompt"][trait]["value"] == pytest.approx(expected.before, abs=1e-4)
        assert told["summary"][trait]["mean"] == pytest.approx(expected.during, abs=1e-4)
        assert told["prompt"][trait]["z"] == pytest.approx(expected.before_z, abs=2e-4)
        assert told["summary"][trait]["z"] == pytest.approx(expected.during_z, abs=2e-4)
    assert told["summary"]["humorous"]["z"] is None  # its file has no neutral statistics
    values = [token["evil"] for token in told["tokens"]]
    windows = [sum(values[i : i + WINDOW]) / WINDOW for i in range(len(values) - WINDOW + 1)]
    assert len(values) == 40
    assert told["summary"]["evil"]["max"] == pytest.approx(max(windows), abs=1e-5)


def test_a_stream_tells_the_same(client: OpenAI, live: Live, model: ChatModel, vectors: list[PersonaVector]) -> None:
    """The prompt's reading with the role, tokens' with the text, the summary with the end."""
    persona = {"steer": {"evil": 0.5, "humorous": -0.2}, "cap": {"evil": 1.0}, "monitor": ["evil"], "id": "mine.1"}
    chunks = list(
        client.chat.completions.create(
            model="default", messages=SAID, max_completion_tokens=20, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"persona": persona},
        )
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    edits = [*steering(vectors[0], 0.5), *steering(vectors[1], -0.2), *interventions(CAP, vectors[0], 1.0)]
    assert text == answered(model, edits, 20, temperature=0.0)
    said: list[Any] = [chunk.model_extra and chunk.model_extra.get("persona") for chunk in chunks]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert set(said[0]["prompt"]) == {"evil"}
    assert said[0]["steering"] == ["evil +0.5", "humorous -0.2", "evil capped at +1 deviations of neutral tokens"]
    assert sum(len(one["tokens"]) for one in said[1:-2]) == 20
    assert chunks[-2].choices[0].finish_reason == "length" and set(said[-2]["summary"]) == {"evil"}
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 20
    status, record, _ = live.ask("GET", "/v1/persona/readings/mine.1")
    assert status == 200
    assert record["choices"][0]["tokens"] == [token for one in said[1:-2] for token in one["tokens"]]
    assert (record["choices"][0]["prompt"], record["choices"][0]["summary"]) == (said[0]["prompt"], said[-2]["summary"])


@pytest.mark.parametrize("continuous", [False, True])
def test_a_stream_tells_its_usage_on_the_way_if_asked(live: Live, client: OpenAI, continuous: bool) -> None:
    """Every chunk has as many tokens as have come, of both answers; the last one has what all have."""
    options: Any = {"include_usage": True, "continuous_usage_stats": continuous}
    chunks = list(
        client.chat.completions.create(
            model="default", messages=SAID, max_completion_tokens=6, n=2, stream=True, stream_options=options
        )
    )
    told = [chunk.usage and chunk.usage.completion_tokens for chunk in chunks]
    assert told[-1] == 12 and chunks[-1].choices == []
    if continuous:
        texts = [bool(chunk.choices[0].delta.content) for chunk in chunks[:-1]]
        assert told[:-1] == [sum(texts[: at + 1]) for at in range(len(texts))]
    else:
        assert set(told[:-1]) == {None}


def test_reading_nothing_tells_nothing_and_changes_no_token(live: Live) -> None:
    plain, read = live.chat(seed=3, persona={"monitor": []}), live.chat(seed=3)
    assert "persona" not in plain and "persona" in read
    assert plain["choices"] == read["choices"]


def test_names_of_models_and_a_header_steer_too(
    live: Live, client: OpenAI, model: ChatModel, vectors: list[PersonaVector]
) -> None:
    """What is more special goes before: the field, then the header, then the name."""
    said = [{"role": "user", "content": "hello"}]
    names = [one.id for one in client.models.list()]
    assert names == ["default", "default+evil-1", "default+evil+1", "default+humorous-1", "default+humorous+1"]
    assert client.models.retrieve("default+evil-0.75").id == "default+evil-0.75"
    both = [*steering(vectors[0], -1.0), *steering(vectors[1], 0.5)]
    alias = live.chat(model="default+evil-1+humorous+0.5", temperature=0)
    assert alias["choices"][0]["message"]["content"] == answered(model, both, said=said, temperature=0.0)
    body = {"messages": said, "max_tokens": 8, "temperature": 0, "model": "digits+evil-1"}
    header = {"X-Persona-Steer": "evil=2, humorous=0.5"}
    _, told, _ = live.ask("POST", "/v1/chat/completions", {**body, "persona": {"steer": {"evil": -1.0}}}, header)
    assert told["persona"]["steering"] == ["evil -1", "humorous +0.5"]
    assert told["choices"][0]["message"]["content"] == alias["choices"][0]["message"]["content"]
    for wrong in ("evil", "evil=1, evil=2"):
        assert live.ask("POST", "/v1/chat/completions", body, {"X-Persona-Steer": wrong})[0] == 400
    several = {"X-Persona-Steer": "evil=2,", "x-persona-steer": "", "X-PERSONA-STEER": "humorous=0.5"}
    told = live.ask("POST", "/v1/chat/completions", body, several)[1]
    assert told["persona"]["steering"] == ["evil +2", "humorous +0.5"]
    twice = {"X-Persona-Steer": "evil=1", "x-persona-steer": "evil=1"}
    status, refused, _ = live.ask("POST", "/v1/chat/completions", body, twice)
    assert (status, refused["error"]["param"]) == (400, "X-Persona-Steer") and "evil twice" in refused["error"][
        "message"
    ]
    assert live.ask("POST", "/v1/chat/completions", {**body, "model": "default+evil-1+evil+1"})[0] == 404


def test_defaults_of_the_server_act_until_a_request_says_otherwise(
    model: ChatModel, vectors: list[PersonaVector]
) -> None:
    live = Live(model, vectors, {"steer": {"evil": -1.0}, "cap": {"evil": 2.0}, "ablate": {"humorous": None}})
    try:
        words = [
            live.chat(persona=persona)["persona"]["steering"]
            for persona in ({}, {"steer": {"evil": 0}, "cap": {"evil": None}}, {"steer": {"humorous": 1}, "ablate": []})
        ]
    finally:
        live.close()
    capped = "evil capped at +2 deviations of neutral tokens"
    assert words == [
        ["evil -1", "humorous ablated", capped],
        ["humorous ablated"],
        ["evil -1", "humorous +1", capped],
    ]


def test_a_default_that_cannot_be_is_refused_in_the_command_s_own_words(
    model: ChatModel, vectors: list[PersonaVector]
) -> None:
    with pytest.raises(UserError, match=r"^steer: there is no vector of the trait 'kind'\. Served are: evil, humorous"):
        Cast(model, vectors, {"steer": {"kind": -1.0}})


@pytest.fixture(scope="module")
def held(model: ChatModel, vectors: list[PersonaVector]) -> Iterator[Live]:
    """A server whose requests may not steer."""
    made = Live(model, vectors, {"steer": {"evil": -1.0}}, client_steering=False)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"persona": {"steer": {"humorous": 1}}}, {}, "persona.steer"),
        ({"persona": {"steer": {"evil": 0}}}, {}, "persona.steer"),  # the server's own is not turned off, either
        ({"persona": {"ablate": []}}, {}, "persona.ablate"),
        ({"persona": {"cap": {"evil": 1}, "monitor": []}}, {}, "persona.cap"),
        ({"persona": {"floor": {"evil": None}}}, {}, "persona.floor"),
        ({"persona": {"when": {"evil": ">3"}}}, {}, "persona.when"),
        ({}, {"X-Persona-Steer": "evil=1"}, "X-Persona-Steer"),
        ({"model": "default+evil-1.5"}, {}, "model"),
    ],
)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("completions", {"prompt": "hello"}),
        ("responses", {"input": "hello"}),
    ],
)
def test_requests_that_steer_are_refused_where_they_may_not(
    held: Live, path: str, said: Any, fields: Any, headers: Any, param: str
) -> None:
    status, told, _ = held.ask("POST", f"/v1/{path}", {**said, **fields}, headers)
    assert (status, told["error"]["param"]) == (403, param)
    assert "may not steer (it runs without `client_steering`)" in told["error"]["message"]


def test_others_are_answered_as_the_server_steers_and_read(
    held: Live, model: ChatModel, vectors: list[PersonaVector]
) -> None:
    persona = {"monitor": ["evil"], "id": "read", "conversation": "one"}
    told = held.chat(temperature=0, persona=persona)
    said = [{"role": "user", "content": "hello"}]
    assert told["choices"][0]["message"]["content"] == answered(
        model, steering(vectors[0], -1.0), said=said, temperature=0.0
    )
    assert told["persona"]["steering"] == ["evil -1"] and "evil" in told["persona"]["choices"][0]["summary"]
    assert [one["id"] for one in held.ask("GET", "/v1/models")[1]["data"]] == ["default"]
    assert held.ask("GET", "/v1/models/default+evil-1")[0] == 403
    assert held.ask("GET", "/v1/persona/vectors")[1]["client_steering"] is False


def test_several_answers_their_seeds_and_log_probabilities(client: OpenAI, model: ChatModel) -> None:
    answer = client.chat.completions.create(
        model="default", messages=SAID, max_tokens=6, seed=9, n=3, logprobs=True, top_logprobs=2
    )
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [answered(model, count=6, seed=9 + i) for i in range(3)]
    for choice in answer.choices:
        content = (choice.logprobs and choice.logprobs.content) or []
        assert "".join(one.token for one in content) == choice.message.content
        assert all(len(one.top_logprobs) == 2 and one.logprob <= one.top_logprobs[0].logprob for one in content)


def test_completions_are_not_put_into_the_template(client: OpenAI, model: ChatModel) -> None:
    prompts = ["the model answers", "hello there"]
    answer = client.completions.create(model="default", prompt=prompts, max_tokens=5, seed=2, n=2, logprobs=1)
    expected = [
        model.decode(model.generate([Request(model.tokenizer(text)["input_ids"], 5, 1.0, 2 + 2 * place + i)])[0].ids)
        for place, text in enumerate(prompts)
        for i in range(2)
    ]
    assert [choice.text for choice in answer.choices] == expected
    logprobs = answer.choices[3].logprobs
    assert logprobs and logprobs.tokens == list(expected[3]) and logprobs.text_offset == [0, 1, 2, 3, 4]
    ids = client.completions.create(model="default", prompt=[5, 6, 7], max_tokens=5, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text for chunk in ids)
    assert text == model.decode(model.generate([Request([5, 6, 7], 5, 0.0)])[0].ids)


def test_stop_strings(client: OpenAI, model: ChatModel) -> None:
    whole = answered(model, count=30, seed=1)
    stop = whole[4:6]
    answer = client.chat.completions.create(model="default", messages=SAID, max_tokens=30, seed=1, stop=[stop, "x"])
    assert answer.choices[0].message.content == whole.partition(stop)[0]
    assert answer.choices[0].finish_reason == "stop"


def test_tools_and_parts_go_through_the_template() -> None:
    model = ChatModel(causal_model(qwen2()), tokenizer(TOOLS), "calls")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "rain "}, {"type": "text", "text": "today?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
    ]
    read: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "rain today?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {**call, "function": {"name": "weather", "arguments": {"town": "Ulm"}}}]},
        {"role": "tool", "content": "no", "tool_call_id": "c1"},
    ]  # fmt: skip
    live = Live(model, [])
    try:
        body = {"messages": messages, "max_tokens": 1}
        for choice, tools in (("auto", [WEATHER]), ("none", [])):
            _, told, _ = live.ask("POST", "/v1/chat/completions", {**body, "tools": [WEATHER], "tool_choice": choice})
            assert told["usage"]["prompt_tokens"] == len(model.template.prompt_ids(read, tools))
    finally:
        live.close()


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


HELLO: Any = [{"role": "user", "content": "hello"}]
REFUSED: list[tuple[Any, str | None, str]] = [
    ({"messages": HELLO, "best_of": 2}, "best_of", "Unknown field best_of. Known are model,"),
    ({"messages": HELLO, "presence_penalty": 0.5}, "presence_penalty", "presence_penalty"),
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format.type", "text"),
    ({"messages": HELLO, "tool_choice": "required"}, "tool_choice", "auto"),
    ({"messages": HELLO, "tools": [WEATHER]}, "tools", "no place for tools"),
    ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools.0", "has a name"),
    ({"messages": HELLO, "max_tokens": 0}, "max_tokens", "max_tokens"),
    ({"messages": HELLO, "max_tokens": True}, "max_tokens", "valid integer"),
    ({"messages": HELLO, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differ"),
    ({"messages": HELLO, "max_tokens": 600}, "max_tokens", "tokens in the model's context of 512"),
    ({"messages": HELLO, "max_completion_tokens": 600}, "max_completion_tokens", "leaves room for"),
    (
        {"messages": [{"role": "user", "content": "1 " * 600}], "max_tokens": 6},
        "messages",
        "exceed the model's context",
    ),
    ({"messages": HELLO, "temperature": "1"}, "temperature", "valid number"),
    ({"messages": HELLO, "temperature": -0.1}, "temperature", "greater"),
    ({"messages": HELLO, "top_p": 1.5}, "top_p", "less"),
    ({"messages": HELLO, "stop": ""}, "stop", "at least 1 character"),
    ({"messages": HELLO, "top_logprobs": 2}, "top_logprobs", "logprobs"),
    ({"messages": HELLO, "n": 33}, "n", "room for 32"),
    ({"messages": HELLO, "persona": {"steer": {"evil": True}}}, "persona.steer.evil", "valid number"),
    ({"messages": HELLO, "persona": {"steer": {"evil": 1e9}}}, "persona.steer.evil", "nothing of them is left"),
    ({"messages": HELLO, "persona": {"steer": {"kind": 1}}}, "persona.steer", "Served are: evil, humorous"),
    ({"messages": HELLO, "persona": {"cap": {"humorous": 1}}}, "persona.cap.humorous", "no neutral statistics"),
    ({"messages": HELLO, "persona": {"monitor": ["kind"]}}, "persona.monitor", "no vector of the trait 'kind'"),
    ({"messages": HELLO, "persona": {"when": {"evil": ">3"}}}, "persona.when", "nothing is done"),
    ({"messages": HELLO, "persona": {"stear": {"evil": 1}}}, "persona.stear", "Known are steer, ablate"),
    ({"messages": HELLO, "persona": {"id": "../x"}}, "persona.id", "pattern"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "user"}]}, "messages", "content"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "must be one of"),
    ({"messages": [{"role": "user", "content": "x", "audio": 1}]}, "messages.0.audio", "may hold"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "only text"),
    ({}, "messages", "required"),
    ([], None, "JSON object"),
    (b"{", None, "not valid JSON"),
    (b'{"temperature": NaN}', None, "NaN is not finite"),
    (b'{"temperature": 1e999}', None, "not finite"),
    (b'{"n": 1, "n": 2}', None, "twice"),
    (b'{"user": "\\ud800"}', None, "surrogate"),
    (b'{"user": "\xff"}', None, "not valid JSON"),
    (b'{"seed": ' + b"9" * 5000 + b"}", None, "not valid JSON"),
    (nested(100), None, "levels deep"),
    (nested(100_000), None, "levels deep"),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED)
def test_what_a_request_may_not_be(live: Live, body: Any, param: str | None, message: str) -> None:
    status, told, _ = live.ask("POST", "/v1/chat/completions", body)
    assert status == 400
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["param"] == param
    assert message in told["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/v1/chat/completions", {"messages": HELLO, "model": "gpt"}, {}, 404),
        ("POST", "/v1/chat/completions", {"messages": HELLO}, {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/chat/completions", b" " * (api.LARGEST + 1), {}, 413),
        ("POST", "/v1/chat/completions", None, {"Content-Length": "100000000"}, 413),
        ("POST", "/v1/completions", {"prompt": [1, 100000]}, {}, 400),
        ("POST", "/v1/completions", {"prompt": []}, {}, 400),
        ("POST", "/v1/completions", {"prompt": ["x"] * 65}, {}, 400),
        ("POST", "/v1/completions", {"prompt": ""}, {}, 400),
        ("GET", "/v1/models/gpt", None, {}, 404),
        ("GET", "/v1/chat/completions", None, {}, 405),
        ("GET", "/v1/persona/readings/none", None, {}, 404),
        ("GET", "/nowhere", None, {}, 404),
        ("GET", "/health", None, {"Host": "evil.example"}, 403),
    ],
)
def test_refusals_have_one_shape(
    live: Live, method: str, path: str, body: Any, headers: Mapping[str, str], status: int
) -> None:
    found, told, _ = live.ask(method, path, body, headers)
    assert found == status
    assert told["error"]["message"]


def test_openai_s_client_knows_a_refusal(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="default", messages=HELLO, extra_body={"persona": {"steer": {"kind": 1}}})
    assert refused.value.param == "persona.steer"


def test_keys(model: ChatModel) -> None:
    live = Live(model, [], keys=["one-key", "another"], hosts=None)
    try:
        asked = [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "another"},
            {"Authorization": "Bearer another"},
        ]
        assert [live.ask("GET", "/v1/models", headers=one)[0] for one in asked] == [401, 401, 401, 200]
        assert live.ask("GET", "/metrics")[0] == 401
        status, _, headers = live.ask("GET", "/health", headers={"Origin": "http://x", "Host": "anything"})
        assert status == 200
        assert not [name for name in headers if name.lower().startswith("access-control")]
    finally:
        live.close()


def test_what_is_kept_of_one_key_is_nothing_to_another(model: ChatModel) -> None:
    """Neither its prompts, which the clock and `cached_tokens` would tell of, nor its readings."""
    live = Live(model, [], keys=["one", "another"], hosts=None)

    def cached(key: str) -> int:
        body = {"messages": [{"role": "user", "content": "12 34"}], "max_tokens": 2, "persona": {"id": "mine"}}
        status, told, _ = live.ask("POST", "/v1/chat/completions", body, headers={"Authorization": f"Bearer {key}"})
        assert status == 200
        return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])

    def found(key: str) -> int:
        return int(live.ask("GET", "/v1/persona/readings/mine", headers={"Authorization": f"Bearer {key}"})[0])

    try:
        first = cached("one")
        assert [found("one"), found("another")] == [200, 404]
        counts = [first, *(cached(key) for key in ("another", "one", "another"))]
        assert counts[:2] == [0, 0] and counts[2] == counts[3] > 0
        assert [found("one"), found("another")] == [200, 200], "an id that both use is each one's own"
    finally:
        live.close()


def test_a_full_queue_says_when_to_come_again(model: ChatModel) -> None:
    """Whoever hangs up, with an answer on its way or in the queue, frees the place."""
    live = Live(model, [], places=1, queue=1)
    body = {"messages": HELLO, "max_tokens": 400, "stream": True}
    try:
        with halted(model) as (begun, going):
            streams = [opened(live, body)]
            assert begun.wait(60)
            streams.append(opened(live, body))
            while not live.service.loop.waiting:
                time.sleep(0.001)
            status, told, headers = live.ask("POST", "/v1/chat/completions", {**body, "stream": False})
            assert status == 429
            assert told["error"]["type"] == "rate_limit_error" and int(headers["retry-after"]) >= 1
            for stream in streams:
                stream.close()
            while not all(job.cancelled for one in live.service.records.values() for job in one.jobs):
                time.sleep(0.001)
            going.set()
            assert live.chat(max_tokens=3)["usage"]["completion_tokens"] == 3
        assert [one.choices[0].finish for one in live.service.records.values()] == [None, None, "length"]
    finally:
        live.close()


def test_an_answer_in_one_piece_ends_when_its_client_hangs_up(live: Live, model: ChatModel) -> None:
    with halted(model) as (begun, going):
        made = opened(live, {"messages": HELLO, "max_tokens": 480})
        assert begun.wait(60)
        made.close()
        exchange = list(live.service.records.values())[-1]
        while not exchange.jobs[0].cancelled:
            time.sleep(0.001)
        going.set()
        assert live.chat(max_tokens=3)["usage"]["completion_tokens"] == 3
        assert exchange.choices[0].finish is None


def opened(live: Live, body: Any) -> socket.socket:
    """A request on a connection of its own, whose answer nobody reads yet."""
    raw = json.dumps(body).encode()
    made = socket.create_connection(("127.0.0.1", live.port), timeout=60)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(raw)}", "", ""])
    made.sendall(head.encode() + raw)
    return made


def test_stopping_lets_answers_come_to_their_end(model: ChatModel) -> None:
    live = Live(model, [])
    made = opened(live, {"messages": HELLO, "max_tokens": 100, "stream": True})
    read = made.recv(1000)
    live.close()
    while part := made.recv(100_000):
        read += part
    assert b"data: [DONE]" in read
    assert not live.service.loop.alive


def test_metrics_count(live: Live) -> None:
    def figures() -> dict[str, float]:
        lines = live.ask("GET", "/metrics")[1].splitlines()
        return {key: float(value) for line in lines if line[0] != "#" for key, _, value in [line.rpartition(" ")]}

    before = figures()
    live.chat(persona={"steer": {"evil": 1}}, max_tokens=5)
    live.ask("POST", "/v1/chat/completions", b"{")
    after = figures()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    ok = 'personavec_requests_total{endpoint="/v1/chat/completions",status="%d"}'
    assert (grown[ok % 200], grown[ok % 400]) == (1, 1)
    assert grown['personavec_tokens_total{kind="completion"}'] == 5
    assert grown['personavec_steered_requests_total{operation="steer",trait="evil"}'] == 1
    assert grown['personavec_projection_z_count{steered="yes",trait="evil"}'] == 1
    assert grown["personavec_time_to_first_token_seconds_count"] == 1
    assert after["personavec_running_responses"] == 0


def test_readings_of_old_requests_go(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RECORDS", 3)
    ids = [live.chat(max_tokens=1)["persona"]["id"] for _ in range(5)]
    assert [id for _, id in live.service.records] == ids[-3:]


def test_readings_of_many_tokens_go_before_their_time(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    long = live.chat(max_tokens=30)["persona"]["id"]
    monkeypatch.setattr(api, "RECORDED", live.service.records[0, long].kept + 5)
    ids = [live.chat(max_tokens=1)["persona"]["id"] for _ in range(2)]
    assert (0, long) not in live.service.records and list(live.service.records)[-1] == (0, ids[-1])


def test_requests_know_every_operation() -> None:
    assert {operation.option for operation in OPERATIONS.values()} <= set(PersonaBody.model_fields)


def test_the_description_of_the_api_is_whole(live: Live) -> None:
    status, told, _ = live.ask("GET", "/openapi.json")
    assert status == 200
    text = json.dumps(told)
    for name in ("ChatBody", "CompletionBody", "ResponsesBody", "PersonaBody"):
        assert f'"#/components/schemas/{name}"' in text and name in told["components"]["schemas"]
