"""`personavec generate` and `personavec chat`: talk to a model, plain and steered."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import gauges
from personavec.cli import options as o
from personavec.cli.expand import Edits
from personavec.cli.flags import with_flags
from personavec.errors import UserError

if TYPE_CHECKING:
    from personavec.model import ChatModel
    from personavec.model.edits import Intervention
    from personavec.model.messages import Message

System = Annotated[str | None, typer.Option(callback=o.plain_text, help="System prompt.", show_default=False)]
Tokens = Annotated[int, typer.Option(help="Longest answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", min=0.0)]
Read = Annotated[
    list[Path] | None,
    typer.Option("--read", help="Vector file: show under answers where they lie. Repeatable.", show_default=False),
]
Compare = Annotated[bool, typer.Option("--compare", "-c", help="Also show the unsteered answer.")]


def generate(
    prompt: Annotated[str, typer.Argument(callback=o.plain_text, help="What is asked.")],
    *,
    model: o.Model = None,
    adapter: o.Adapter = None,
    system: System = None,
    asked: Edits,
    layers: o.LayersOption = "best",
    positions: o.PositionsOption = "response",
    read: Read = None,
    other_weights: o.OtherWeights = False,
    compare: Compare = False,
    max_new_tokens: Tokens = 120,
    temperature: Temperature = 0.7,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
    json: o.Json = False,
) -> None:
    """Answer one prompt, steered as asked."""
    if not prompt.strip():
        raise UserError("The prompt is empty.", 'Write for example: personavec generate "What is love?"')
    chat = o.open_model(model, device, dtype, adapter, thinking)
    edits, words, _ = o.read_interventions(chat, asked, layers, positions, other_weights)
    vectors = gauges.read_vectors(chat, read or (), other_weights)
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
    ids = chat.prompt_ids(messages)

    from personavec.model import Request

    wanted: list[Sequence[Intervention]] = [[], edits] if compare and edits else [edits]
    requests = [Request(ids, max_new_tokens, temperature, seed, row) for row in wanted]
    if json:
        texts = [chat.decode(response.ids) for response in chat.generate(requests)]
        readings = [
            {name: asdict(at) for name, at in gauges.last_answer(chat, _answered(messages, text), vectors).items()}
            for text in texts
        ]
        answer: dict[str, object] = {"prompt": prompt, "steer": words, "answer": texts[-1], "readings": readings[-1]}
        plain = {"plain": texts[0], "plain_readings": readings[0]} if len(texts) > 1 else {"plain": None}
        o.print_json(answer | plain)
        return
    if vectors:
        print(f"{gauges.key()}\n")
    if len(wanted) > 1:
        texts = [chat.decode(response.ids) for response in chat.generate(requests)]
        for name, text in zip(("Plain", f"Steered: {'; '.join(words)}"), texts, strict=True):
            print(f"--- {name}\n{text}")
            gauges.show(chat, _answered(messages, text), vectors)
            print()
    else:
        text = _stream(chat, ids, edits, max_new_tokens, temperature, seed)
        gauges.show(chat, _answered(messages, text), vectors)


def chat(
    *,
    model: o.Model = None,
    adapter: o.Adapter = None,
    system: System = None,
    asked: Edits,
    layers: o.LayersOption = "best",
    positions: o.PositionsOption = "response",
    read: Read = None,
    other_weights: o.OtherWeights = False,
    compare: Compare = False,
    max_new_tokens: Tokens = 400,
    temperature: Temperature = 0.7,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    thinking: o.Thinking = False,
) -> None:
    """Talk with the model, steered as asked. /compare shows the plain answer too, /reset forgets, /quit ends."""
    talker = o.open_model(model, device, dtype, adapter, thinking)
    edits, words, _ = o.read_interventions(talker, asked, layers, positions, other_weights)
    vectors = gauges.read_vectors(talker, read or (), other_weights)
    print(f"Steering: {'; '.join(words) or 'none'}. /compare, /reset, /quit.")
    if vectors:
        print(gauges.key())
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while True:
        try:
            text = o.plain_text(input("\n> ").strip())
        except EOFError:
            return
        except UserError as error:
            print(with_flags(f"{error.problem} {error.advice}"), file=sys.stderr)
            continue
        if text == "/quit":
            return
        if text == "/reset":
            messages = list(start)
            print("Forgotten.")
        elif text == "/compare":
            compare = not compare
            print(f"Plain answers are {'shown' if compare else 'hidden'}.")
        elif text.startswith("/"):
            print("Commands: /compare, /reset, /quit.")
        elif text:
            messages.append({"role": "user", "content": text})
            ids = talker.prompt_ids(messages)
            try:
                if compare and edits:
                    print("--- Plain")
                    plain = _stream(talker, ids, [], max_new_tokens, temperature, seed)
                    gauges.show(talker, _answered(messages, plain), vectors)
                    print("--- Steered")
                answer = _stream(talker, ids, edits, max_new_tokens, temperature, seed)
            except UserError as error:
                print(with_flags(f"{error.problem} Say /reset to begin anew."), file=sys.stderr)
                messages.pop()
                continue
            messages = _answered(messages, answer)
            gauges.show(talker, messages, vectors)
            seed += 1


def _answered(messages: "Sequence[Message]", answer: str) -> "list[Message]":
    """The conversation with a further answer."""
    return [*messages, {"role": "assistant", "content": answer}]


def _stream(
    chat: "ChatModel",
    ids: list[int],
    edits: "Sequence[Intervention]",
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """Print an answer as it is written; returns it."""
    from personavec.model import Request

    written: list[int] = []
    shown = ""

    def token(_: int, chosen: int) -> None:
        nonlocal shown
        written.append(chosen)
        text = chat.decode(written)
        # A character whose bytes are spread over tokens decodes to U+FFFD until its last token is there.
        if not text.endswith("�") and text.startswith(shown):
            print(text[len(shown) :], end="", flush=True)
            shown = text

    room = chat.context_length - len(ids)
    chat.generate([Request(ids, max(1, min(max_new_tokens, room)), temperature, seed, edits)], token=token)
    text = chat.decode(written)
    print(text[len(shown) :] if text.startswith(shown) else "")
    return text
