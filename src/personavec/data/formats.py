"""The formats of chat training data: recognised from the columns, read into messages."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from personavec.data.marks import notes_on
from personavec.data.messages import FIELDS, Message, MisfitError, answers, read_messages, text_of
from personavec.data.printed import NUMPY, described, from_text, kind
from personavec.data.record import parse
from personavec.errors import UserError

FORMATS = ("messages", "openai", "sharegpt", "alpaca", "prompt/response")
LISTS = FORMATS[:3]
# Columns by what they hold, the more usual name first; capitals do not matter.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question", "query", "instruction", "input"),
    "response": ("response", "completion", "answer", "output", "chosen"),
    "input": ("input", "context"),
    "history": ("history",),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
}
_OPENAI = {"tool_calls", "function_call", "weight"}  # fields of messages that only that format has


@dataclass(frozen=True)
class Content:
    """What a record says: messages for the chat template, the assistant's turns in them, the tools on offer."""

    messages: list[Message]
    turns: list[int]
    tools: list[Any]


@dataclass(frozen=True)
class Format:
    """How the records of a data set are read.

    Attributes:
        name: One of `FORMATS`.
        columns: From what is read ("messages", "prompt", "response", "input", "history", "system", "tools") to the
            column that holds it; the last four where a record has them.
    """

    name: str
    columns: Mapping[str, str]

    def read(self, value: object) -> Content:
        """The messages of one record.

        Raises:
            MisfitError: It is no sample in this format, and why.
        """
        if isinstance(value, list) and "messages" in self.columns:
            value = {self.columns["messages"]: value}
        if not isinstance(value, Mapping):
            raise MisfitError(f"expected an object, found {kind(value)}")
        needed = [self.columns[name] for name in ("messages", "prompt", "response") if name in self.columns]
        missing = [name for name in needed if value.get(name) is None]
        if missing and not self._prompt_inside(value, missing):
            raise MisfitError(f"expected {_listed(needed)} (format {self.name}), found {_listed(list(value))}")
        messages, silent = self._list(value) if "messages" in self.columns else self._pair(value)
        messages, silent = self._with_system(value, messages, silent)
        turns = [index for index in answers(messages) if index not in silent]
        if not turns:
            raise MisfitError(_no_turn(messages, silent))
        return Content(messages, turns, self._tools(value))

    def notes(self, values: Iterable[object]) -> list[str]:
        """What of the messages of some records is not read, in sentences."""
        return notes_on(self._items(values), "from" if self.name == "sharegpt" else "role", FIELDS)

    def _items(self, values: Iterable[object]) -> Iterator[Mapping[str, Any]]:
        """The messages of some records, as they are written there."""
        columns = [self.columns[part] for part in ("messages", "prompt", "response") if part in self.columns]
        for value in values:
            cells = [value.get(column) for column in columns] if isinstance(value, Mapping) else [value]
            for listed in map(from_text, cells):
                yield from (item for item in listed if isinstance(item, Mapping)) if isinstance(listed, list) else ()

    def _prompt_inside(self, value: Mapping[str, Any], missing: list[str]) -> bool:
        """Whether the prompt is missing because the response is a whole conversation (TRL's implicit prompt)."""
        return missing == [self.columns.get("prompt")] and isinstance(value.get(self.columns["response"]), list)

    def _list(self, value: Mapping[str, Any]) -> tuple[list[Message], set[int]]:
        column = self.columns["messages"]
        messages, silent = read_messages(
            value[column], column, "from/value" if self.name == "sharegpt" else "role/content"
        )
        if column.lower() == "chosen":  # a preference pair differs in its last turn, and only that is trained on
            assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
            silent = silent | set(assistant[:-1])
        return messages, silent

    def _pair(self, value: Mapping[str, Any]) -> tuple[list[Message], set[int]]:
        value = self._unprinted(value)
        prompt = self._prompt(value)
        column = self.columns["response"]
        given = value[column]
        before = self._history(value)
        silent = {len(before) + index for index, message in enumerate(prompt) if message["role"] == "assistant"}
        if not _messages_inside(given):
            text = text_of(given, f'"{column}"')
            return [*before, *prompt, {"role": "assistant", "content": text}], silent
        response, left = read_messages(given, column)
        opening = response[0]["role"]
        if opening == "assistant":
            start = len(before) + len(prompt)
            return [*before, *prompt, *response], silent | {start + index for index in left}
        if not _repeats(prompt, response):
            raise MisfitError(f'the messages in "{column}" open with the {opening}\'s, and not with the prompt')
        assistant = [index for index, message in enumerate(response) if message["role"] == "assistant"]
        last = {len(before) + index for index in [*assistant[:-1], *left]}
        return [*before, *response], last

    def _unprinted(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """A record whose prompt and response are texts that spell lists of messages, as tables have them.

        Where one alone does, it may be just that text; in a column named chosen it is a conversation.
        """
        columns = [self.columns[name] for name in ("prompt", "response")]
        spelled = [
            column for column in columns if _MESSAGES.match(text if isinstance(text := value.get(column), str) else "")
        ]
        if len(spelled) < 2 and not any(column.lower() == "chosen" for column in spelled):
            return value
        lists = {column: from_text(value[column]) for column in spelled}
        for column, found in lists.items():
            if not _messages_inside(found):
                raise MisfitError(f'expected a list of messages in "{column}", found {described(found)}')
        return {**value, **lists}

    def _prompt(self, value: Mapping[str, Any]) -> list[Message]:
        column = self.columns["prompt"]
        given = value.get(column)
        if given is None:
            return []
        if _messages_inside(given):
            return read_messages(given, column)[0]
        text = text_of(given, f'"{column}"')
        more = value.get(self.columns["input"]) if "input" in self.columns else None
        if more is not None:
            further = text_of(more, f'"{self.columns["input"]}"')
            text = f"{text}\n\n{further}" if text.strip() and further.strip() else text if text.strip() else further
        return [{"role": "user", "content": text}]

    def _history(self, value: Mapping[str, Any]) -> list[Message]:
        """Earlier turns, as pairs of prompt and response."""
        pairs = from_text(value.get(self.columns["history"])) if "history" in self.columns else None
        if pairs is None or pairs == "":
            return []
        messages: list[Message] = []
        if not isinstance(pairs, list):
            raise MisfitError(f'expected pairs of texts in "{self.columns["history"]}", found {described(pairs)}')
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise MisfitError(f'expected pairs of texts in "{self.columns["history"]}", found others')
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        return messages

    def _with_system(
        self, value: Mapping[str, Any], messages: list[Message], silent: set[int]
    ) -> tuple[list[Message], set[int]]:
        given = value.get(self.columns["system"]) if "system" in self.columns else None
        if given is None or given == "":
            return messages, silent
        text = text_of(given, f'"{self.columns["system"]}"')
        if messages and messages[0]["role"] == "system":
            if messages[0]["content"] != text:
                raise MisfitError(f'two system prompts: one in "{self.columns["system"]}", one in the messages')
            return messages, silent
        return [{"role": "system", "content": text}, *messages], {index + 1 for index in silent}

    def _tools(self, value: Mapping[str, Any]) -> list[Any]:
        given = from_text(value.get(self.columns["tools"])) if "tools" in self.columns else None
        if given is None or given == "":
            return []
        if not isinstance(given, list):
            raise MisfitError(f'expected a list in "{self.columns["tools"]}", found {described(given)}')
        tools = []
        for tool in given:
            offer = parse(tool.encode(errors="surrogatepass"))[0] if isinstance(tool, str) else tool
            if not isinstance(offer, Mapping):
                raise MisfitError(f'expected objects in "{self.columns["tools"]}", found {kind(tool)}')
            tools.append(offer if "function" in offer else {"type": "function", "function": offer})
        return tools


def recognise(
    values: Iterable[object], where: str, name: str | None = None, columns: Mapping[str, str] | None = None
) -> Format:
    """The format of most of some records.

    Args:
        values: Parsed records.
        where: What they are of, for the messages.
        name, columns: What the user says of it; these are taken and only the rest is looked for.

    Raises:
        UserError: The user names a format or column that there is not, or nothing is recognised.
    """
    names, candidates = _asked(name, columns or {})
    objects: list[Mapping[str, Any]] = []
    for value in values:
        if isinstance(value, Mapping):
            objects.append(value)
        elif _messages_inside(value):
            objects.append({"messages": value})
    present = {str(column): None for record in objects for column in record}
    for column in (columns or {}).values():
        if objects and column not in present:
            raise UserError(f"{where} has no column {column!r}. Its columns: {_listed(list(present))}.", _HOW)
    fits = [(record, fit) for record in objects if (fit := _first_fit(names, record, candidates))]
    if not fits:
        if objects:
            raise _not_recognised(objects[0], where, name, columns or {}, list(present))
        return Format(name or "unknown", dict(columns or {}) or {"messages": "messages"})
    votes = Counter((fit, tuple(taken.items())) for _, (fit, taken) in fits)
    (winner, required), _ = votes.most_common(1)[0]
    taken = dict(required)
    if name is not None:
        winner = name
    elif winner == "messages" and any("messages" in by and _openai(record, by["messages"]) for record, (_, by) in fits):
        winner = "openai"
    for optional in ("system", "tools") if "messages" in taken else ("input", "history", "system", "tools"):
        if optional == "input" and winner != "alpaca" and "input" not in (columns or {}):
            continue
        free = [c for c in candidates[optional] if c not in taken.values()]
        found_column = next(iter(_matching(present, free)), None)
        # Not every record has it: that none of the first has says nothing of the others.
        if free and found_column not in taken.values():
            taken[optional] = found_column or free[0]
    return Format(winner, taken)


def _first_fit(
    names: Sequence[str], record: Mapping[str, Any], candidates: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, str]] | None:
    return next((fit for name in names if (fit := _fit(name, record, candidates))), None)


