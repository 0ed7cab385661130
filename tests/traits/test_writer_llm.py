"""The LLM writer against a small local endpoint that behaves well and badly."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from personavec.errors import UserError
from personavec.traits import write_offline, write_with_llm

Reply = tuple[int, Any] | None  # status and JSON body (text: sent as it is); None: never answers


class Endpoint(ThreadingHTTPServer):
    """Sends the scripted replies one after the other (the last one for ever) and keeps the requests."""

    daemon_threads = True
    block_on_close = False  # a handler that never answers must not hold up the end of the test

    def __init__(self, replies: list[Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = replies
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.keys.append(self.headers["authorization"])
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply is None:
            self.server.over.wait(10)
            return
        status, body = reply
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if body == "<html>" else "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    started: list[Endpoint] = []

    def start(*replies: Reply) -> Endpoint:
        endpoint = Endpoint(list(replies))
        threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(endpoint)
        return endpoint

    yield start
    for endpoint in started:
        endpoint.over.set()
        endpoint.shutdown()
        endpoint.server_close()


def trait_json(**changes: Any) -> str:
    """What a good model answers."""
    fields = write_offline("pirate", "Talks like a pirate.").model_dump(mode="json")
    kept = ("instructions", "extraction_questions", "evaluation_questions", "rubric")
    return json.dumps({key: fields[key] for key in kept} | {"opposite": "landlubberly"} | changes)


def says(text: str | None, finish: str = "stop") -> Reply:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def write(endpoint: Endpoint, **settings: Any) -> Any:
    return write_with_llm("pirate", "Talks like a pirate.", model="m", base_url=endpoint.url, **settings)


def test_a_good_answer_becomes_a_trait(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says(f"Here you are:\n```json\n{trait_json(name='other')}\n```"))
    trait = write(endpoint)
    trait.check_complete()
    assert (trait.name, trait.description) == ("pirate", "Talks like a pirate.")
    assert (trait.opposite, trait.writer) == ("landlubberly", "llm:m")
    assert endpoint.keys == ["Bearer secret-key"]
    (request,) = endpoint.requests
    prompt = request["messages"][0]["content"]
    assert "Trait: pirate\nDescription: Talks like a pirate." in prompt
    assert "{question} and {answer}" in prompt


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (says("Sorry, no."), "holds no JSON object"),
        (says('{"instructions": ['), "holds no JSON object"),
        (says('{"instructions": [}'), "not valid JSON"),
        (says(trait_json(), finish="length"), "cut off"),
        (says(None), "holds no JSON object"),
        (says(trait_json(rubric="{question}")), "rubric: the slot {answer} is missing"),
        (says(trait_json(extraction_questions=["Why?"])), "extraction_questions has 1 entries, not 20"),
        (says(trait_json(evaluation_questions=["Are you a pirate?"])), '"Are you a pirate?" names the trait'),
        (says(trait_json(notes="!")), "notes: a trait has no such field"),
    ],
)
def test_a_bad_answer_goes_back_with_what_is_wrong(serve: Callable[..., Endpoint], bad: Reply, complaint: str) -> None:
    endpoint = serve(bad, says(trait_json()))
    assert write(endpoint).name == "pirate"
    first, second = endpoint.requests
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][0] == first["messages"][0]
    assert complaint in second["messages"][2]["content"]


def test_it_gives_up_after_the_last_attempt(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says("no"))
    with pytest.raises(UserError, match="no usable trait in 3 attempts") as error:
        write(endpoint)
    assert len(endpoint.requests) == 3
    assert "offline" in error.value.advice


def test_an_endpoint_without_response_formats(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve((400, {"error": {"message": "response_format is unknown"}}), says(trait_json()))
    assert write(endpoint).name == "pirate"
    assert ["response_format" in request for request in endpoint.requests] == [True, False]


@pytest.mark.parametrize(
    ("reply", "part", "requests"),
    [
        ((401, {"error": {"message": "bad key"}}), "refused the key (status 401: bad key)", 1),
        ((403, {"error": {"message": "no"}}), "refused the key (status 403: no)", 1),
        ((404, {"error": {"message": "no model"}}), "knows no model 'm' (status 404: no model)", 1),
        ((400, {"error": {"message": "too long"}}), "answered with status 400: too long", 2),
        ((429, {"error": {"message": "slow down"}}), "at its rate limit (status 429: slow down)", 3),
        ((500, {"error": {"message": "oh"}}), "answered with status 500: oh", 3),
        ((402, {"error": {"message": "pay"}}), "quota is used up (status 402: pay)", 1),
        ((200, {"error": {"message": "no credit", "code": 402}}), "quota is used up (error 402: no credit)", 1),
        ((200, {"error": "being loaded"}), "answered with error: being loaded", 1),
        ((200, {"choices": [{"finish_reason": "error", "error": {"message": "down", "code": 502}}]}), "502: down", 1),
        ((200, {"detail": "no such page"}), "as an OpenAI-compatible endpoint does: no such page", 1),
        ((200, {"weather": "fine"}), "does not answer as an OpenAI-compatible endpoint", 1),
        ((200, {"choices": []}), "does not answer as an OpenAI-compatible endpoint", 1),
        ((200, {"choices": [7]}), "does not answer as an OpenAI-compatible endpoint", 1),
        ((200, "{broken"), "does not answer as an OpenAI-compatible endpoint", 1),
        ((200, "<html>"), "does not answer as an OpenAI-compatible endpoint", 1),
        (None, "gave no answer within 0.2 s, 3 times", 3),
    ],
)
def test_each_failure_has_its_message(serve: Callable[..., Endpoint], reply: Reply, part: str, requests: int) -> None:
    endpoint = serve(reply)
    with pytest.raises(UserError) as error:
        write(endpoint, timeout=0.2 if reply is None else 20)
    assert part in error.value.problem
    assert "secret-key" not in str(error.value)
    assert error.value.advice
    assert len(endpoint.requests) == requests


def test_nobody_there(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(None)
    url = endpoint.url.replace("127.0.0.1", "user:pass@127.0.0.1")
    endpoint.shutdown()
    endpoint.server_close()
    with pytest.raises(UserError, match=r"Cannot reach http://127\.0\.0\.1") as error:
        write_with_llm("pirate", "Talks like a pirate.", model="m", base_url=url)
    assert "pass" not in error.value.problem


def test_keys(serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(UserError, match="no key has"):
        write_with_llm("pirate", "Talks like a pirate.", model="m")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        write_with_llm("pirate", "Talks like a pirate.", model="m")
    endpoint = serve(says(trait_json()))  # an endpoint of one's own needs no key
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    assert write_with_llm("pirate", "Talks like a pirate.", model="m").writer == "llm:m"


def test_an_empty_description_costs_nothing(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says(trait_json()))
    with pytest.raises(UserError, match="description of the trait pirate is empty"):
        write_with_llm("pirate", " ", model="m", base_url=endpoint.url)
    assert not endpoint.requests
