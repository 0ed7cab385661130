"""The tools that an answer calls, from the text that the model wrote.

Models write calls in two ways: JSON between the tags <tool_call> and </tool_call>, behind some text or none, or the
JSON alone, fenced or not. A tokenizer may bring a response template of its own (transformers' `parse_response`), which
goes before. What is no call of a tool that the request offered stays text.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TAG = "<tool_call>"
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_BARE = ("{", "[", "`")  # what an answer begins with that is JSON alone
Parse = Callable[[Sequence[int]], Mapping[str, Any]]  # token ids of an answer to a message


@dataclass(frozen=True)
class Call:
    """One call. `arguments` is a JSON object as text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: "call_" + secrets.token_hex(12))


class Listener:
    """Tells text and calls of one answer apart while it comes.

    Args:
        tools: Names of those that may be called.
        parse: What the tokenizer makes of the whole answer; then nothing is told before its end.
    """

    def __init__(self, tools: Collection[str], parse: Parse | None = None) -> None:
        self._tools, self._parse = tools, parse
        self._held, self._told = "", False

    def hear(self, text: str) -> str:
        """The text that may be told now that this has come."""
        self._held += text
        begun = self._held.lstrip()
        if self._parse is not None or not begun or (not self._told and begun.startswith(_BARE)):
            return ""
        found = self._held.find(TAG)
        free = len(self._held) - _could_be_tag(self._held) if found < 0 else found
        free = len(self._held[:free].rstrip())  # white space before a call is no text
        told, self._held = self._held[:free], self._held[free:]
        self._told = self._told or bool(told)
        return told

    @property
    def held(self) -> str:
        """What came and was not told, as it may be part of a call."""
        return self._held

    def end(self, ids: Sequence[int]) -> tuple[str, list[Call]]:
        """What is left of the text, and the calls.

        Args:
            ids: Of the whole answer.
        """
        found = self._calls(self._held) if self._parse is None else self._parsed(self._parse, ids)
        return found if found is not None else (self._held, [])

    def _parsed(self, parse: Parse, ids: Sequence[int]) -> tuple[str, list[Call]] | None:
        try:
            message = parse(ids)
        except Exception:  # whatever a template's author chose; the text stays
            return None
        written = message.get("tool_calls") or []
        calls = self._known([one.get("function") if isinstance(one, Mapping) else None for one in written])
        return (str(message.get("content") or ""), calls) if calls else None

    def _calls(self, text: str) -> tuple[str, list[Call]] | None:
        if TAG in text:
            written = [_values(block) for block in _TAGGED.findall(text)]
            calls = self._known([value for values in written for value in values])
            return (_TAGGED.sub("", text).strip(), calls) if calls and all(written) else None
        fenced = _FENCE.match(text.strip())
        calls = [] if self._told else self._known(_values(fenced[1] if fenced else text))
        return ("", calls) if calls else None

    def _known(self, values: Sequence[Any]) -> list[Call]:
        """The calls; none where any value is something else."""
        calls = []
        for value in values:
            name = value.get("name") if isinstance(value, Mapping) else None
            if not isinstance(value, Mapping) or not isinstance(name, str) or name not in self._tools:
                return []
            given = value.get("arguments", value.get("parameters", {}))
            if isinstance(given, str):
                given = next(iter(_values(given)), None)
            if not isinstance(given, dict):
                return []
            calls.append(Call(name, json.dumps(given, ensure_ascii=False)))
        return calls


def _could_be_tag(text: str) -> int:
    """How many characters at the end may be the beginning of the tag."""
    return next((size for size in range(len(TAG) - 1, 0, -1) if text.endswith(TAG[:size])), 0)


def _values(text: str) -> list[Any]:
    """JSON values that stand one after the other, those of a list by themselves; none where anything else stands."""
    decoder, found, at = json.JSONDecoder(parse_constant=_no_number), [], 0
    text = text.strip()
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            found += value if isinstance(value, list) else [value]
            at += len(text[at:]) - len(text[at:].lstrip())
    except (ValueError, RecursionError):
        return []
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
