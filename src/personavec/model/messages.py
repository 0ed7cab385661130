"""Chat messages, apart from any tokenizer: their thoughts, what must stand in a prompt, and special tokens in them."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from personavec.errors import UserError

Message = Mapping[str, Any]  # {"role", "content"}, and what a template may know besides, such as "tool_calls"

PLACEHOLDER = "\ue0f3{}\ue0f4"
THOUGHT = ("<think>", "</think>")
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a message, for its thought

# What templates change in a text that they write down: white space, and switches that they follow.
_LOOSE = re.compile(r"\s+|/(no_?)?think\b|/system_override\b")


def split_thought(content: str) -> tuple[str | None, str]:
    """The thought that stands before an answer in its text, None if there is none, and the answer."""
    before, mark, answer = content.rpartition(THOUGHT[1])
    if not mark:
        return None, content
    return before.lstrip().removeprefix(THOUGHT[0]).strip("\n"), answer.lstrip("\n")


def check_whole(messages: Sequence[Message], text: str) -> None:
    """Make sure that what was said to the model, and its calls of tools, stand in what a template made of it.

    In their order, but for a system message, which some templates put elsewhere. What the model itself said may be
    written in another way: templates leave thoughts out.

    Raises:
        UserError: Something does not.
    """
    text, position = _LOOSE.sub("", text), 0
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            if _end_of(content, text, 0) is None:
                raise _left_out("what the system says")
            continue
        names = [str(call.get("function", call).get("name", "")) for call in message.get("tool_calls") or ()]
        said = [] if role == "assistant" else [(content, f"what the {role} says")]
        for written, what in [*said, *((name, f"the call of the tool {name}") for name in names)]:
            end = _end_of(written, text, position)
            if end is None:
                raise _left_out(what)
            position = end


def _end_of(written: str, text: str, start: int) -> int | None:
    """Where it ends in a rendering, as it is or as JSON in one of its two ways; None: it is not there."""
    written = written.strip()
    spelt = [written, *(json.dumps(written, ensure_ascii=ascii)[1:-1] for ascii in (False, True))]
    bare = {_LOOSE.sub("", one) for one in spelt}
    return min((at + len(one) for one in bare if (at := text.find(one, start)) >= 0), default=None)


def _left_out(what: str) -> UserError:
    return UserError(
        f"The chat template leaves out {what}.",
        "Correct the template (chat_template.jinja, or the tokenizer's chat_template), or choose a model whose "
        "template writes such messages down.",
    )


def disarmed(
    messages: Sequence[Message], tools: Sequence[Any], marks: frozenset[str]
) -> tuple[list[Message], list[Any], list[str]]:
    """Messages whose content spells a special token get a placeholder instead; with the contents it stands for.

    So do the special tokens themselves inside tools and calls of tools, which templates write as JSON. The thoughts
    of an assistant turn stay as they are: templates look for them.

    Args:
        marks: The tokenizer's special tokens.
    """
    safe: list[Message] = []
    held: list[str] = []
    everywhere = {*marks, *PLACEHOLDER.split("{}")}
    spelt = _spelt(marks)

    def hold(found: re.Match[str]) -> str:
        held.append(found[0])
        return PLACEHOLDER.format(len(held) - 1)

    def within(value: Any) -> Any:
        if isinstance(value, str):
            return spelt.sub(hold, value)
        if isinstance(value, Mapping):
            return {within(key): within(item) for key, item in value.items()}
        return [within(item) for item in value] if isinstance(value, list | tuple) else value

    for message in messages:
        message = {key: value if key == "content" else within(value) for key, value in message.items()}
        spelling = everywhere - {*(THOUGHT if message["role"] == "assistant" else ())}
        if any(mark in message["content"] for mark in spelling):
            safe.append({**message, "content": PLACEHOLDER.format(len(held))})
            held.append(message["content"])
        else:
            safe.append(message)
    return safe, [within(tool) for tool in tools], held


@cache
def _spelt(marks: frozenset[str]) -> re.Pattern[str]:
    """Finds them and the parts of a placeholder, the longest first."""
    return re.compile("|".join(map(re.escape, sorted({*marks, *PLACEHOLDER.split("{}")}, key=len, reverse=True))))