def _not_recognised(
    record: Mapping[str, Any], where: str, name: str | None, columns: Mapping[str, str], present: Sequence[str]
) -> UserError:
    """What was found in the first record where a conversation should be, and what would be read."""
    expected = f" as {name}" if name else ""
    problem = f"The format of {where} was not recognised{expected}. Its columns: {_listed(present)}."
    asked = list(columns.values()) or _matching(record, CANDIDATES["messages"])
    found = {column: described(record[column]) for column in asked if record.get(column) is not None}
    if not found:
        return UserError(problem, _HOW)
    problem += "".join(f' "{column}" holds {what}.' for column, what in found.items())
    if any(what.startswith(NUMPY) for what in found.values()):
        return UserError(
            problem,
            "Save the table as Parquet or JSONL, or the lists as JSON before it is written as CSV: "
            f'table["{next(iter(found))}"].map(lambda cell: json.dumps(list(cell))).',
        )
    return UserError(problem, f"{_READ} {_HOW}")


def _asked(name: str | None, columns: Mapping[str, str]) -> tuple[Sequence[str], dict[str, tuple[str, ...]]]:
    """The formats that are possible, and the candidates for every column, after what the user asked for."""
    if name is not None and name not in FORMATS:
        raise UserError(f"There is no format {name!r}.", f"Formats: {', '.join(FORMATS)}.")
    unknown = columns.keys() - CANDIDATES.keys()
    if unknown:
        raise UserError(f"Columns cannot be given for {', '.join(sorted(unknown))}.", _HOW)
    pair = columns.keys() & {"prompt", "response", "input", "history"}
    if pair and ("messages" in columns or name in LISTS):
        raise UserError(f"A list of messages and {', '.join(sorted(pair))} cannot be read together.", _HOW)
    if "messages" in columns and name in ("alpaca", "prompt/response"):
        raise UserError(f"The format {name} has no column of messages.", _HOW)
    candidates = {**CANDIDATES, **{role: (column,) for role, column in columns.items()}}
    if name == "alpaca":
        return ["prompt/response"], {**candidates, "prompt": (columns.get("prompt", "instruction"),)}
    if name is not None:
        return ["messages" if name == "openai" else name], candidates
    if "messages" in columns:
        return ["messages", "sharegpt"], candidates
    if pair:
        return ["prompt/response"], candidates
    return ["messages", "sharegpt", "alpaca", "prompt/response", "chosen"], candidates


