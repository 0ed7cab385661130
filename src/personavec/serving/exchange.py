"""One request on its way: what the engine tells of it becomes what the client gets, and the record of its readings."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from personavec.serving.answers import Choice, Json, Shape, Told, Usage
from personavec.serving.calls import Listener
from personavec.serving.engine import Begun, Ended, Event, Failed, Job, Piece
from personavec.serving.failures import RequestError, failure
from personavec.serving.guard import Receive, Scope, Send
from personavec.serving.metrics import Metrics
from personavec.serving.observer import Observed, Observer, Said
from personavec.serving.persona import Steered
from personavec.serving.readings import Meter

WAIT = 10.0  # seconds of silence after which a waiting client gets a comment, for proxies not to hang up
GONE = 499  # the status of a request whose client does not wait for the answer; nobody sees it


@dataclass(eq=False)
class Exchange:
    """A request that the engine has taken on.

    Attributes:
        persona_id: What its readings are called.
        monitored, read: Traits whose readings are told, and those that are read: these, or what the observer needs.
        listening: Makes what tells calls of tools from text, of one answer; None: no tool may be called.
        begun: When it came, `time.monotonic`.
        observer, said: Who looks at its answers, and what was said before them.
        aside: Does something with the tokenizer on another thread.
        client: Whose it is; see `Job`.
    """

    shape: Shape
    persona_id: str
    steered: Steered
    monitored: Sequence[str]
    read: Sequence[str]
    meter: Meter
    metrics: Metrics
    observer: Observer
    said: Said
    aside: Callable[..., Awaitable[Any]]
    listening: Callable[[], Listener] | None = None
    client: int = 0
    begun: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._listeners: list[Listener] = []

    def teller(self, first: int, count: int) -> Callable[[Event], None]:
        """For a job whose responses are the choices from `first` on: takes its events, on whatever thread."""
        self.choices += [Choice() for _ in range(count)]
        if self.listening is not None:
            self._listeners += [self.listening() for _ in range(count)]

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is over, and so is whoever waited
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (first, event))

        return tell

    def cancel(self) -> None:
        """Nobody waits for more."""
        for job in self.jobs:
            job.cancelled = True
        self._queue.put_nowait(None)

    def close(self) -> None:
        """Nobody waits for more, and whatever is not over is booked as far as it came."""
        self.cancel()
        while not self._queue.empty():
            first, event = self._queue.get_nowait() or (0, None)
            if isinstance(event, Begun | Piece):
                self._comes(first + event.choice, event)
        for index, choice in enumerate(self.choices):
            if choice.begun and choice.finish is None:
                self._over(index, choice, choice.written)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(job.prompt_ids) for job in self.jobs)

    @property
    def kept(self) -> int:
        """Tokens that are held of it: of its prompts, and of its answers with their readings."""
        return self.prompt_tokens + sum(
            len(choice.tokens) + len(choice.ids) + len(choice.drawn) for choice in self.choices
        )

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
                    "prompt": self._told(choice.prompt),
                    "tokens": [*choice.tokens],
                    "summary": self._told(choice.summary),
                    **choice.alarms,
                    **({} if choice.steered is None else {"steered_tokens": choice.steered}),
                }
                for index, choice in enumerate(self.choices)
            ],
        }

    async def _events(self) -> AsyncIterator[tuple[int, Begun | Piece | Ended] | None]:
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

    async def _take(self, index: int, event: Begun | Piece | Ended) -> Told:
        """Book an event: what the client is told of it."""
        return await self._ends(index, event) if isinstance(event, Ended) else self._comes(index, event)

    def _comes(self, index: int, event: Begun | Piece) -> Told:
        choice = self.choices[index]
        if isinstance(event, Begun):
            return self._begins(index, choice, event)
        return self._goes_on(index, choice, event)

    def _begins(self, index: int, choice: Choice, event: Begun) -> Told:
        choice.begun = True
        if event.reading is not None:
            choice.prompt = self.meter.at_prompt(event.reading, self.read)
        said: Json = {"steering": [*self.steered.words], "prompt": self._told(choice.prompt)}
        if self.steered.doubts:
            said["warnings"] = [*self.steered.doubts]
        if alarms := self.observer.begun(self._observed(index, choice)):
            said["alarms"] = [*alarms]
        return Told(index, self._usage, begins=True, persona=self._persona(said))

    def _goes_on(self, index: int, choice: Choice, event: Piece) -> Told:
        if not any(one.text for one in self.choices):
            self.metrics.first_token.observe(time.monotonic() - self.begun)
        text, start = event.text, sum(map(len, choice.text))
        if self._listeners:
            text = self._listeners[index].hear(text)
            choice.ids += [token.id for token in event.tokens]
        choice.text.append(text)
        choice.written += len(event.tokens)
        read = [token.reading for token in event.tokens if token.reading is not None]
        tokens = [self.meter.at_token(reading, self.monitored) for reading in read]
        choice.readings += read
        choice.tokens += tokens
        if self.shape.name is not None:
            choice.drawn += event.tokens
        persona = self._persona({"tokens": [*tokens]})
        return Told(index, self._usage, text=text, tokens=event.tokens, start=start, persona=persona)

    async def _ends(self, index: int, event: Ended) -> Told:
        choice, text = self.choices[index], ""
        if self._listeners:
            text, choice.calls = await self.aside(self._listeners[index].end, choice.ids)
            choice.text.append(text)
        choice.finish = "tool_calls" if choice.calls and event.reason == "stop" else event.reason
        self._over(index, choice, event.tokens)
        said: Json = {"summary": self._told(choice.summary), **choice.alarms}
        if self.steered.conditions:
            said["steered_tokens"] = choice.steered = event.steered
        persona = self._persona(said)
        return Told(index, self._usage, text=text, calls=choice.calls, finish=choice.finish, persona=persona)

    def _over(self, index: int, choice: Choice, tokens: int) -> None:
        """An answer came to its end, or will not: its figures, its line of the log, its alarms."""
        choice.summary = self.meter.summary(choice.readings, self.read)
        choice.written = tokens
        self.metrics.tokens.labels("completion").inc(tokens)
        self.metrics.answers.labels(choice.finish or "abandoned").inc()
        steered = "yes" if self.steered.steps else "no"
        for found, histogram in ((choice.prompt, self.metrics.prompt), (choice.summary, self.metrics.projection)):
            for trait, along in found.items():
                if isinstance(along, dict) and isinstance(z := along["z"], float):
                    histogram.labels(trait, steered).observe(z)
        choice.alarms = self.observer.ended(self._observed(index, choice, tokens))

    def _observed(self, index: int, choice: Choice, tokens: int = 0) -> Observed:
        id = self.persona_id if len(self.choices) == 1 else f"{self.persona_id}-{index}"
        held = self._listeners[index].held if self._listeners and choice.finish is None else ""
        return Observed(
            id, str(self.shape.head["model"]), tuple(self.steered.words), self.said, choice.prompt, choice.summary,
            tokens, "".join(choice.text) + held, abandoned=choice.finish is None, told=self.monitored,
        )  # fmt: skip

    def _told(self, found: Json) -> Json:
        return {trait: along for trait, along in found.items() if trait in self.monitored}

    def _persona(self, said: Json) -> Json | None:
        return {"id": self.persona_id, **said} if self._tells_persona else None

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
                    await self._take(*told)
        finally:
            watch.cancel()
            self.close()
        return self.shape.whole(self.choices, self._usage, self._read)

    @property
    def _usage(self) -> Usage:
        written = sum(choice.written for choice in self.choices)
        return Usage(self.prompt_tokens, written, sum(job.reused for job in self.jobs))

    @property
    def _read(self) -> Json | None:
        return self.record() if self._tells_persona else None

    async def _watch(self, receive: Receive | Callable[[], Any]) -> None:
        """Until the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    async def lines(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            async for told in self._events():
                if told is None:
                    yield ": waiting\n\n"
                    continue
                for event in self.shape.events(await self._take(*told)):
                    yield self._line(event)
        except RequestError as error:
            yield self._line(self.shape.failed(error))
            return
        for event in self.shape.last(self.choices, self._usage, self._read):
            yield self._line(event)
        yield self.shape.end

    def _line(self, event: Json) -> str:
        data = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return f"event: {event['type']}\ndata: {data}\n\n" if self.shape.named else f"data: {data}\n\n"


class EventStream(Response):
    """Tells an exchange while it goes on, and ends it when the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        watch = asyncio.create_task(self.exchange._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for line in self.exchange.lines():
                await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client is gone
        finally:
            watch.cancel()
            self.exchange.close()
