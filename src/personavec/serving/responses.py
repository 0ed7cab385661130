"""`/v1/responses`: what a request may say, and how its answer is told. Text and calls of functions; nothing is kept."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from personavec.serving.answers import Choice, Json, Shape, Told, Usage
from personavec.serving.bodies import ROLES, ChatBody, PersonaBody, ResponseFormat, Strict
from personavec.serving.calls import Call
from personavec.serving.failures import RequestError

PARTS = ("text", "input_text", "output_text")
HOLDS = {  # what items and parts may hold: what is read, and what OpenAI's clients send back of an answer
    "message": ("type", "role", "content", "id", "status"),
    "function_call": ("type", "call_id", "name", "arguments", "id", "status"),
    "function_call_output": ("type", "call_id", "output", "id", "status"),
    "part": ("type", "text", "annotations", "logprobs"),
}


def _stateless(value: Any) -> None:
    if value is not None:
        raise ValueError("this server keeps no responses; send the whole conversation as input")


def _not_stored(value: Any) -> Any:
    if value:
        raise ValueError("this server keeps no responses; leave it out or send false")
    return value


Stateless = Annotated[None, BeforeValidator(_stateless)]


class TextConfig(Strict):
    """How the text comes: plainly."""

    format: ResponseFormat | None = None


class ResponsesBody(Strict):
    """Of `/v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    text: TextConfig | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    persona: PersonaBody | None = None
    store: Annotated[bool | None, AfterValidator(_not_stored)] = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    previous_response_id: Stateless = None
    conversation: Stateless = None
    prompt: Stateless = None

    def as_chat(self) -> ChatBody:
        """The same as a chat.

        Raises:
            RequestError: An item of the input that is not text, a call or what a call gave.
        """
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        if not items:
            _wrong("input", "holds nothing")
        messages: list[dict[str, Any]] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        for place, item in enumerate(items):
            _add(messages, item, f"input.{place}")
        return ChatBody(
            messages=messages,
            tools=None if self.tools is None else [_chat_tool(tool, i) for i, tool in enumerate(self.tools)],
            tool_choice=self.tool_choice, model=self.model, temperature=self.temperature, top_p=self.top_p,
            seed=self.seed, max_tokens=self.max_output_tokens, stream=self.stream, persona=self.persona,
        )  # fmt: skip


def _wrong(where: str, what: str) -> NoReturn:
    raise RequestError(400, f"{where} {what}.", where)


def _known(kind: str, item: Mapping[str, Any], where: str) -> None:
    for key, value in item.items():
        if value is not None and key not in HOLDS[kind]:
            _wrong(f"{where}.{key}", f"is unknown: a {kind} may hold {', '.join(HOLDS[kind])}")


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """Write an item of the input as a message; calls that stand side by side go into one."""
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind in HOLDS:
        _known(kind, item, where)
    match kind:
        case "message":
            if item.get("role") not in ROLES:
                _wrong(f"{where}.role", f"must be one of {', '.join(ROLES)}")
            content = item.get("content")
            if isinstance(content, list):
                content = [_part(part, f"{where}.content.{i}") for i, part in enumerate(content)]
            messages.append({"role": item["role"], "content": content})
        case "function_call":
            given = [item.get(key) for key in ("call_id", "name", "arguments")]
            if not all(isinstance(value, str) for value in given):
                _wrong(where, "is a call, and needs call_id, name and arguments, all text")
            id, name, arguments = given
            call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            if messages and messages[-1].get("role") == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        case "function_call_output":
            if not isinstance(item.get("call_id"), str):
                _wrong(where, "is what a call gave, and needs the call_id of the call")
            output = item.get("output")
            if isinstance(output, list):
                output = [_part(part, f"{where}.output.{i}") for i, part in enumerate(output)]
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        case _:
            _wrong(f"{where}.type", "must be message, function_call or function_call_output")


def _part(part: Any, where: str) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in PARTS:
        _wrong(where, f"must be of type {', '.join(PARTS)}")
    _known("part", part, where)
    return {"type": "text", "text": part.get("text")}


def _chat_tool(tool: Mapping[str, Any], place: int) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        _wrong(f"tools.{place}", "must be of type function, with a name")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


class ResponseShape(Shape):
    """How the answer is told: a message, if there is text, and one item for each call.

    Args:
        body: What was asked; parts of it are told again.
    """

    prefix, named, end = "resp_", True, ""

    def __init__(self, head: Json, body: ResponsesBody) -> None:
        super().__init__(head)
        self._asked: Json = {
            "instructions": body.instructions, "metadata": dict(body.metadata or {}), "tools": [*(body.tools or ())],
            "tool_choice": body.tool_choice or "auto", "parallel_tool_calls": True, "temperature": body.temperature,
            "top_p": body.top_p, "max_output_tokens": body.max_output_tokens, "previous_response_id": None,
            "store": False, "truncation": "disabled", "text": {"format": {"type": "text"}}, "user": body.user,
        }  # fmt: skip
        self._key = str(head["id"]).removeprefix(self.prefix)
        self._number = 0
        self._open = False
        self._text = ""

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _response(self, status: str, output: Sequence[Json], **fields: Any) -> Json:
        told: Json = {
            "id": self.head["id"], "object": "response", "created_at": self.head["created"], "status": status,
            "model": self.head["model"], "output": [*output], "error": None, "incomplete_details": None, "usage": None,
        }  # fmt: skip
        return {**told, **self._asked, **fields}

    def _message(self, text: str | None, status: str) -> Json:
        content: list[JsonValue] = [] if text is None else [_output_text(text)]
        return {"id": "msg_" + self._key, "type": "message", "role": "assistant", "status": status, "content": content}

    def events(self, told: Told) -> Iterator[Json]:
        """The beginning, text as it comes, and the end of every item."""
        persona: Any = {} if told.persona is None else {"persona": told.persona}
        if told.begins:
            yield self._event("response.created", response=self._response("in_progress", []), **persona)
            yield self._event("response.in_progress", response=self._response("in_progress", []))
            return
        message: Any = {"item_id": "msg_" + self._key, "output_index": 0, "content_index": 0}
        over = told.finish is not None
        if not self._open and (told.text or (over and not told.calls)):
            self._open = True
            yield self._event("response.output_item.added", output_index=0, item=self._message(None, "in_progress"))
            yield self._event("response.content_part.added", **message, part=_output_text(""))
        if told.text:
            self._text += told.text
            yield self._event("response.output_text.delta", **message, delta=told.text, logprobs=[], **persona)
        if not over:
            return
        if self._open:
            yield self._event("response.output_text.done", **message, text=self._text, logprobs=[])
            yield self._event("response.content_part.done", **message, part=_output_text(self._text))
            item = self._message(self._text, _status(told.finish))
            yield self._event("response.output_item.done", output_index=0, item=item)
        for place, call in enumerate(told.calls, int(self._open)):
            yield from self._called(call, place)

    def _called(self, call: Call, place: int) -> Iterator[Json]:
        item = _function_call(call)
        where: Any = {"item_id": item["id"], "output_index": place}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=place, item=begun)
        yield self._event("response.function_call_arguments.delta", **where, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **where, arguments=call.arguments, name=call.name)
        yield self._event("response.output_item.done", output_index=place, item=item)

    def last(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Iterator[Json]:
        """The response as a whole."""
        response = self.whole(choices, usage, persona)
        yield self._event(f"response.{response['status']}", response=response)

    def whole(self, choices: Sequence[Choice], usage: Usage, persona: Json | None) -> Json:
        """All items."""
        [choice] = choices
        status, text = _status(choice.finish), "".join(choice.text)
        output = [self._message(text, status)] if text or not choice.calls else []
        output += [_function_call(call) for call in choice.calls]
        tokens: Json = {
            "input_tokens": usage.prompt, "output_tokens": usage.completion, "total_tokens": usage.total,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        read: Any = {} if persona is None else {"persona": persona}
        return self._response(status, output, usage=tokens, incomplete_details=details, **read)

    def failed(self, error: RequestError) -> Json:
        """An event of its own."""
        return self._event("error", code=None, message=error.message, param=error.param)


def _status(finish: str | None) -> str:
    return "incomplete" if finish == "length" else "completed"


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(call: Call) -> Json:
    return {
        "id": call.id.replace("call_", "fc_"), "type": "function_call", "call_id": call.id, "name": call.name,
        "arguments": call.arguments, "status": "completed",
    }  # fmt: skip
