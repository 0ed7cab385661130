"""The server: OpenAI's endpoints over a step loop, and what it reads of every answer."""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, ParamSpec, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.serving.answers import ChatShape, CompletionShape, Json, Shape
from personavec.serving.bodies import ChatBody, CompletionBody, checked
from personavec.serving.calls import Listener
from personavec.serving.engine import BusyError, ClosingError, Job, StepLoop
from personavec.serving.exchange import EventStream, Exchange
from personavec.serving.facts import facts
from personavec.serving.failures import RequestError, failure
from personavec.serving.guard import CLIENT, Guard
from personavec.serving.metrics import Metrics
from personavec.serving.observer import Observer, Said, named
from personavec.serving.page import page_routes
from personavec.serving.persona import Asked, Cast, asks_to_steer, of_body, of_header
from personavec.serving.responses import ResponsesBody, ResponseShape
from personavec.serving.settings import ServeSettings
from personavec.serving.strict import parse

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

LARGEST = 4 << 20  # bytes of a body
PATIENCE = 30.0  # seconds that a body may take to arrive
RECORDS = 256  # requests whose readings are kept,
RECORDED = 500_000  # and tokens that they hold together: some kB each along many vectors
NAME = "default"  # what clients call the model


class Service:
    """A model, its personas, and the requests on their way.

    Args:
        cast: The vectors, with what is done by default.
        observer: Who looks at the answers; None: nobody.
    """

    def __init__(self, model: ChatModel, cast: Cast, settings: ServeSettings, observer: Observer | None = None) -> None:
        self.model, self.cast, self.settings = model, cast, settings
        self.loop = StepLoop(model, cast.vectors, settings)
        self.metrics = Metrics(
            {"running_responses": lambda: self.loop.running, "waiting_requests": lambda: self.loop.waiting}
        )
        self.observer = (observer or Observer(cast.vectors)).counting(self.metrics)
        for operation, trait, number in cast.default.steps:
            self.metrics.default_steering.labels(operation.option, trait).set(1.0 if number is None else number)
        self.records: OrderedDict[tuple[int, str], Exchange] = OrderedDict()  # by client and id
        self.started = int(time.time())
        self._encoding = asyncio.Lock()  # one at a time: tokenizers switch their settings

    def named(self, model: str | None) -> Asked:
        """What the name of a model asks for.

        Raises:
            RequestError: There is no such model, or requests may not steer.
        """
        for own in (NAME, self.model.id):
            if model is None or model == own:
                return {}
            if model.startswith(own) and (asked := self.cast.of_alias(model.removeprefix(own))) is not None:
                self._check_steering("model")
                return asked
        raise RequestError(404, f"There is no model {model!r:.80}. GET /v1/models lists them.", "model")

    def _check_steering(self, field: str | None) -> None:
        """Refuse a field by which a request steers, where it may not.

        Raises:
            RequestError: It may not.
        """
        if field is not None and not self.settings.client_steering:
            raise RequestError(
                403,
                f"{field}: requests to this server may not steer (it runs without `client_steering`). Leave it out; "
                "answers are steered as the server is, and read.",
                field,
            )

    async def chat(self, body: ChatBody, steer: str, client: int = 0) -> Exchange:
        """Take a chat on; `client`: whose, see `Job`."""
        name = self.loop.name if body.told_logprobs is not None else None
        shape = ChatShape(self._head(ChatShape, body.model), name, usage=body.usage)
        return await self._chat(shape, body, steer, client, "messages")

    async def response(self, asked: ResponsesBody, steer: str, client: int = 0) -> Exchange:
        """Take a chat on that comes as the input of a response."""
        shape = ResponseShape(self._head(ResponseShape, asked.model), asked)
        try:
            return await self._chat(shape, asked.as_chat(), steer, client, "input")
        except RequestError as error:
            if error.param == "max_tokens":
                error.param = "max_output_tokens"
            raise

    async def _chat(self, shape: Shape, body: ChatBody, steer: str, client: int, source: str) -> Exchange:
        messages, tools = body.read_messages(source), body.read_tools()
        if tools and not self.model.template.takes_tools:
            raise RequestError(
                400, "The model's chat template has no place for tools; it would never see them.", "tools"
            )
        try:
            ids = await self._aside(self.model.template.prompt_ids, messages, tools)
        except UserError as error:
            raise failure(error, source) from error
        listening = partial(self._listener, ids, tools) if tools else None
        said = self.observer.said(messages, body.persona.conversation if body.persona else None, client)
        return self._exchange(shape, body, [ids], said, steer, client, source, listening)

    async def _aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the tokenizer while the loop goes on."""
        async with self._encoding:
            return await asyncio.to_thread(work, *args, **kwargs)

    def _listener(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> Listener:
        """Tells the calls of an answer from its text: as the tokenizer's own response template says, if it has one."""
        names, tokenizer = [tool["function"]["name"] for tool in tools], self.model.tokenizer
        if getattr(tokenizer, "response_template", None) is None:
            return Listener(names)
        return Listener(names, lambda answer: tokenizer.parse_response(answer, prefix=ids, tools=list(tools)))

    async def completion(self, body: CompletionBody, steer: str, client: int = 0) -> Exchange:
        """Take prompts on that are not put into the chat template."""
        if len(body.prompts) > self.settings.queue:  # there would never be room for them: "come again" would not help
            raise RequestError(400, f"Give at most {self.settings.queue} prompts: so many may wait.", "prompt")
        prompts = [await self._aside(self._plain, prompt) for prompt in body.prompts]
        name = self.loop.name if body.told_logprobs is not None else None
        shape = CompletionShape(self._head(CompletionShape, body.model), name, usage=body.usage)
        conversation = named(body.persona.conversation if body.persona else None, client)
        said = Said(conversation, whole=secrets.token_hex(8) if conversation else "")  # every request is a turn
        return self._exchange(shape, body, prompts, said, steer, client, "prompt")

    @staticmethod
    def _head(shape: type[Shape], model: str | None) -> Json:
        return {"id": shape.prefix + secrets.token_hex(12), "created": int(time.time()), "model": model or NAME}

    def _plain(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            ids: list[int] = self.model.tokenizer(prompt)["input_ids"]
            return ids
        rows = self.model.model.get_input_embeddings().weight.shape[0]
        if not all(0 <= id < rows for id in prompt):
            raise RequestError(400, f"Token ids are 0 to {rows - 1}.", "prompt")
        return prompt

    def _exchange(
        self,
        shape: Shape,
        body: ChatBody | CompletionBody,
        prompts: Sequence[list[int]],
        said: Said,
        steer: str,
        client: int,
        source: str,
        listening: Callable[[], Listener] | None = None,
    ) -> Exchange:
        self._check_steering(asks_to_steer(steer, body.persona))
        asked = [self.named(body.model), of_header(steer), of_body(body.persona)]
        when = body.persona.when if body.persona else None
        steered, monitored = self.cast.steered(*asked, when=when), self.cast.monitored(body.persona)
        read = self.observer.traits or monitored
        name = (body.persona and body.persona.id) or str(shape.head["id"])
        exchange = Exchange(
            shape,
            name,
            steered,
            monitored,
            read,
            self.loop.meter,
            self.metrics,
            self.observer,
            said,
            self._aside,
            listening,
            client,
        )
        left = self.model.context_length - max(map(len, prompts))
        if body.longest is not None and 0 < left < body.longest:
            context = f"the model's context of {self.model.context_length}"
            problem = f"The prompt leaves room for {left} tokens in {context}. Ask for at most as many."
            raise RequestError(400, problem, body.length_field)
        n, seed = body.n or 1, secrets.randbits(62) if body.seed is None else body.seed % (1 << 64)
        jobs = [
            Job(
                ids,
                exchange.teller(place * n, n),
                body.longest or max(1, min(self.settings.max_new_tokens, self.model.context_length - len(ids))),
                n,
                1.0 if body.temperature is None else body.temperature,
                1.0 if body.top_p is None else body.top_p,
                (seed + place * n) % (1 << 64),
                body.stops,
                steered.interventions,
                body.told_logprobs,
                bool(read or steered.conditions),
                partial(self.loop.meter.met, steered.conditions) if steered.conditions else None,
                client,
            )
            for place, ids in enumerate(prompts)
        ]
        try:
            for job in jobs:
                self.loop.submit(job)
                exchange.jobs.append(job)
        except (UserError, BusyError, ClosingError) as error:
            exchange.cancel()
            too_long = body.length_field if left > 0 and all(prompts) else None
            raise failure(error, "n" if n > self.settings.places else too_long or source) from error
        self._booked(exchange)
        return exchange

    def _booked(self, exchange: Exchange) -> None:
        self.metrics.tokens.labels("prompt").inc(exchange.prompt_tokens)
        for operation, trait, _ in exchange.steered.steps:
            self.metrics.steering.labels(operation.option, trait).inc()
        key = exchange.client, exchange.persona_id
        self.records.pop(key, None)
        self.records[key] = exchange
        held = sum(one.kept for one in self.records.values())
        while len(self.records) > RECORDS or (held > RECORDED and len(self.records) > 1):
            held -= self.records.popitem(last=False)[1].kept


async def body_of(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        RequestError: It is none, or too much, or takes too long.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "Send JSON, with the header Content-Type: application/json.")
    close = {"Connection": "close"}  # nobody reads the rest
    too_large = RequestError(413, f"The body is larger than {LARGEST} bytes.", headers=close)
    most = 2 * LARGEST  # what is a little too large is read to its end: a client that still sends would miss the answer
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most:
        raise too_large
    raw, size = bytearray(), 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                if size <= LARGEST:
                    raw += part
    except TimeoutError as error:
        raise RequestError(408, f"The body took longer than {PATIENCE:.0f} s to arrive.", headers=close) from error
    if size > LARGEST:
        raise too_large
    return parse(bytes(raw))


def _steer(request: Request) -> str:
    """What the header X-Persona-Steer says; several of them are one list (RFC 9110, 5.3)."""
    return ",".join(request.headers.getlist("x-persona-steer"))


def _client(request: Request) -> int:
    """Which of the API keys it came with; 0: there are none."""
    return int(request.scope.get(CLIENT, 0))


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What the description of the API says of a body."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _describe(app: FastAPI) -> None:
    """Put the bodies into the description of the API, which FastAPI cannot know of."""
    bodies: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (ChatBody, "validation"),
        (CompletionBody, "validation"),
        (ResponsesBody, "validation"),
    ]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
    app.openapi().setdefault("components", {})["schemas"] = schemas["$defs"]


