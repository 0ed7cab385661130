"""From chat messages to token ids, with the exact span of every response."""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from personavec.errors import UserError
from personavec.model.messages import (
    PLACEHOLDER,
    THOUGHT,
    THOUGHT_FIELDS,
    Message,
    check_whole,
    disarmed,
    split_thought,
)

HOLE = PLACEHOLDER.format("answer")  # stands in a rendering where an answer will

# For models without a chat template.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].capitalize() + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


_INSTRUCTION = {"role": "system", "content": "Wm5"}
_PROBE = [{"role": "user", "content": "Zk4"}, {"role": "assistant", "content": "Qx7"}]


@dataclass(frozen=True)
class Conversation:
    """One token sequence and the spans that are read in it.

    Attributes:
        ids: Token ids.
        spans: Half-open token ranges, one per response; without end-of-turn markers.
        prompts: For the turns of a given conversation, one past the last token of each one's prompt. Between there and
            the span stand a thought and what the template writes before an answer, such as the name of its channel.
        written: For the same turns, the first token that the model itself would write: the prompt's end, or the span's
            begin where nothing but an empty thought stands between.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    prompts: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """An assistant's turn as the template writes it, special tokens in it disarmed.

    Attributes:
        opening: All up to where the model begins to write.
        header: What the template writes between there and the content.
        content: The answer, behind its thought where the template takes thoughts as part of the content.
        thought: Whether it has one.
        opened: What the opening holds after the mark of a thought that it leaves open; None if it does not.
    """

    opening: str
    header: str
    content: str
    thought: bool
    opened: str | None

    @property
    def text(self) -> str:
        """All three, one after the other."""
        return self.opening + self.header + self.content


class Template:
    """The chat template of one tokenizer.

    Args:
        tokenizer: A transformers tokenizer.
        thinking: Let a reasoning model think and keep its thoughts in the response span. Off: the template is asked not
            to open a thought, and what stands up to the closing mark of one is left out of the span.

    Attributes:
        has_system_role: Whether the template takes a system message; if not, the instruction is put before the first
            user message.
        notes: What had to be assumed, in sentences for the user.
        lead: Token ids that stand between every prompt and an answer without a thought: they end a thought that the
            prompt leaves open, or name the answer's channel. None where thoughts are kept.
        hash: Short hash of the template's text.

    Raises:
        UserError: The template leaves the user's text out.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.notes: list[str] = []
        text = getattr(tokenizer, "chat_template", None)
        self._own = text if isinstance(text, str) and text else None
        if self._own is None and not isinstance(text, dict):
            self.notes.append("The model has no chat template: turns are written as 'User: ...' and 'Assistant: ...'.")
        self.hash = hashlib.sha256(repr(text or PLAIN_TEMPLATE).encode()).hexdigest()[:16]
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = frozenset(token.content for token in added if token.special)
        self._marks = special.union(tokenizer.all_special_tokens) - {""}
        vocabulary = tokenizer.get_vocab()
        self._thought = {mark: vocabulary[mark] for mark in THOUGHT if mark in vocabulary}
        self._thought_end = self._thought.get(THOUGHT[1])
        joined = self.tokenizer("Zk4 Qx7", add_special_tokens=False)["input_ids"]
        self._spaces = joined == self._plain("Zk4") + self._plain("Qx7")  # whether the tokenizer marks words itself
        self._parts: frozenset[str] = frozenset()
        self._parts = self._roles_in_parts()
        self.has_system_role = self._takes_system()
        if not self.has_system_role:
            self.notes.append(
                "The chat template has no system role: the instruction is put before the first user message."
            )
        # Without thinking and with it: what follows the mark of a thought that the prompt leaves open.
        self._opened = {thought: self._left_open(thought) for thought in (False, True)}
        self._field = self._thought_field()
        self._header, self._inner = "", frozenset[int]()
        self._learn_header()
        self.lead = self._between()
        self._channel = self._tokens(self._header, [], start=False)
        self._named = any(mark in self._header for mark in self._marks)
        if not thinking and (self._opened[False] is not None or (self._named and self._field)):
            self.notes.append(
                "The model thinks before every answer, and only what follows the thought counts: leave room for both "
                "with `max_new_tokens`, or count the thoughts too with `thinking` True."
            )

    def _roles_in_parts(self) -> frozenset[str]:
        """The roles whose content the template takes as a list of parts only.

        Raises:
            UserError: It writes the user's text down in neither way.
        """
        parts: set[str] = set()
        for role, turns in (("user", _PROBE[:1]), ("assistant", _PROBE), ("system", [_INSTRUCTION, *_PROBE[:1]])):
            mark = next(turn["content"] for turn in turns if turn["role"] == role)
            seen = self._writes(mark, turns)
            if seen:
                continue
            self._parts = frozenset(parts | {role, "tool"} if role == "user" else parts | {role})
            if self._writes(mark, turns):
                parts = set(self._parts)
            elif role == "user" and seen is not None:
                raise UserError(
                    "The chat template leaves the user's text out of the prompt.",
                    "Correct the template (chat_template.jinja, or the tokenizer's chat_template), or choose a model "
                    "whose template writes texts down.",
                )
            self._parts = frozenset(parts)
        return frozenset(parts)

    def _writes(self, text: str, turns: Sequence[Message]) -> bool | None:
        """Whether a text of these messages stands in their rendering; None where the template refuses them."""
        try:
            return text in self._render(turns, turns[-1]["role"] != "assistant")
        except UserError:
            return None

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes down what tools there are."""
        function = {"name": "Tk3", "description": "", "parameters": {"type": "object", "properties": {}}}
        try:
            return "Tk3" in self._render(_PROBE[:1], True, tools=[{"type": "function", "function": function}])
        except UserError:
            return False

    def _thought_field(self) -> str | None:
        """The field from which the template takes a thought apart from the content; None if there is none."""
        for name in THOUGHT_FIELDS:
            user, answer = _PROBE
            try:
                text = self._render([user, {**answer, name: "Vq9"}], False, thought=True)
            except UserError:
                continue
            if 0 <= text.find("Vq9") < text.find(answer["content"]):
                return name
        return None

    def _learn_header(self) -> None:
        """What the template usually writes before an answer, and the tokens after which a turn goes on."""
        user, answer = _PROBE
        try:
            usual = self._written([user, answer], 1, (), None)
            self._header = usual.header
            headers = [usual.header]
            if self._field:
                headers.append(self._written([user, {**answer, self._field: "Vq9"}], 1, (), None).header)
        except UserError:
            return
        self._inner = frozenset(id for header in headers for id in self._tokens(header, [], start=False))

    def _between(self) -> list[int]:
        if self.thinking:
            return []
        try:
            [conversation] = self.conversations(_PROBE)
        except UserError:
            return []
        return conversation.ids[conversation.prompts[0] : conversation.spans[0][0]]

    def goes_on(self, token: int) -> bool:
        """Whether a token stands inside an assistant's turn, between a thought and its answer, say."""
        return token in self._inner

    def _left_open(self, thought: bool) -> str | None:
        """What a prompt holds after the mark of a thought that it leaves for the model to go on with; None if none."""
        if len(self._thought) < len(THOUGHT):
            return None
        try:
            text = self._render([{"role": "user", "content": "x"}], True, thought=thought)
        except UserError:
            return None
        _, mark, after = text.rpartition(THOUGHT[0])
        return after if mark and not after.strip() else None

    def _ended(self, opened: str) -> list[int]:
        """Token ids that end an empty thought whose mark is already followed by `opened`."""
        return self.answer_ids("\n\n".removeprefix(opened) + THOUGHT[1] + "\n\n")

    def _takes_system(self) -> bool:
        turns = [_INSTRUCTION, _PROBE[0]]
        return all(self._writes(turn["content"], turns) for turn in turns)

    def _render(
        self, messages: Sequence[Message], prompt: bool, *, thought: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        thinking = self.thinking or thought
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": prompt, "enable_thinking": thinking}
        if tools:
            options["tools"] = list(tools)
        if self._own is None and not isinstance(self.tokenizer.chat_template, dict):
            options["chat_template"] = PLAIN_TEMPLATE
        try:
            text: str = self.tokenizer.apply_chat_template([self._in_parts(m) for m in messages], **options)
        except Exception as error:  # Jinja templates raise whatever their author chose.
            first = next((m["role"] for m in messages if m["role"] != "system"), "user")
            greets = ", which open with the assistant's turn" if first == "assistant" else ""
            raise UserError(
                f"The chat template refuses these messages{greets}: {error}.",
                "Roles must alternate between user and assistant, with at most one system message first.",
            ) from error
        return text

    def _in_parts(self, message: Message) -> dict[str, Any]:
        if message["role"] not in self._parts:
            return dict(message)
        return {**message, "content": [{"type": "text", "text": message["content"]}]}

    def _arranged(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template can take them: a system message it has no role for goes into the user turn.

        A message that calls tools may go without content.
        """
        messages = [{**m, "content": ""} if m.get("tool_calls") and m.get("content") is None else m for m in messages]
        for message in messages:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise UserError(
                    "A message needs a 'role' and a 'content', both text.", f"Found: {dict(message)!r:.200}"
                )
        messages = [self._with_thought(m) if m["role"] == "assistant" else m for m in messages]
        if not messages or messages[0]["role"] != "system" or self.has_system_role:
            return list(messages)
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            return [{"role": "user", "content": system["content"]}, *rest]
        joined = f"{system['content']}\n\n{rest[0]['content']}"
        return [{"role": "user", "content": joined}, *rest[1:]]

    def _with_thought(self, message: Message) -> Message:
        """An assistant's message with its thought where the template looks for it: in a field, or in the content."""
        fields = [message[name] for name in THOUGHT_FIELDS if isinstance(message.get(name), str)]
        given = next((text.strip("\n") for text in fields if text.strip()), None)
        rest = {name: value for name, value in message.items() if name not in THOUGHT_FIELDS}
        content = message["content"]
        within, answer = split_thought(content) if self._thinks(content) else (None, content)
        if given and within and given.strip() != within.strip():
            raise UserError("A message has two thoughts, one in its content.", f"Found: {dict(message)!r:.200}")
        if self._field is not None:
            thought = within or given or within
            return rest if thought is None else {**rest, "content": answer, self._field: thought}
        if given is None or within is not None:
            return rest
        return {**rest, "content": f"{THOUGHT[0]}\n{given}\n{THOUGHT[1]}\n\n{answer}"}

    def _thinks(self, content: str) -> bool:
        """Whether a thought stands in a content before the answer. Prompts that open one leave its first mark out."""
        opened = self._thought_end is not None or content.lstrip().startswith(THOUGHT[0])
        return THOUGHT[1] in content and opened

    def _tokens(self, text: str, held: Sequence[str], *, start: bool) -> list[int]:
        """Token ids of rendered text; a placeholder becomes its content as plain text, special tokens spelt out."""
        ids: list[int] = []
        for i, piece in enumerate(re.split(PLACEHOLDER.format(r"(\d+)"), text)):
            if i % 2:
                ids += self._plain(held[int(piece)])
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if start and self._own is None and bos is not None and getattr(self.tokenizer, "add_bos_token", False):
            ids = [bos, *ids]
        return ids

    def _plain(self, text: str) -> list[int]:
        """Token ids of text in which special tokens are only characters."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """Token ids of a prompt: the messages and the opening of the assistant's turn.

        Raises:
            UserError: A message without role and content, or a template that refuses the messages or leaves one out.
        """
        safe, calm, held = disarmed(self._arranged(messages), tools, self._marks)
        text = self._render(safe, True, tools=calm)
        check_whole(safe, text)
        return self._tokens(text, held, start=True)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of a response as the model would have written it after a prompt (no end-of-turn marker)."""
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(THOUGHT)})", text):
            if piece:
                ids += [self._thought[piece]] if piece in self._thought else self._plain(piece)
        return ids

    def turn_end(self, stops: Collection[int]) -> list[int]:
        """Token ids with which the template ends an assistant's turn, up to and including the first that is in `stops`.

        A template that has no such mark gets the tokenizer's end of sequence, if there is one.
        """
        ids = self._tokens(self._render(_PROBE, False).rpartition(_PROBE[1]["content"])[2], [], start=False)
        for place, token in enumerate(ids):
            if token in stops:
                return ids[: place + 1]
        eos = getattr(self.tokenizer, "eos_token_id", None)
        return [] if eos is None else [eos]

    def response_start(self, ids: Sequence[int]) -> int:
        """Index of the first token of a generated response that is not thought (0 when nothing was or it is kept).

        A thought that was cut short is all there is: the index is then the length. The prompt may have opened it.
        """
        if self.thinking or not self._channel:
            return self._after_thought(ids, self._opened[False] is not None)
        ids, size = list(ids), len(self._channel)
        if not self._named:
            start = size if ids[:size] == self._channel else 0
            return start + self._after_thought(ids[start:], self._opened[False] is not None)
        named = [at + size for at in range(len(ids) - size + 1) if ids[at : at + size] == self._channel]
        return named[-1] if named else len(ids) if ids[:1] == self._channel[:1] else 0

    def _after_thought(self, ids: Sequence[int], opened: bool) -> int:
        if self.thinking or self._thought_end is None:
            return 0
        if self._thought_end not in ids:
            return len(ids) if opened or (ids and ids[0] == self._thought.get(THOUGHT[0])) else 0
        start = len(ids) - list(ids)[::-1].index(self._thought_end)
        while start < len(ids) and not self.tokenizer.decode([ids[start]]).strip():
            start += 1
        return start

    def conversations(
        self, messages: Sequence[Message], turns: Sequence[int] | None = None, tools: Sequence[Any] = ()
    ) -> list[Conversation]:
        """Every assistant turn of a conversation but one that opens it, with its span; or those at `turns`.

        The prompt of a turn is tokenised as `prompt_ids` does and the answer on its own, so the ids are those of a
        generation. What the template writes between the two (a channel's name, an empty thought) stands between them.
        Usually one sequence holds all turns; a template that rewrites earlier turns (drops their thoughts, say) gets
        one sequence per turn. Where the prompt opens a thought and the answer has none, an empty one is put between
        them, so that the prompt ends where it does in a generation and the answer is not read as a thought. A template
        that writes a turn down in another way than it opens one is followed in what it writes down.

        Raises:
            UserError: No assistant turn, a message without role and content, or a template that refuses the messages,
                leaves out what stands before an answer, or does not write an answer down.
        """
        arranged = self._arranged(messages)
        safe, calm, held = disarmed(arranged, tools, self._marks)
        merged = len(messages) - len(arranged)  # a system message that went into the user's turn
        turns = (
            [i for i, message in enumerate(arranged) if message["role"] == "assistant" and i]
            if turns is None
            else [turn - merged for turn in turns]
        )
        if not turns:
            raise UserError(
                "The conversation has no assistant turn that follows another.",
                "At least one message must be the assistant's answer.",
            )
        last = self._render(safe[: turns[-1] + 1], False, tools=calm)
        made = [self._written(safe, turn, calm, last, self._thinks(arranged[turn]["content"])) for turn in turns]
        check_whole(safe[: turns[-1]], made[-1].opening)
        whole = Conversation([], [])
        position = 0
        for turn, written in zip(turns, made, strict=True):
            if not last.startswith(written.text):
                break
            whole.ids.extend(self._tokens(written.opening[position:], held, start=position == 0))
            self._answer(whole, written, arranged[turn]["content"], held)
            position = len(written.text)
        if len(whole.spans) == len(turns):
            return [whole]
        separate = []
        for turn, written in zip(turns, made, strict=True):
            separate.append(Conversation(self._tokens(written.opening, held, start=True), []))
            self._answer(separate[-1], written, arranged[turn]["content"], held)
        return separate

    def _written(
        self, messages: Sequence[Message], turn: int, tools: Sequence[Any], last: str | None, inline: bool = False
    ) -> Turn:
        """The turn as the template writes it when nothing follows it.

        Args:
            messages: Disarmed.
            last: A rendering that the turn may stand in; what is found there need not be rendered.
            inline: Whether a thought stands in the content.

        Raises:
            UserError: The answer does not stand in the rendering, or not once, or changes what stands before it.
        """
        message, before = messages[turn], messages[:turn]
        content: str = message["content"]
        thought = inline or (self._field is not None and self._field in message)
        opened = self._opened[thought]
        opening = self._render(before, True, thought=thought, tools=tools)
        usual = Turn(opening, "" if thought else self._header, content, thought, opened)
        if last is not None and (inline or not thought) and last.startswith(usual.text):
            return usual if THOUGHT[1] not in usual.header else replace(usual, opened=None)
        answer = split_thought(content)[1] if inline else content
        own = content.removesuffix(answer)  # the thought in the content
        hollow = self._render([*before, {**message, "content": own + HOLE}], False, thought=thought, tools=tools)
        if hollow.count(HOLE) != 1:
            raise UserError(
                "The chat template does not write an answer down where it stands.",
                "Answers cannot be found in what it writes.",
            )
        text = hollow.partition(HOLE)[0]
        if not thought:
            own_text = self._render([*before, message], False, tools=tools)
            if not (own_text.startswith(text) and own_text[len(text) :].lstrip().startswith(content.strip())):
                raise UserError(
                    "The chat template writes this answer, or what stands before it, in other words than it is given.",
                    "Such an answer cannot be found in what it writes.",
                )
        stem, mark, tail = opening.rpartition(THOUGHT[0])
        if not mark or tail.replace(THOUGHT[1], "").strip():
            stem, tail = opening, ""
        if own:  # The thought is tokenised with its answer.
            text = text[
                : min(
                    at for part in (THOUGHT[0], own.strip(), HOLE) if (at := (text + HOLE).find(part, len(stem))) >= 0
                )
            ]
        if text.startswith(opening):
            header = text.removeprefix(opening)
            return Turn(opening, header, content, thought, None if THOUGHT[1] in header else opened)
        if text.startswith(stem) and stem != opening:
            # What a prompt has more than a turn that is over, and the model is used to, is the mark of a thought.
            rest = text.removeprefix(stem)
            if not rest.strip() and (opened is not None or THOUGHT[1] in tail):
                return Turn(opening, "", content, thought, opened)
            if thought and rest.startswith(THOUGHT[0]):
                return Turn(stem + THOUGHT[0], rest.removeprefix(THOUGHT[0]), content, thought, None)
        return Turn(text, "", content, thought, None)

    def _answer(self, conversation: Conversation, turn: Turn, content: str, held: Sequence[str]) -> None:
        """Append a response and its span, which is without the thought and without what names its channel.

        Args:
            content: The turn's, special tokens spelt out.
        """
        ids, opened = conversation.ids, turn.opened
        prompt = len(ids)
        conversation.prompts.append(prompt)
        # Spaces belong to the token of the word that follows; some tokenizers put one there by themselves.
        header = turn.header.rstrip(" ")
        space = "" if self._spaces or not content else turn.header.removeprefix(header)
        ids.extend(self._tokens(header, held, start=False))
        empty = THOUGHT[1] in header and not turn.thought
        if opened is not None:
            if content.lstrip().startswith(THOUGHT[0]):
                content = content.lstrip().removeprefix(THOUGHT[0]).removeprefix(opened)
            elif THOUGHT[1] not in content:
                ids.extend(self._ended(opened))
                opened, empty = None, True
        answer = self.answer_ids(space + content)
        low = len(ids) + self._after_thought(answer, opened is not None)
        if self.thinking and turn.thought:
            low = prompt
        ids.extend(answer)
        conversation.spans.append((low, len(ids)))
        conversation.written.append(prompt if (turn.thought or header) and not empty else low)
