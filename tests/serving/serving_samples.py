"""What the tests of serving share: jobs run to their end, and a model whose answers come back when tokenised again."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch

from personavec.model import ChatModel
from personavec.serving.api import Service, create_app
from personavec.serving.engine import Begun, DrawnToken, Ended, Event, Failed, Job, Piece, StepLoop
from personavec.serving.persona import Cast
from personavec.serving.readings import Reading
from personavec.serving.server import bound, server_of
from personavec.serving.settings import ServeSettings
from personavec.vector import PersonaVector
from tiny import CALLS, causal_model, qwen2, tokenizer, vector


@dataclass(eq=False)
class Heard:
    """All that was told of a job, by choice."""

    events: list[Event] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    left: int = 1
    told: Callable[[Event], object] = lambda event: None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.left -= isinstance(event, Ended)
        if self.left == 0 or isinstance(event, Failed):
            self.over.set()
        self.told(event)

    def wait(self) -> "Heard":
        assert self.over.wait(60), "the job never ends"
        return self

    def tokens(self, choice: int = 0) -> list[DrawnToken]:
        return [t for e in self.events if isinstance(e, Piece) and e.choice == choice for t in e.tokens]

    def ids(self, choice: int = 0) -> list[int]:
        return [token.id for token in self.tokens(choice)]

    def text(self, choice: int = 0) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Piece) and e.choice == choice)

    def ended(self, choice: int = 0) -> Ended:
        [end] = [e for e in self.events if isinstance(e, Ended) and e.choice == choice]
        return end

    @property
    def prompt(self) -> Reading | None:
        [begun] = [e for e in self.events if isinstance(e, Begun)]
        return begun.reading

    @property
    def error(self) -> Exception | None:
        return next((e.error for e in self.events if isinstance(e, Failed)), None)


def submit(loop: StepLoop, prompt: Sequence[int], count: int, **options: Any) -> tuple[Job, Heard]:
    heard = Heard(left=options.get("n", 1))
    job = Job(prompt, heard, count, **options)
    loop.submit(job)
    return job, heard


def digits_model() -> ChatModel:
    """Answers with digits alone, which no merge joins: what it writes is tokenised as it was written."""
    model = causal_model(qwen2(), 3)
    text = tokenizer()
    digits = [text.convert_tokens_to_ids(str(i)) for i in range(10)]
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        kept = head[digits].clone()
        head.zero_()
        head[digits] = 10 * kept  # the other tokens, at 0, are never drawn
    return ChatModel(model, text, "digits")


TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CALLS  # a template that writes tools and calls down
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def saying(*pieces: str, template: str = TOOLS, **options: Any) -> ChatModel:
    """Answers with these pieces, a token each, to anything: its blocks do nothing, its head knows what follows what."""
    text = tokenizer(template, added=pieces, **options)
    model = causal_model(qwen2(vocab_size=len(text) + 8), 3)
    last = text("x<|im_start|>assistant\n")["input_ids"][-1]
    chain = [last, *text.convert_tokens_to_ids(list(pieces)), text.eos_token_id]
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        head.zero_()
        for token, following in pairwise(chain):
            head[following] = 50 * embedding[token]
    return ChatModel(model, text, "saying")


def personas(model: ChatModel) -> list[PersonaVector]:
    """Two vectors at different layers, one of them with neutral statistics."""
    rows = model.n_layers + 1
    statistics: dict[str, Any] = {
        f"neutral_{of}{what}": torch.full((rows,), value)
        for of in ("", "prompt_", "token_")
        for what, value in (("mean", 0.1), ("deviation", 0.5))
    }
    return [
        replace(vector(model, seed=1, layer=2, **statistics), trait="evil"),
        replace(vector(model, seed=2, layer=3), trait="humorous"),
    ]


@contextmanager
def halted(model: ChatModel) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A model whose forwards wait for the second event; the first says that one has begun."""
    begun, going = threading.Event(), threading.Event()

    def wait(hidden: torch.Tensor) -> None:
        begun.set()
        assert going.wait(60)

    with model.blocks.watching({1: wait}):
        try:
            yield begun, going
        finally:
            going.set()


class Live:
    """A server on a free port of this machine, on a thread."""

    def __init__(self, model: ChatModel, vectors: Sequence[PersonaVector], default: Any = None, **options: Any) -> None:
        limits = [one.name for one in fields(ServeSettings) if one.name in options]
        settings = ServeSettings(**{name: options.pop(name) for name in limits})
        self.service = Service(model, Cast(model, vectors, default or {}), settings, options.pop("observer", None))
        options.setdefault("hosts", ["127.0.0.1"])
        self.server = server_of(create_app(self.service, **options))
        self._socket = bound("127.0.0.1", 0)
        self._socket.listen()
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._socket.close()

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Status, what came (as JSON where it is), and the headers. A body that is bytes goes as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            read = response.read().decode()
            told = json.loads(read) if "json" in response.headers.get("content-type", "") else read
            return response.status, told, response.headers
        finally:
            connection.close()

    def chat(self, said: str = "hello", **asked: Any) -> Any:
        """The answer to a chat of one message."""
        body = {"messages": [{"role": "user", "content": said}], "max_tokens": 8, **asked}
        status, told, _ = self.ask("POST", "/v1/chat/completions", body)
        assert status == 200, told
        return told