def openai_routes(service: Service) -> APIRouter:
    """What OpenAI's clients ask for."""
    routes = APIRouter()

    async def told(request: Request, body: ChatBody | CompletionBody | ResponsesBody, exchange: Exchange) -> Response:
        return EventStream(exchange) if body.stream else JSONResponse(await exchange.whole(request))

    @routes.post("/v1/chat/completions", openapi_extra=_takes(ChatBody))
    async def chat_completions(request: Request) -> Response:
        body = checked(ChatBody, await body_of(request))
        return await told(request, body, await service.chat(body, _steer(request), _client(request)))

    @routes.post("/v1/completions", openapi_extra=_takes(CompletionBody))
    async def completions(request: Request) -> Response:
        body = checked(CompletionBody, await body_of(request))
        return await told(request, body, await service.completion(body, _steer(request), _client(request)))

    @routes.post("/v1/responses", openapi_extra=_takes(ResponsesBody))
    async def responses(request: Request) -> Response:
        body = checked(ResponsesBody, await body_of(request))
        return await told(request, body, await service.response(body, _steer(request), _client(request)))

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.started, "owned_by": "personavec"}

    @routes.get("/v1/models")
    async def models() -> Response:
        aliases = service.cast.aliases() if service.settings.client_steering else []
        names = [NAME, *(NAME + alias for alias in aliases)]
        return JSONResponse({"object": "list", "data": [model(name) for name in names]})

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        service.named(name)
        return JSONResponse(model(name))

    return routes


