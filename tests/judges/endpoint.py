"""A small local OpenAI-compatible endpoint that behaves as a test wants it to."""

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Response = tuple[int, Any, dict[str, str]] | None  # status, JSON body (text: sent as it is), headers; None: silence
Behaviour = Callable[[dict[str, Any], int], Response]  # of the request, and how many came before it


@dataclass(frozen=True)
class Trickle:
    """A body of one space at a time, until it is over."""

    over: threading.Event


class Server(ThreadingHTTPServer):
    """Answers as it is told and keeps the requests."""

    daemon_threads = True
    block_on_close = False  # a handler that never answers must not hold up the end of the test

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            before = len(server.requests)
            server.requests.append(request)
            server.times.append(time.monotonic())
            server.keys.append(self.headers["authorization"])
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            response = server.behaviour(request, before)
        finally:
            with server.lock:
                server.under_way -= 1
        if response is None:
            server.over.wait(300)
            self.close_connection = True
            return
        status, body, headers = response
        if isinstance(body, Trickle):
            self.send_response(status)
            self.end_headers()
            self.close_connection = True
            while not body.over.wait(0.05):
                self.wfile.write(b" ")
            return
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if data.startswith(b"<") else "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


Serve = Callable[[Behaviour], Server]


def says(*tokens: dict[str, float] | str, logprobs: bool = True) -> Response:
    """A completion: per token, its probabilities (the likeliest is the sampled one)."""
    steps = [{token: 1.0} if isinstance(token, str) else token for token in tokens]
    sampled = [max(step, key=step.__getitem__) for step in steps]
    content = [
        {
            "token": token,
            "logprob": math.log(step[token]),
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in step.items()],
        }
        for token, step in zip(sampled, steps, strict=True)
    ]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "".join(sampled)},
        "logprobs": {"content": content, "refusal": None} if logprobs else None,
    }
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}, {}


def fails(status: int, message: str = "Sorry.", code: str | None = None, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "code": code}}, named


def prompt_of(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"])
