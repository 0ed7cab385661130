"""What requests may say. A field that is not here is refused by name; one that has no effect may only say so."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personavec.data.messages import MisfitError, read_messages
from personavec.serving.answers import UsageTold
from personavec.serving.failures import RequestError

Zero = Annotated[float, Field(ge=0, le=0)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Condition = Annotated[str, Field(pattern=r"^[<>]\s?-?\d{1,6}(\.\d{1,9})?$")]
ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGE = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
MOST = 128  # choices of one request


class Strict(BaseModel):
    """Takes nothing that it does not know, and no number or truth value written as something else."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class PersonaBody(Strict):
    """The field `persona` of a request.

    Attributes:
        steer: Coefficients by trait.
        ablate: Traits.
        cap, floor: Bounds by trait, in deviations of neutral tokens; null: none, whatever the server's default is.
        when: Conditions by trait, such as ">3": what is done acts while the reading meets all of them.
        monitor: Traits whose readings are told; all of them unless said otherwise.
        id: What its readings are called.
        conversation: What its conversation is called; it is known by what was said before unless it has a name.
    """

    steer: dict[str, float] | None = None
    ablate: list[str] | None = None
    cap: dict[str, float | None] | None = None
    floor: dict[str, float | None] | None = None
    when: Annotated[dict[str, Condition], Field(min_length=1)] | None = None
    monitor: list[str] | None = None
    id: Identifier | None = None
    conversation: Identifier | None = None


class StreamOptions(Strict):
    """How a stream is told.

    Attributes:
        include_usage: Of tokens, at the end.
        continuous_usage_stats: And on the way (vLLM's name for it; programs that measure servers ask for it).
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] = False


class _Sampling(Strict):
    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    persona: PersonaBody | None = None
    user: str | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def longest(self) -> int | None:
        """Tokens of the longest response; None: nothing is said."""
        return self.max_tokens

    @property
    def length_field(self) -> str | None:
        """Where that is said."""
        return next((name for name in ("max_completion_tokens", "max_tokens") if getattr(self, name, None)), None)

    @property
    def usage(self) -> UsageTold:
        """When a stream tells it."""
        options = self.stream_options or StreamOptions()
        if not options.include_usage:
            return UsageTold.NEVER
        return UsageTold.ALWAYS if options.continuous_usage_stats else UsageTold.AT_THE_END

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class ResponseFormat(Strict):
    """Only text."""

    type: Literal["text"]


class ChatBody(_Sampling):
    """Of `/v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def longest(self) -> int | None:
        """Tokens of the longest response; None: nothing is said."""
        said = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(said) > 1:
            raise RequestError(400, "max_tokens and max_completion_tokens differ. Give one of them.", "max_tokens")
        return next(iter(said), None)

    @property
    def told_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told; None: no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError(400, "top_logprobs needs logprobs to be true.", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def read_messages(self, source: str = "messages") -> list[dict[str, Any]]:
        """The messages as chat templates take them; `source` is the field that errors name."""
        given = [{key: value for key, value in message.items() if value is not None} for message in self.messages]
        for place, message in enumerate(given):
            if unknown := [key for key in message if key not in MESSAGE]:
                where = f"{source}.{place}.{unknown[0]}"
                raise RequestError(400, f"A message may hold {', '.join(MESSAGE)}; this one has {where}.", where)
            if message.get("role") not in ROLES:
                where = f"{source}.{place}.role"
                raise RequestError(400, f"{where} must be one of {', '.join(ROLES)}.", where)
        try:
            return read_messages(given, source)[0]
        except MisfitError as error:
            raise RequestError(400, f"{error}.", source) from error

    def read_tools(self) -> list[dict[str, Any]]:
        """The tools that the template is told of."""
        for place, tool in enumerate(self.tools or ()):
            function = tool.get("function")
            named = isinstance(function, dict) and isinstance(function.get("name"), str)
            if tool.get("type") != "function" or not named:
                raise RequestError(400, "A tool is of type function, and its function has a name.", f"tools.{place}")
        return [] if self.tool_choice == "none" else list(self.tools or ())


class CompletionBody(_Sampling):
    """Of `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: None = None

    @property
    def told_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told; None: no log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        found: list[str | list[int]] = [one for one in self.prompt if not isinstance(one, int)]
        if not 1 <= len(found) <= MOST:
            raise RequestError(400, f"Give 1 to {MOST} prompts.", "prompt")
        return found


Body = TypeVar("Body", bound=Strict)


def checked(kind: type[Body], value: Any) -> Body:
    """A body of a kind.

    Raises:
        RequestError: Naming the first field that is wrong.
    """
    if not isinstance(value, dict):
        raise RequestError(400, "The body must be a JSON object.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = _path(first["loc"], value)
        if first["type"] != "extra_forbidden":
            raise RequestError(400, f"{param}: {first['msg']:.300}.", param) from error
        holders: dict[tuple[str | int, ...], type[BaseModel]] = {(): kind, ("persona",): PersonaBody}
        around = holders.get(first["loc"][:-1])
        known = f" Known are {', '.join(around.model_fields)}." if around else ""
        raise RequestError(400, f"Unknown field {param}.{known}", param) from error


def _path(steps: Sequence[str | int], value: Any) -> str:
    """Where an error is, without the names that validation gives to the kinds that a field may be of."""
    path: list[str] = []
    for place, step in enumerate(steps):
        inside = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if inside or (isinstance(value, Mapping) and step in value):
            value = value[step]
        elif place:
            continue
        path.append(str(step))
    return ".".join(path)[:100]