def own_routes(service: Service) -> APIRouter:
    """What the server knows besides."""
    routes = APIRouter()
    known = {
        **facts(service.cast, service.model.id, service.observer.limits),
        "client_steering": service.settings.client_steering,
    }

    @routes.get("/v1/persona/vectors")
    async def vectors() -> Response:
        return JSONResponse(known)

    @routes.get("/v1/persona/readings/{id}")
    async def readings(id: str, request: Request) -> Response:
        found = service.records.get((_client(request), id))
        if found is None:
            raise RequestError(404, f"There are no readings {id!r:.80}; those of the last {RECORDS} requests are kept.")
        return JSONResponse(found.record())

    @routes.get("/health")
    async def health() -> Response:
        state = {"status": "ok" if service.loop.alive else "down", "model": service.model.id,
                 "running": service.loop.running, "waiting": service.loop.waiting}  # fmt: skip
        return JSONResponse(state, 200 if service.loop.alive else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def create_app(service: Service, *, keys: Sequence[str] = (), hosts: Sequence[str] | None = None) -> FastAPI:
    """The server as an ASGI application; see `Guard` for its arguments. Its end is the service's."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.loop.close)
        await asyncio.to_thread(service.observer.close)

    app = FastAPI(
        title="personavec", version=version("personavec"), docs_url=None, redoc_url=None, lifespan=life,
        exception_handlers={
            RequestError: _told_error, HTTPException: _told_error, Exception: _told_error,
        },
    )  # fmt: skip
    app.include_router(openai_routes(service))
    app.include_router(own_routes(service))
    app.include_router(page_routes())
    _describe(app)
    endpoints = set(app.openapi()["paths"])
    app.add_middleware(Guard, keys=keys, hosts=hosts, endpoints=endpoints, metrics=service.metrics)
    return app


async def _told_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        headers: Mapping[str, str] = error.headers or {}
        error = RequestError(error.status_code, f"{error.detail}.", headers=headers)
    told = failure(error)
    return JSONResponse(told.body, told.status, headers=dict(told.headers))
