"""Errors that come with status 200, and figures that servers leave out: none becomes a score that stays."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from endpoint import Response, Serve, Server, fails, prompt_of, says

from personavec.endpoint.failures import Trouble
from personavec.endpoint.reply import read_reply
from personavec.errors import UserError
from personavec.judges.api.cache import ReplyCache
from personavec.judges.api.client import Endpoint


def endpoint(server: Server, **settings: Any) -> Endpoint:
    quick: dict[str, Any] = {"timeout": 5.0, "attempts": 4, "backoff": 0.01, "longest_wait": 0.5, "concurrency": 1}
    return Endpoint("judge-1", server.url, **quick | settings)


def choice(**changes: Any) -> Response:
    """A completion that says 80, with changes in its choice."""
    status, body, headers = says({"80": 0.9}) or (0, {}, {})
    return status, {**body, "choices": [{**body["choices"][0], **changes}]}, headers


def inside(code: Any, words: str = "The provider is down.", **more: Any) -> Response:
    message = {"role": "assistant", "content": ""}
    return choice(error={"code": code, "message": words, **more}, finish_reason="error", message=message, logprobs=None)


def on_disk(server: Server) -> list[dict[str, Any]]:
    path: Path = ReplyCache(server.url, "judge-1").path
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


BAD: dict[str, Any] = {
    "error in the choice": inside(502),
    "error in the choice beside an answer": choice(error={"code": 500, "message": "Cut off."}),
    "error beside the choices": (200, {"error": {"message": "Overloaded.", "code": 503}, "choices": []}, {}),
    "error beside an answer": (200, {**(says("80") or (0, {}, {}))[1], "error": {"message": "Broken."}}, {}),
    "error in words": (200, {"error": "The model is being loaded."}, {}),
    "error by its object": (200, {"object": "error", "message": "CUDA out of memory.", "code": 50002}, {}),
    "errors beside an answer": (200, {**(says("80") or (0, {}, {}))[1], "errors": [{"message": "Broken."}]}, {}),
    "error in the message": choice(message={"content": "0", "error": {"message": "Cut off.", "code": 500}}),
    "status beside an answer": (200, {**(says("80") or (0, {}, {}))[1], "base_resp": {"status_code": 1000}}, {}),
    "finish reason error": choice(finish_reason="error"),
    "finish reason error without content": choice(finish_reason="error", message={"content": None}),
    "filtered": choice(finish_reason="content_filter", message={"role": "assistant", "content": None}),
    "filtered half-way": choice(finish_reason="content_filter"),
    "empty": choice(message={"role": "assistant", "content": ""}, logprobs=None),
    "blank": choice(message={"role": "assistant", "content": " \n"}),
    "null content": choice(message={"role": "assistant", "content": None}),
    "no content": choice(message={"role": "assistant"}),
    "null message": choice(message=None),
    "nothing at all": says(),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_answer_is_asked_again(serve: Serve, bad: Response) -> None:
    server = serve(lambda _, before: says({"70": 0.9}) if before else bad)
    assert endpoint(server).scores(["a"]) == [70]
    assert len(server.requests) == 2
    assert [line["text"] for line in on_disk(server)] == ["70"]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_answer_is_never_kept(serve: Serve, bad: Response) -> None:
    server = serve(lambda request, _: bad if prompt_of(request) == "bad" else says({"70": 0.9}))
    try:
        scores = endpoint(server).scores(["good", "bad"])
    except UserError:
        pass
    else:
        assert scores == [70, None]
    assert [line["text"] for line in on_disk(server)] == ["70"]
    server.behaviour = lambda *_: says({"30": 0.9})
    asked = len(server.requests)
    assert endpoint(server).scores(["good", "bad"]) == [70, 30]
    assert len(server.requests) == asked + 1


@pytest.mark.parametrize("bad", ["filtered", "filtered half-way", "empty", "null content", "nothing at all"])
def test_one_answer_that_never_comes_does_not_end_the_run(
    serve: Serve, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda request, _: BAD[bad] if prompt_of(request) == "b" else says({"70": 0.9}))
    assert endpoint(server).scores(["a", "b", "c"]) == [70, None, 70]
    assert len(server.requests) == 1 + 3 + 1
    assert "1 of 3 prompts" in caplog.text


def test_a_prompt_that_the_endpoint_filters_is_asked_once_and_not_kept(serve: Serve) -> None:
    server = serve(lambda *_: fails(400, "Filtered.", "content_filter"))
    assert endpoint(server).scores(["a"]) == [None]
    assert len(server.requests) == 1 and not on_disk(server)


def test_a_prompt_that_moderation_stops_is_only_unanswered(serve: Serve) -> None:
    moderated = fails(403, "This model requires moderation and your input was flagged.")
    server = serve(lambda request, _: moderated if prompt_of(request) == "b" else says({"70": 0.9}))
    assert endpoint(server).scores(["a", "b", "c"]) == [70, None, 70]
    assert len(server.requests) == 3


def test_a_mark_of_utf_8_before_a_reply_is_passed_over() -> None:
    body = (says({"70": 0.9}) or (0, {}, {}))[1]
    assert read_reply("\ufeff" + json.dumps(body)).text == "70"
    assert Trouble.of('\ufeff{"error": {"code": 402, "message": "Pay."}}').status == 402


def test_an_empty_reply_that_an_earlier_version_kept_is_asked_again(serve: Serve) -> None:
    server = serve(lambda *_: says({"70": 0.9}))
    cache = ReplyCache(server.url, "judge-1")
    firsts: tuple[Any, ...] = (None, {})
    old = [{"key": cache.key(str(n)), "text": "", "first": first} for n, first in enumerate(firsts)]
    cache.path.write_text("".join(json.dumps(record) + "\n" for record in old))
    assert endpoint(server).scores(["0", "1"]) == [70, 70]


@pytest.mark.parametrize(
    ("bad", "message", "requests"),
    [
        (inside(502), r"keeps failing \(error 502: The provider is down\.\)\. Try again later.*kept", 4),
        (inside(429), r"still at its rate limit \(error 429: The provider is down\.\)", 4),
        (inside("rate_limit_exceeded"), r"still at its rate limit", 4),
        (inside(402, "No credits."), r"quota is used up \(error 402: No credits\.\)\. Top it up", 1),
        (inside("insufficient_quota"), r"quota is used up", 1),
        (inside(401, "No such user."), r"refused the key \(error 401: No such user\.\).*OPENAI_API_KEY", 1),
        (inside("404", "No endpoints."), r"knows no model 'judge-1' \(error 404: No endpoints\.\)", 1),
        (inside(413), r"too long for judge-1.*Judge shorter answers", 1),
        (inside(400, "Bad."), r"rejected the request \(error 400: Bad\.\)", 2),
        (
            inside(500, "Provider returned error", metadata={"raw": "out of\nmemory"}),
            r"keeps failing \(error 500: Provider returned error: out of memory\)",
            4,
        ),
        (BAD["error in words"], r"answers with an error \(error: The model is being loaded\.\).*kept", 3),
        (BAD["error by its object"], r"\(error: CUDA out of memory\.\)", 3),
        (BAD["finish reason error"], r"answers with an error \(error\)", 3),
        ((200, {"detail": "Not Found"}, {}), r"as an OpenAI-compatible endpoint does: Not Found", 3),
        ((200, "Hello, I am a proxy.", {}), r"as an OpenAI-compatible endpoint does: Hello, I am a proxy\.", 3),
        ((200, {"success": False, "code": 402, "message": "Empty."}, {}), r"quota is used up \(error 402: Em", 1),
        ((200, {"success": False, "message": "No."}, {}), r"answers with an error \(error: No\.\).*kept", 3),
        ((200, {"code": 429, "msg": "Slow."}, {}), r"still at its rate limit \(error 429: Slow\.\)", 4),
        ((200, {"detail": "overloaded"}, {}), r"keeps failing \(error 503: overloaded\)\. Try again later", 4),
        ((200, {"errors": [{"message": "Down.", "status": 503}]}, {}), r"keeps failing \(error 503: Down\.\)", 4),
        (
            (200, {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, {}),
            r"still at its rate limit \(error 429: rate limit\)",
            4,
        ),
        (fails(403, "No access."), r"refused the key \(status 403: No access\.\)", 1),
        (fails(402, "Add credits."), r"quota is used up \(status 402: Add credits\.\)\. Top it up", 1),
        ((402, {"detail": [{"msg": "Pay first."}]}, {}), r"\(status 402: Pay first\.\)", 1),
        ((429, {"message": "Slow down."}, {}), r"rate limit \(status 429: Slow down\.\)", 4),
        ((500, "Out of memory", {}), r"keeps failing \(status 500: Out of memory\)", 4),
        (fails(404, "No model x."), r"knows no model 'judge-1' \(status 404: No model x\.\)", 1),
    ],
)  # fmt: skip
def test_the_servers_words_are_quoted_with_what_to_do(serve: Serve, bad: Response, message: str, requests: int) -> None:
    server = serve(lambda *_: bad)
    with pytest.raises(UserError, match=message):
        endpoint(server).scores(["a"])
    assert len(server.requests) == requests


def test_words_of_any_shape_fit_on_one_line() -> None:
    assert Trouble.of('{"error": {"message": "a\\u001b[31m\\n b"}}').words == "a [31m b"
    assert len(Trouble.of("x" * 5000, 500).words) == 200
    assert Trouble.of("<html><body>Bad gateway</body></html>", 502).said() == "status 502"
    for odd in (
        "",
        "null",
        "[]",
        "3",
        "[" * 50_000,
        '{"error": {"message": {"message": []}, "code": [1], "type": true}}',
    ):
        assert isinstance(Trouble.of(odd, 500).said(), str)
    assert Trouble.of('{"error": "your key is secret"}', 401).said("secret") == "status 401: your key is ..."


# Figures that servers leave out


def positions(*tokens: Any) -> Response:
    """A reply of 85 (and of what follows) with these token figures."""
    return choice(message={"role": "assistant", "content": "85."}, logprobs={"content": list(tokens)})


def token(text: Any, p: float, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(p), **more}


LIKELY = {"top_logprobs": [token("80", 0.6), token("90", 0.2)]}
SPOILT = {"top_logprobs": [token("80", 0.6), None, token(None, 0.1), {"token": "70"}, "x", token("90", 0.2),
                           {"token": "20", "logprob": None}, {"token": "10", "logprob": -math.inf}]}  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    [
        positions(token("85", 0.6, **LIKELY), token(".", 0.9, top_logprobs=None)),
        positions(token("85", 0.6, **LIKELY), token(".", 0.9), None, "x"),
        positions(token("85", 0.6, **SPOILT)),
        positions({"token": "85", "logprob": None, **LIKELY}),
        positions(token("\n", 0.6, top_logprobs=None), token("85", 0.6, **LIKELY)),
    ],
)
def test_odd_entries_are_dropped(serve: Serve, reply: Response) -> None:
    server = serve(lambda *_: reply)
    assert endpoint(server).scores(["a", "b"]) == [pytest.approx(66 / 0.8)] * 2
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "odd",
    [
        positions(token("85", 0.6, top_logprobs=None), token(".", 0.9, **LIKELY)),
        positions(None, token("85", 0.6, **LIKELY)),
        positions({"token": None, "logprob": -1.0, **LIKELY}, token("85", 0.6, **LIKELY)),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_without_the_figures_of_the_token_that_counts_the_text_does(serve: Serve, odd: Response, at: int) -> None:
    """For this one answer: the others keep their probabilities."""

    def behaviour(request: dict[str, Any], _: int) -> Response:
        if "logprobs" not in request:
            return says("85", logprobs=False)
        return odd if prompt_of(request) == str(at) else positions(token("85", 0.6, **LIKELY))

    server = serve(behaviour)
    expected = [pytest.approx(66 / 0.8)] * 3
    expected[at] = pytest.approx(85)
    assert endpoint(server).scores(["0", "1", "2"]) == expected
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "logprobs", [{"content": [token("85", 0.6, top_logprobs=None)]}, {"content": None}, {}, [], "x"]
)
def test_an_endpoint_without_such_figures_is_asked_for_text(serve: Serve, logprobs: Any) -> None:
    server = serve(lambda *_: choice(message={"content": "85"}, logprobs=logprobs))
    assert endpoint(server).scores(["a", "b"]) == [85, 85]
    assert ["logprobs" in request for request in server.requests] == [True, False, False]


def test_content_in_parts_is_read_and_a_refusal_is_an_answer(serve: Serve) -> None:
    parts = {"content": [{"type": "text", "text": "8"}, {"type": "image"}, {"type": "text", "text": "5"}]}
    refusal = {"content": None, "refusal": "I will not judge this."}
    said = {"a": parts, "b": refusal}
    server = serve(lambda request, _: choice(message=said[prompt_of(request)], logprobs=None))
    assert endpoint(server).scores(["a", "b"]) == [85, None]
    assert len(on_disk(server)) == 2