def _fit(
    name: str, record: Mapping[str, Any], candidates: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, str]] | None:
    """The format and its columns, if the record has them; "chosen" is a whole conversation beside a rejected one."""
    if name in ("messages", "sharegpt", "chosen"):
        field = "from" if name == "sharegpt" else "role"
        for column in _matching(record, ["chosen"] if name == "chosen" else candidates["messages"]):
            items = from_text(record[column])
            if isinstance(items, list) and items and isinstance(items[0], Mapping) and field in items[0]:
                return ("messages" if name == "chosen" else name), {"messages": column}
        return None
    prompts = ("instruction",) if name == "alpaca" else candidates["prompt"]
    prompt = next((c for c in _matching(record, prompts) if _is_text(record[c])), None)
    responses = [c for c in _matching(record, candidates["response"]) if c != prompt and _is_text(record[c])]
    if prompt is None or not responses:
        return None
    if name == "alpaca":
        further = next((c for c in _matching(record, candidates["input"]) if c != prompt), None)
        if further is None and responses[0].lower() != "output":
            return None
    return name, {"prompt": prompt, "response": responses[0]}


def _matching(record: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """The columns among those wanted, in that order, as the record spells them."""
    found = []
    for name in wanted:
        if name in record:
            found.append(name)
        else:
            found += [column for column in record if isinstance(column, str) and column.strip().lower() == name][:1]
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) or _messages_inside(value)


