"""What is logged of answers, which of them alarm, and who is told."""

import http.client
import http.server
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from serving_samples import Live, digits_model, personas

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.serving.delivery import WAITING, Delivery, to_address, to_file
from personavec.serving.observer import Observed, Observer
from personavec.watching.log import read_log
from watching_samples import written_limits

SAID: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return digits_model()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def talk(live: Live, turns: int, **persona: Any) -> list[Any]:
    """A conversation, the client telling the history each time; what `persona` says of each answer."""
    messages, told = [*SAID], []
    for turn in range(turns):
        answer = live.chat("", messages=messages, seed=turn, max_tokens=20, persona={"monitor": ["evil"], **persona})
        messages += [answer["choices"][0]["message"], {"role": "user", "content": f"and {turn}?"}]
        told.append(answer["persona"])
    return told


def test_a_log_has_a_line_for_every_answer_and_no_text(model: ChatModel, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    live = Live(model, personas(model), observer=Observer(personas(model), log=file))
    try:
        told = talk(live, 3)
        live.chat("hello there", n=2, persona={"id": "twice", "conversation": "mine"})
        live.chat("hello there", persona={"monitor": []})
        live.chat("hello there", persona={"steer": {"evil": 2}, "conversation": "mine"})
    finally:
        live.close()
    found = read_log(file)
    assert [answer.turn for answer in found] == [0, 1, 2, 0, 0, 0, 0]
    assert len({answer.conversation for answer in found[:3]}) == 1 and found[0].conversation.startswith("c-")
    assert [answer.conversation for answer in found[3:5]] == ["mine"] * 2 == [found[6].conversation] * 2
    assert {answer.id for answer in found[3:5]} == {"twice-0", "twice-1"}
    assert [bool(answer.steering) for answer in found] == [False] * 6 + [True]
    for answer, said in zip(found, told, strict=False):
        [choice] = said["choices"]
        assert answer.id == said["id"] and answer.tokens == 20 and choice["prompt"].keys() == {"evil"}
        assert answer.traits["evil"].mean == choice["summary"]["evil"]["z"]
        assert answer.traits["evil"].max == choice["summary"]["evil"]["max_z"]
        assert answer.traits["evil"].before == choice["prompt"]["evil"]["z"]
    humorous, evil = found[3].traits["humorous"], found[3].traits["evil"]
    assert humorous.max >= humorous.mean and evil.max >= evil.mean
    for answer in found:  # whatever the client wants to hear of
        assert answer.traits.keys() == {"humorous", "evil"}
        assert answer.vectors == {vector.trait: vector.hash for vector in personas(model)}
    assert not any("hello" in line or "question" in line for line in file.read_text().splitlines())


def test_texts_are_logged_when_asked(model: ChatModel, tmp_path: Path) -> None:
    live = Live(model, personas(model), observer=Observer(personas(model), log=tmp_path / "log", log_text=True))
    try:
        answer = live.chat("hello there")
    finally:
        live.close()
    [line] = lines(tmp_path / "log")
    assert (line["question"], line["text"]) == ("hello there", answer["choices"][0]["message"]["content"])


def test_alarms_are_told_logged_posted_and_counted(
    model: ChatModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as (url, posted):
        seen = {v.trait: v.hash for v in personas(model)}
        limits = written_limits(["evil"], vectors={"evil": seen["evil"]}, before=-99, during=99, traffic=99)
        observer = Observer(personas(model), limits=limits, log=tmp_path / "log", webhook=url)
        live = Live(model, personas(model), observer=observer)
        try:
            with OpenAI(base_url=live.url, api_key="none", max_retries=0) as client, caplog.at_level(logging.WARNING):
                stream = client.chat.completions.create(
                    model="default", messages=SAID, max_tokens=8, stream=True, extra_body={"persona": {"id": "one"}}
                )
                chunks: list[Any] = [chunk.model_extra and chunk.model_extra["persona"] for chunk in stream]
            _, record, _ = live.ask("GET", "/v1/persona/readings/one")
            other = live.chat(persona={"steer": {"evil": 1}})["persona"]["choices"][0]
            _, metrics, _ = live.ask("GET", "/metrics")
        finally:
            live.close()
    [alarm] = chunks[0]["alarms"]
    z = chunks[0]["prompt"]["evil"]["z"]
    assert alarm == {"rule": "before", "trait": "evil", "z": z, "limit": -99}
    last = chunks[-1]
    assert last["alarms"] == [alarm] == record["choices"][0]["alarms"]
    assert last["normal_z"] == {"before": {"evil": z}, "during": {"evil": last["summary"]["evil"]["max_z"]}}
    assert other["alarms"] is None, "steered in another way than the limits are of"
    assert "Alarm (before): evil at" in caplog.text and "answer one of conversation (new)" in caplog.text
    assert [line.get("alarms") for line in lines(tmp_path / "log")] == [["before"], []]
    [event] = posted
    assert (event["event"], event["id"], event["alarms"]) == ("alarm", "one", [alarm]) and "text" not in event
    assert 'personavec_alarms_total{rule="before",trait="evil"} 1.0' in metrics
    assert "personavec_traffic_cusum_limit 99.0" in metrics and 'personavec_traffic_cusum{trait="evil"}' in metrics
    assert 'personavec_prompt_z_count{steered="no",trait="evil"} 1.0' in metrics


def test_an_answer_whose_client_leaves_is_booked_as_far_as_it_came(model: ChatModel, tmp_path: Path) -> None:
    """And what alarmed before its first token was told long before."""
    going, steps = threading.Event(), [0]

    def slow(hidden: torch.Tensor) -> None:
        steps[0] += 1
        assert steps[0] < 40 or going.wait(60)

    seen = {v.trait: v.hash for v in personas(model)}
    limits = written_limits(["evil"], vectors={"evil": seen["evil"]}, before=-99, during=-99, traffic=99)
    with receiving() as (url, posted), model.blocks.watching({1: slow}):
        live = Live(
            model, personas(model), observer=Observer(personas(model), limits=limits, log=tmp_path / "log", webhook=url)
        )
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
        try:
            body = {"messages": SAID, "max_tokens": 300, "stream": True, "persona": {"id": "left"}}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            stream = connection.getresponse()
            for _ in range(20):
                assert stream.readline()
            while not posted:
                time.sleep(0.001)
            [first], exchange = [*posted], live.service.records[0, "left"]
            assert not exchange.choices[0].alarms, "it is not over"
            stream.close()
            connection.close()
            while not exchange.choices[0].alarms:
                time.sleep(0.001)
            _, metrics, _ = live.ask("GET", "/metrics")
            going.set()
        finally:
            going.set()
            live.close()
    record: Any = exchange.record()
    [line], [choice] = read_log(tmp_path / "log"), record["choices"]
    assert line.abandoned and line.alarms == ("before", "during") and not choice["finished"]
    assert 5 <= line.tokens == len(choice["tokens"]) <= 40
    assert line.traits["evil"].mean == choice["summary"]["evil"]["z"]
    assert 'personavec_answers_total{ended="abandoned"} 1.0' in metrics
    assert f'personavec_tokens_total{{kind="completion"}} {line.tokens}.0' in metrics
    assert (first["id"], first["conversation"], first["turn"]) == ("left", None, 0), "its answer will tell the name"
    assert first["traits"]["evil"] == {"before": line.traits["evil"].before}
    told = [[alarm["rule"] for alarm in event["alarms"]] for event in posted]
    assert told == [["before"], ["during"]] and posted[1]["conversation"] == line.conversation


def test_a_client_hears_of_what_it_asks_and_is_watched_along_the_rest(
    model: ChatModel, caplog: pytest.LogCaptureFixture
) -> None:
    limits = written_limits(vectors={v.trait: v.hash for v in personas(model)}, before=-99, during=-99, traffic=99)
    live = Live(model, personas(model), observer=Observer(personas(model), limits=limits))
    try:
        deaf = live.chat(persona={"monitor": [], "id": "deaf"})
        _, record, _ = live.ask("GET", "/v1/persona/readings/deaf")
        half = [live.chat(persona={"monitor": [trait]})["persona"]["choices"][0] for trait in limits.traits]
    finally:
        live.close()
    assert "persona" not in deaf and record["choices"][0].keys() == {"index", "finished", "prompt", "tokens", "summary"}
    assert record["choices"][0]["prompt"] == record["choices"][0]["summary"] == {}
    assert [one["normal_z"]["during"].keys() for one in half] == [{"evil"}, {"humorous"}]
    for trait, one in zip(limits.traits, half, strict=True):
        assert {alarm["trait"] for alarm in one["alarms"]} <= {trait} and one["summary"].keys() == {trait}
    assert caplog.text.count("Alarm (before)") == caplog.text.count("Alarm (during)") == 3


def test_drift_over_a_conversation_adds_up(model: ChatModel) -> None:
    """The same reading in every turn, a little above normal, alarms after some turns; a name keeps it together, too."""
    [persona, _] = personas(model)
    usual = min(turn["choices"][0]["summary"]["evil"]["z"] for turn in talked(model, persona, None))
    limits = written_limits(["evil"], before=1e9, during=1e9, traffic=1e9, conversation=2.2)
    centre = {"conversation": usual - 1.25}
    limits = limits.model_copy(
        update={
            "rules": {
                rule: found.model_copy(update={"centre": {"evil": centre.get(rule, 0.0)}})
                for rule, found in limits.rules.items()
            }
        }
    )
    told = talked(model, persona, limits)
    rules = [[alarm["rule"] for alarm in turn["choices"][0]["alarms"]] for turn in told]
    assert rules[0] == [] and ["conversation"] in rules[1:3]


def talked(model: ChatModel, persona: Any, limits: Any) -> list[Any]:
    live = Live(model, [persona], observer=Observer([persona], limits=limits))
    try:
        return talk(live, 4)
    finally:
        live.close()


def test_steering_a_turn_does_not_begin_the_drift_of_a_conversation_anew(model: ChatModel) -> None:
    limits = written_limits(["evil"], vectors={"evil": personas(model)[0].hash}, during=99, conversation=5, traffic=99)
    observer = Observer(personas(model), limits=limits)
    prompt: Any = {"evil": {"value": 0.0, "z": 0.0}}
    summary: Any = {"evil": {"mean": 3.0, "z": 3.0, "max": 3.0, "max_z": 3.0}}
    messages: list[dict[str, str]] = []
    told: list[Any] = []
    for turn, steering in enumerate(((), ("evil +0.01",), ())):
        messages.append({"role": "user", "content": f"{turn}?"})
        said = observer.said(messages, None)
        ended = observer.ended(Observed(str(turn), "m", steering, said, prompt, summary, 9, str(turn), told=["evil"]))
        told.append(ended["alarms"])
        messages.append({"role": "assistant", "content": str(turn)})
    observer.close()
    assert told[:2] == [[], None] and [alarm["rule"] for alarm in told[2]] == ["conversation"]


def test_conversations_that_begin_alike_part(model: ChatModel) -> None:
    observer = Observer([])

    def name(*said: str) -> str:
        """Of a conversation whose last answer is the last text."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said[:-1])]
        answer = Observed("a", "default", (), observer.said(messages, None), {}, {}, 0, said[-1])
        return observer._conversation(answer)[0]

    first, second = name("hi", "Hello!"), name("hi", "Good day.")
    assert first != second
    assert name("hi", "Hello!", "well?", "Yes.") == first == name("hi", "Hello!", "well?", "Yes.", "so?", "No.")
    assert name("hi", "Good day.", "well?", "Yes.") == second
    assert Observer([])._digest("", "hi") != observer._digest("", "hi"), "a name does not tell what was said"


@pytest.mark.parametrize("called", [None, "mine", "key 2: mine"])
def test_conversations_of_two_clients_are_two(called: str | None) -> None:
    observer = Observer([])

    def name(client: int) -> str:
        said = observer.said([{"role": "user", "content": "hi"}], called, client)
        return observer._conversation(Observed("a", "default", (), said, {}, {}, 0, "Hello!"))[0]

    names = [name(client) for client in (1, 2, 1)]
    assert names[0] == names[2] != names[1]
    assert called is None or (names[0] == f"key 1: {called}" and name(0) == called)


def test_the_turns_of_a_named_conversation_are_counted_though_its_history_is_shortened() -> None:
    observer = Observer([])

    def turn(*said: str, answer: str) -> int:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
        return observer._conversation(Observed("a", "default", (), observer.said(messages, "mine"), {}, {}, 0, answer))[
            1
        ]

    assert turn("hi", answer="Hello!") == turn("hi", answer="Good day.") == 0
    assert turn("hi", "Hello!", "well?", answer="Yes.") == 1
    assert [turn("well?", "Yes.", "so?", answer=text) for text in ("No.", "Never.")] == [2, 2], "the first was left out"
    assert turn("so?", "No.", "what?", answer="Nothing.") == 3
    assert turn("summed up", answer="Fine.") == 4
    assert turn("hi", "Hello!", "no?", answer="Yes.") == 1, "another branch of what was told whole"


def test_prompts_of_a_named_conversation_are_its_turns(model: ChatModel, tmp_path: Path) -> None:
    live = Live(model, personas(model), observer=Observer(personas(model), log=tmp_path / "log"))
    try:
        for _ in range(3):
            body = {"prompt": "hello", "max_tokens": 2, "temperature": 0, "persona": {"conversation": "mine"}}
            assert live.ask("POST", "/v1/completions", body)[0] == 200
    finally:
        live.close()
    assert [(one.conversation, one.turn) for one in read_log(tmp_path / "log")] == [("mine", i) for i in range(3)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personavec.serving.observer.REMEMBERED", 10)
    observer = Observer([])
    for i in range(100):
        said = observer.said([{"role": "user", "content": str(i)}], None)
        observer.ended(Observed(str(i), "default", (), said, {}, {}, 0, "x"))
    assert len(observer._known) == 10


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"limits": written_limits(["kind"])}, "no vector of kind is served"),
        ({"limits": written_limits(["evil"], vectors={"evil": "0"})}, "another vector of evil"),
        ({"log_text": True}, "needs a log"),
        ({"webhook": "http://127.0.0.1"}, "no alarm for a webhook"),
        ({"limits": written_limits(["evil"]), "webhook": "file:///etc"}, "no address of the web"),
    ],
)
def test_what_cannot_be_observed_is_refused(model: ChatModel, options: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Observer(personas(model), **options)


def test_a_log_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        to_file(tmp_path / "file" / "log")


class _Receiver(http.server.BaseHTTPRequestHandler):
    posted: list[Any]
    statuses: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.posted.append(json.loads(body))
        if status == 0:
            self.wfile.write(b"no HTTP\r\n\r\n")
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent."""


class receiving:
    """A webhook's other end: its address and what came; it answers with these statuses first."""

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        self.kind: Any = type("Receiver", (_Receiver,), {"posted": [], "statuses": [*statuses]})

    def __enter__(self) -> tuple[str, list[Any]]:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.kind)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/", self.kind.posted

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(
    ("statuses", "end"),
    [([], "sent"), ([500, 503], "sent"), ([0, 500], "sent"), ([500, 500, 500], "failed"), ([302, 302, 302], "failed")],
)
def test_a_webhook_is_tried_again(statuses: list[int], end: str) -> None:
    ends: list[str] = []
    with receiving(statuses) as (url, posted):
        delivery = Delivery("webhook", to_address(url, pauses=(0.0, 0.0)), ends.append)
        delivery.put({"a": 1})
        delivery.close()
    assert (ends, posted) == ([end], [{"a": 1}] if end == "sent" else [])


def test_a_delivery_outlives_whatever_goes_wrong() -> None:
    ends: list[str] = []
    with receiving([0, 0, 0]) as (url, posted):
        delivery = Delivery("webhook", to_address(url, pauses=(0.0, 0.0)), ends.append)
        delivery.put({"a": 1})
        delivery.put({"a": 2})
        delivery.close()
    assert (ends, posted) == (["failed", "sent"], [{"a": 2}])


def test_what_cannot_be_delivered_in_time_is_dropped_and_counted() -> None:
    going = threading.Event()
    ends: list[str] = []

    def wait(record: object) -> None:
        assert going.wait(60)

    delivery = Delivery("log", wait, ends.append)
    for _ in range(WAITING + 10):
        delivery.put({})
    assert ends.count("dropped") >= 9
    going.set()
    delivery.close()
    assert ends.count("sent") + ends.count("dropped") == WAITING + 10
