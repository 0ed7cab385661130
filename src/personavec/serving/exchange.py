"""One request on its way: what the engine tells of it becomes what the client gets, and the record of its readings."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from personavec.serving.answers import Json, Name, Shape, usage
from personavec.serving.engine import Begun, DrawnToken, Ended, Event, Failed, Job, Piece
from personavec.serving.failures import RequestError, failure
from personavec.serving.guard import Receive, Scope, Send
from personavec.serving.metrics import Metrics
from personavec.serving.observer import Observed, Observer, Said
from personavec.serving.persona import Steered
from personavec.serving.readings import Meter, Reading

WAIT = 10.0  # seconds of silence after which a waiting client gets a comment, for proxies not to hang up
GONE = 499  # the status of a request whose client does not wait for the answer; nobody sees it


@dataclass(eq=False)
class _Choice:
    """One answer, as far as it has come."""

    prompt: Json = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    tokens: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    alarms: Json = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    drawn: list[DrawnToken] = field(default_factory=list)
    finish: str | None = None


@dataclass(eq=False)
class Exchange:
    """A request that the engine has taken on.

    Attributes:
        model: As the client called it.
        monitored: Traits that are told.
        name: The text of a token by itself.
        logprobs: Whether they are told.
        begun: When it came, `time.monotonic`.
        observer, said: Who looks at its answers, and what was said before them.
    """

    shape: Shape
    id: str
    persona_id: str
    model: str
    steered: Steered
    monitored: Sequence[str]
    meter: Meter
    metrics: Metrics
    name: Name
    logprobs: bool
    begun: float
    observer: Observer
    said: Said
    created: int = field(default_factory=lambda: int(time.time()))
    jobs: list[Job] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

    def teller(self, first: int, count: int) -> Callable[[Event], None]:
        """For a job whose responses are the choices from `first` on: takes its events, on whatever thread."""
        self.choices += [_Choice() for _ in range(count)]

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is over, and so is whoever waited
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (first, event))

        return tell

    def cancel(self) -> None:
        """Nobody waits for more."""
        for job in self.jobs:
            job.cancelled = True
        self._queue.put_nowait(None)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(job.prompt_ids) for job in self.jobs)

    @property
    def kept(self) -> int:
        """Tokens that are held of it: of its prompts, and of its answers with their readings."""
        return self.prompt_tokens + sum(len(choice.tokens) + len(choice.drawn) for choice in self.choices)

    @property
    def usage(self) -> Json:
        """Tokens read and written."""
        return usage(self.prompt_tokens, self.completion_tokens)

    def record(self) -> Json:
        """What is known of the character of the answers so far, as `GET /v1/persona/readings/ID` has it."""
        return {
            "id": self.persona_id,
            "steering": [*self.steered.words],
            "warnings": [*self.steered.doubts],
            "choices": [
                {
                    "index": index,
                    "finished": choice.finish is not None,
                    "prompt": choice.prompt,
                    "tokens": [*choice.tokens],
                    "summary": choice.summary,
                    **choice.alarms,
                }
                for index, choice in enumerate(self.choices)
            ],
        }

    async def _events(self) -> AsyncIterator[tuple[int, Event] | None]:
        """Choices and what is told of them; None where nothing is for a while.

        Raises:
            RequestError: It failed, or the client is gone.
        """
        left = len(self.choices)
        while left:
            try:
                told = await asyncio.wait_for(self._queue.get(), WAIT)
            except TimeoutError:
                yield None
                continue
            if told is None:
                raise RequestError(GONE, "The client is gone.")
            first, event = told
            if isinstance(event, Failed):
                raise failure(event.error)
            left -= isinstance(event, Ended)
            yield first + event.choice, event

    def _take(self, index: int, event: Event) -> tuple[Json, Json]:
        """Book an event: the choice that tells the client of it, and the field `persona` beside it."""
        choice = self.choices[index]
        match event:
            case Begun():
                if event.reading is not None:
                    choice.prompt = self.meter.at_prompt(event.reading, self.monitored)
                said: Json = {"steering": [*self.steered.words], "prompt": choice.prompt}
                if self.steered.doubts:
                    said["warnings"] = [*self.steered.doubts]
                if alarms := self.observer.begun(choice.prompt, self.steered.words):
                    said["alarms"] = [*alarms]
                return self.shape.opening(), said
            case Piece():
                if not any(one.text for one in self.choices):
                    self.metrics.first_token.observe(time.monotonic() - self.begun)
                start = sum(map(len, choice.text))
                choice.text.append(event.text)
                read = [token.reading for token in event.tokens if token.reading is not None]
                tokens = [self.meter.at_token(reading, self.monitored) for reading in read]
                choice.readings += read
                choice.tokens += tokens
                logprobs = None
                if self.logprobs:
                    choice.drawn += event.tokens
                    logprobs = self.shape.logprobs(event.tokens, self.name, start)
                return self.shape.piece(event.text, logprobs), {"tokens": [*tokens]}
            case Ended():
                choice.finish = event.reason
                choice.summary = self.meter.summary(choice.readings, self.monitored)
                self.completion_tokens += event.tokens
                self.metrics.tokens.labels("completion").inc(event.tokens)
                self._observe(index, event.tokens)
                return self.shape.closing(), {"summary": choice.summary, **choice.alarms}
        raise AssertionError(event)

    def _observe(self, index: int, tokens: int) -> None:
        """An answer is over: its figures, its line of the log, its alarms."""
        choice, steered = self.choices[index], "yes" if self.steered.steps else "no"
        for found, histogram in ((choice.prompt, self.metrics.prompt), (choice.summary, self.metrics.projection)):
            for trait, along in found.items():
                if isinstance(along, dict) and isinstance(z := along["z"], float):
                    histogram.labels(trait, steered).observe(z)
        id = self.persona_id if len(self.choices) == 1 else f"{self.persona_id}-{index}"
        answer = Observed(
            id, self.model, tuple(self.steered.words), self.said, choice.prompt, choice.summary, tokens,
            "".join(choice.text),
        )  # fmt: skip
        choice.alarms = self.observer.ended(answer)

    @property
    def _tells_persona(self) -> bool:
        return bool(self.monitored or self.steered.steps)

    async def whole(self, request: Request) -> Json:
        """The answer in one piece.

        Raises:
            RequestError: It failed, or the client is gone.
        """
        watch = asyncio.create_task(self._watch(request.receive))
        try:
            async for told in self._events():
                if told is not None:
                    self._take(*told)
        finally:
            watch.cancel()
            self.cancel()
        choices: list[JsonValue] = []
        for index, choice in enumerate(self.choices):
            logprobs = self.shape.logprobs(choice.drawn, self.name, 0) if self.logprobs else None
            whole = self.shape.whole("".join(choice.text), logprobs)
            choices.append({"index": index, **whole, "finish_reason": choice.finish})
        answer: Json = {**self._head(self.shape.object), "choices": choices, "usage": self.usage}
        return {**answer, "persona": self.record()} if self._tells_persona else answer

    def _head(self, object: str) -> Json:
        return {"id": self.id, "object": object, "created": self.created, "model": self.model}

    async def _watch(self, receive: Receive | Callable[[], Any]) -> None:
        """Until the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    async def lines(self, *, with_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        head = self._head(self.shape.chunk)
        unused: Json = {"usage": None} if with_usage else {}
        try:
            async for told in self._events():
                if told is None:
                    yield ": waiting\n\n"
                    continue
                index, event = told
                content, persona = self._take(index, event)
                finish = event.reason if isinstance(event, Ended) else None
                chunk: Json = {**head, "choices": [{"index": index, **content, "finish_reason": finish}], **unused}
                if self._tells_persona:
                    chunk["persona"] = {"id": self.persona_id, **persona}
                yield _line(chunk)
        except RequestError as error:
            yield _line(error.body)
            return
        if with_usage:
            yield _line({**head, "choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"


def _line(value: Json) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """Tells an exchange while it goes on, and ends it when the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, *, with_usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.exchange, self.with_usage = exchange, with_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        watch = asyncio.create_task(self.exchange._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for line in self.exchange.lines(with_usage=self.with_usage):
                await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client is gone
        finally:
            watch.cancel()
            self.exchange.cancel()
