"""From chat messages to token ids, with the exact span of every response."""

import hashlib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personavec.errors import UserError

log = logging.getLogger(__name__)

Message = Mapping[str, Any]  # {"role", "content"}, and what a template may know besides, such as "tool_calls"

PLACEHOLDER = "\ue0f3{}\ue0f4"
THOUGHT = ("<think>", "</think>")

# For models without a chat template.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].capitalize() + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Conversation:
    """One token sequence and the spans that are read in it.

    Attributes:
        ids: Token ids.
        spans: Half-open token ranges, one per response; without end-of-turn markers.
        prompts: For the turns of a given conversation, one past the last token of each one's prompt. A thought stands
            between there and the span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    prompts: list[int] = field(default_factory=list)


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
        empty_thought: Token ids that end the thought which every prompt leaves open, so that an answer can follow; none
            where no thought is open or thoughts are kept.
        hash: Short hash of the template's text.
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
        self._marks = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)} - {""}
        vocabulary = tokenizer.get_vocab()
        self._thought = {mark: vocabulary[mark] for mark in THOUGHT if mark in vocabulary}
        self._thought_end = self._thought.get(THOUGHT[1])
        self.has_system_role = self._takes_system()
        if not self.has_system_role:
            self.notes.append(
                "The chat template has no system role: the instruction is put before the first user message."
            )
        # Without thinking and with it: what follows the mark of a thought that the prompt leaves open.
        self._opened = {thought: self._left_open(thought) for thought in (False, True)}
        self.empty_thought: list[int] = []
        if (opened := self._opened[False]) is not None and not thinking:
            self.empty_thought = self._ended(opened)
            self.notes.append(
                "The model thinks before every answer, and only what follows the thought counts: leave room for both "
                "with --max-new-tokens, or count the thoughts too with --thinking."
            )

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
        try:
            text = self._render([{"role": "system", "content": "Qx7"}, {"role": "user", "content": "Zk4"}], True)
        except UserError:
            return False
        return "Qx7" in text and "Zk4" in text

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
            text: str = self.tokenizer.apply_chat_template([dict(m) for m in messages], **options)
        except Exception as error:  # Jinja templates raise whatever their author chose.
            raise UserError(
                f"The chat template refuses these messages: {error}.",
                "Roles must alternate between user and assistant, with at most one system message first.",
            ) from error
        return text

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
        if not messages or messages[0]["role"] != "system" or self.has_system_role:
            return list(messages)
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            return [{"role": "user", "content": system["content"]}, *rest]
        joined = f"{system['content']}\n\n{rest[0]['content']}"
        return [{"role": "user", "content": joined}, *rest[1:]]

    def _disarmed(
        self, messages: Sequence[Message], tools: Sequence[Any] = ()
    ) -> tuple[list[Message], list[Any], list[str]]:
        """Messages whose content spells a special token get a placeholder instead; with the contents it stands for.

        So do the special tokens themselves inside tools and calls of tools, which templates write as JSON. The thoughts
        of an assistant turn stay as they are: templates look for them.
        """
        safe: list[Message] = []
        held: list[str] = []
        everywhere = {*self._marks, *PLACEHOLDER.split("{}")}
        spelt = re.compile("|".join(map(re.escape, sorted(everywhere, key=len, reverse=True))))

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
            marks = everywhere - {*(THOUGHT if message["role"] == "assistant" else ())}
            if any(mark in message["content"] for mark in marks):
                safe.append({**message, "content": PLACEHOLDER.format(len(held))})
                held.append(message["content"])
            else:
                safe.append(message)
        return safe, [within(tool) for tool in tools], held

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
        """Token ids of a prompt: the messages and the opening of the assistant's turn."""
        safe, calm, held = self._disarmed(self._arranged(messages), tools)
        return self._tokens(self._render(safe, True, tools=calm), held, start=True)

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
        turns = [{"role": "user", "content": "Zk4"}, {"role": "assistant", "content": "Qx7"}]
        ids = self._tokens(self._render(turns, False).rpartition("Qx7")[2], [], start=False)
        for place, token in enumerate(ids):
            if token in stops:
                return ids[: place + 1]
        eos = getattr(self.tokenizer, "eos_token_id", None)
        return [] if eos is None else [eos]

    def response_start(self, ids: Sequence[int]) -> int:
        """Index of the first token of a generated response that is not thought (0 when nothing was or it is kept).

        A thought that was cut short is all there is: the index is then the length. The prompt may have opened it.
        """
        return self._after_thought(ids, self._opened[False] is not None)

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
        """Every assistant turn of a conversation, with its span; or those that stand at `turns` in the messages.

        The prompt of a turn is tokenised as `prompt_ids` does and the answer on its own, so the ids are those of a
        generation. Usually one sequence holds all turns; a template that rewrites earlier turns (drops their thoughts,
        say) gets one sequence per turn. Where the prompt opens a thought and the answer has none, an empty one is put
        between them, so that the prompt ends where it does in a generation and the answer is not read as a thought.

        Raises:
            UserError: No assistant turn, or a message without role and content.
        """
        arranged = self._arranged(messages)
        safe, calm, held = self._disarmed(arranged, tools)
        merged = len(messages) - len(arranged)  # a system message that went into the user's turn
        turns = (
            [i for i, message in enumerate(arranged) if message["role"] == "assistant"]
            if turns is None
            else [turn - merged for turn in turns]
        )
        if not turns:
            raise UserError("The conversation has no assistant turn.", "At least one message must be the assistant's.")
        openings = [
            self._render(safe[:turn], True, thought=THOUGHT[1] in arranged[turn]["content"], tools=calm)
            for turn in turns
        ]
        left_open = [self._opened[THOUGHT[1] in arranged[turn]["content"]] for turn in turns]
        last = self._render(safe[: turns[-1] + 1], False, tools=calm)
        whole = Conversation([], [])
        position = 0
        for turn, opening, opened in zip(turns, openings, left_open, strict=True):
            written = opening + safe[turn]["content"]
            if not last.startswith(written):
                break
            whole.ids.extend(self._tokens(opening[position:], held, start=position == 0))
            self._answer(whole, arranged[turn]["content"], opened)
            position = len(written)
        if len(whole.spans) == len(turns):
            return [whole]
        separate = []
        for turn, opening, opened in zip(turns, openings, left_open, strict=True):
            separate.append(Conversation(self._tokens(opening, held, start=True), []))
            self._answer(separate[-1], arranged[turn]["content"], opened)
        return separate

    def _answer(self, conversation: Conversation, content: str, opened: str | None) -> None:
        """Append a response and its span, which is without the thought.

        Args:
            opened: What the prompt holds after the mark of a thought that it leaves open; None if it does not.
        """
        ids = conversation.ids
        conversation.prompts.append(len(ids))
        if opened is not None:
            if content.lstrip().startswith(THOUGHT[0]):
                content = content.lstrip().removeprefix(THOUGHT[0]).removeprefix(opened)
            elif THOUGHT[1] not in content:
                ids.extend(self._ended(opened))
                opened = None
        answer = self.answer_ids(content)
        low = len(ids) + self._after_thought(answer, opened is not None)
        ids.extend(answer)
        conversation.spans.append((low, len(ids)))