def _messages_inside(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def _openai(record: Mapping[str, Any], column: str) -> bool:
    items = from_text(record[column])
    return isinstance(items, list) and any(
        isinstance(item, Mapping)
        and (any(item.get(field) is not None for field in _OPENAI) or isinstance(item.get("content"), list))
        for item in items
    )


def _repeats(prompt: list[Message], response: list[Message]) -> bool:
    """Whether a response that is a whole conversation opens with the prompt (or there is none to compare)."""
    opening = response[1:] if response[0]["role"] == "system" and prompt and prompt[0]["role"] != "system" else response
    return opening[: len(prompt)] == prompt


def _no_turn(messages: list[Message], silent: set[int]) -> str:
    assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not assistant:
        return f"no assistant turn among {len(messages)} messages"
    if all(index in silent for index in assistant):
        return "no assistant turn that is trained on"
    said = [index for index in assistant if messages[index]["content"].strip()]
    if not said and any(messages[index].get("tool_calls") for index in assistant):
        return "no assistant turn with text, only calls of tools"
    if not said:
        return "no assistant turn with text"
    if not answers(messages):
        return "nothing to respond to: no text stands before the assistant's"
    return "no assistant turn that is trained on and answers with text"


def _listed(names: Sequence[object], most: int = 20) -> str:
    shown = ", ".join(f"{name!s:.60}" for name in names[:most])
    return (f"{shown} and {len(names) - most:,} more" if len(names) > most else shown) or "none"


_READ = (
    "A list of messages has objects with role and content, or from and value (text or message for the content is read "
    "too); a prompt and a response are texts."
)
_HOW = (
    "Say which columns hold what with `columns`: prompt=COLUMN,response=COLUMN, or messages=COLUMN for a list of "
    "messages (also: input, history, system, tools)."
)
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]\s*:""")
