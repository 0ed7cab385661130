"""Messages as chat templates take them, from the ways in which people write them down."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from personavec.data.marks import MarkError, left_out
from personavec.data.printed import described, from_text, kind
from personavec.data.record import parse

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
NAMES = {"role/content": ("role", "content"), "from/value": ("from", "value")}  # of a message's two fields
CONTENTS = ("content", "value", "text", "message")  # what the second of them is called elsewhere
KEPT = ("name", "tool_call_id")  # other fields that chat templates know
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # what a thought's field is called; the first is ours
FIELDS = {"role", "from", "tool_calls", "function_call", *CONTENTS, *KEPT, *THOUGHTS}  # all that are read


class MisfitError(Exception):
    """A record is no sample; the text says why, as a reason for the user."""


def read_messages(value: object, column: str, style: str = "role/content") -> tuple[list[Message], set[int]]:
    """The messages of a list, and the indexes of those whose marks say that they are not to be trained on.

    Args:
        column: Where the list stands, for the reasons.
        style: A key of `NAMES`.

    Raises:
        MisfitError: Not a list of messages; which message, what was expected and what was found.
    """
    listed = from_text(value)
    if not isinstance(listed, list):
        raise MisfitError(f'expected a list of messages in "{column}", found {described(listed)}')
    messages: list[Message] = []
    left: set[int] = set()
    for number, item in enumerate(listed, 1):
        message = _message(item, f"message {number}", style)
        try:
            if left_out(item):
                left.add(len(messages))
        except MarkError as error:
            raise MisfitError(f"message {number}: {error}") from error
        messages.append(message)
    return messages, left


def answers(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indexes of the assistant's turns that have text and answer something: a greeting is context.

    Where nobody else speaks, the system prompt is what is answered.
    """
    said = [i for i, message in enumerate(messages) if (message.get("content") or "").strip()]
    others = [i for i in said if messages[i]["role"] in ("user", "tool")]
    first = next(iter(others or [i for i in said if messages[i]["role"] == "system"]), len(messages))
    return [i for i in said if messages[i]["role"] == "assistant" and i > first]


def text_of(value: object, where: str) -> str:
    """Text that may be written as a list of text parts.

    Raises:
        MisfitError: It is something else.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise MisfitError(f"expected text in {where}, found {kind(value)}")
    texts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = (
                f"of type {part['type']}" if isinstance(part, Mapping) and "type" in part else f"that is {kind(part)}"
            )
            raise MisfitError(f"{where} has a part {what:.60}; only text can be read")
        texts.append(part["text"])
    return "".join(texts)


def _message(item: object, where: str, style: str) -> Message:
    if not isinstance(item, Mapping):
        raise MisfitError(f"{where}: expected an object, found {kind(item)}")
    role_name, content_name = NAMES[style]
    if role_name not in item:
        found = ", ".join(map(str, list(item)[:5])) or "nothing"
        raise MisfitError(f'{where}: expected "{role_name}" and "{content_name}", found {found:.100}')
    written = item[role_name]
    role = ROLES.get(written.strip().lower()) if isinstance(written, str) else None
    if role is None:
        shown = json.dumps(written, default=str)
        raise MisfitError(f"{where}: expected a role such as system, user, assistant or tool, found {shown:.60}")
    where = f"{where} ({role})"
    content_name, content = _content(item, content_name, where)
    calls = _calls(item, where)
    if written.strip().lower() == "function_call" and isinstance(content, str) and not calls:
        calls = _written_calls(content, where)
        content = "" if calls else content
    if content is None and calls:
        content = ""
    if content is None:
        fields = ", ".join(f"{name!s:.30}" for name in list(item)[:5])
        raise MisfitError(f'{where} has no "{content_name}", its fields are {fields}')
    message: Message = {"role": role, "content": text_of(content, f'"{content_name}" of {where}')}
    if calls:
        if role != "assistant":
            raise MisfitError(f"{where} calls a tool, and only the assistant can")
        message["tool_calls"] = calls
    for name in KEPT:
        if item.get(name) is not None:
            if not isinstance(item[name], str):
                raise MisfitError(f'{where}: expected text as "{name}", found {kind(item[name])}')
            message[name] = item[name]
    thought = _thought(item, where)
    if thought is not None:
        message[THOUGHTS[0]] = thought
    return message


def _thought(item: Mapping[str, Any], where: str) -> str | None:
    """What stands in a field for the thought, None where there is none; true and false are switches and no thoughts."""
    found = {}
    for name in THOUGHTS:
        if item.get(name) is not None and not isinstance(item[name], bool):
            found[name] = text_of(item[name], f'"{name}" of {where}')
    given = {text.strip() for text in found.values() if text.strip()}
    if len(given) > 1:
        raise MisfitError(f"{where} has two thoughts: {' and '.join(found)} differ")
    return next((text for text in found.values() if text.strip()), None)


def _content(item: Mapping[str, Any], name: str, where: str) -> tuple[str, Any]:
    """The field of a message that holds what is said, and what it holds: the style's own, or the one there is."""
    if item.get(name) is not None:
        return name, item[name]
    others = [other for other in CONTENTS if isinstance(item.get(other), str | list)]
    if len(others) > 1:
        raise MisfitError(f'{where} has no "{name}" but both "{others[0]}" and "{others[1]}"')
    return (others[0], item[others[0]]) if others else (name, None)


def _calls(item: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Tool calls as chat templates take them, arguments as an object."""
    given = item.get("tool_calls")
    if given is None and item.get("function_call") is not None:
        given = [{"function": item["function_call"]}]
    given = from_text(given)
    if given is None or given == "":
        return []
    if not isinstance(given, list):
        raise MisfitError(f'{where}: expected a list as "tool_calls", found {kind(given)}')
    return [_call(call, where) for call in given]


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MisfitError(f"{where}: a tool call names no function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        parsed, reason = parse(arguments.encode(errors="surrogatepass"))
        arguments = parsed if reason is None and isinstance(parsed, dict) else arguments
    id = call.get("id") if isinstance(call, Mapping) else None
    named = {"id": id} if isinstance(id, str) else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _written_calls(content: str, where: str) -> list[dict[str, Any]]:
    """The calls of a ShareGPT turn from `function_call`, whose text is JSON; none where it is not."""
    parsed, reason = parse(content.encode(errors="surrogatepass"))
    calls = parsed if isinstance(parsed, list) else [parsed]
    if reason or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return []
    return [_call(call, where) for call in calls]
