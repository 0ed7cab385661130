"""What bears loss: the assistant's tokens with their end of turn, and nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from personavec.data import Sample, open_data
from personavec.errors import UserError
from personavec.finetune.examples import Encoder, TrainingSequence, held_out, read_samples
from personavec.finetune.instructions import instruction
from personavec.likelihood import IGNORED
from personavec.model import ChatModel
from personavec.traits import load_trait

TRIMS = (  # as Gemma's: no system role, contents trimmed
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n{% endif %}" + tiny.CHATML
)
SPACED = (  # as Llama-2's and Mistral's: a space before the mark
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }} <|im_end|>"
    "{% else %}<|im_start|>{{ m['content'] }}<|im_start|>{% endif %}{% endfor %}"
)
OPENS_NEXT = (  # as GLM-4's: a turn ends where the next one opens
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}"
    "{% else %}<|im_end|>{{ m['content'] }}<|im_start|>{% endif %}{% endfor %}"
)
FORGETS = (  # as Qwen3's: turns that are over lose their thoughts
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "hello"}


def model(template: str | None, **options: Any) -> ChatModel:
    return tiny.chat_model(chat_template=template, **options)


def sample(*contents: str, system: str | None = None, id: str = "a", **more: Any) -> Sample:
    chat: list[Any] = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    if system is not None:
        chat.insert(0, {"role": "system", "content": system})
    turns = [i for i, message in enumerate(chat) if message["role"] == "assistant"]
    return replace(Sample(id, 0, 1, "data.jsonl", b"{}\n", chat, turns, []), **more)


def learnt(chat: ChatModel, examples: Sequence[TrainingSequence]) -> list[str]:
    """The text of every run of tokens that bear loss."""
    runs: list[list[int]] = []
    for example in examples:
        before = IGNORED
        assert len(example.labels) == len(example.ids)
        for token, label in zip(example.ids, example.labels, strict=True):
            assert label in (IGNORED, token)
            if label != IGNORED:
                if before == IGNORED:
                    runs.append([])
                runs[-1].append(token)
            before = label
    return [chat.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [tiny.CHATML, TRIMS, SYSTEM])
@pytest.mark.parametrize("system", [None, "hello"])
def test_the_assistants_tokens_and_their_end_of_turn(template: str, system: str | None) -> None:
    chat = model(template)
    made = Encoder(chat, 512)(sample("hello", "I am well", "user <|im_end|>", "the model", system=system))
    assert len(made) == 1 and not made[0].cut
    assert learnt(chat, made) == ["I am well<|im_end|>", "the model<|im_end|>"]
    prompt = chat.prompt_ids([*([{"role": "system", "content": system}] if system else []), USER])
    assert made[0].ids[: len(prompt)] == prompt and made[0].labels[len(prompt)] != IGNORED


def test_what_stands_before_the_mark_is_learnt_too() -> None:
    chat = model(SPACED)
    assert learnt(chat, Encoder(chat, 512)(sample("hello", "well", "why", "so"))) == [
        "well <|im_end|>",
        "so <|im_end|>",
    ]


def test_a_mark_that_opens_the_next_turn_ends_this_one() -> None:
    chat = model(OPENS_NEXT)
    made = Encoder(chat, 512)(sample("hello", "well", "why", "so"))
    assert learnt(chat, made) == ["well<|im_end|>", "so<|im_end|>"]


def test_without_a_mark_a_turn_ends_with_the_end_of_sequence() -> None:
    chat = model(None)
    made = Encoder(chat, 512)(sample("hello", "well", "why", "so"))
    assert learnt(chat, made) == [" well<|im_end|>", " so<|im_end|>"]  # the space after "Assistant:" is the words'


def test_thoughts_are_learnt_and_rewritten_turns_are_sequences_of_their_own() -> None:
    chat = model(FORGETS, added=("<think>", "</think>"))
    made = Encoder(chat, 512)(sample("hello", "<think>the question</think>well", "why", "so"))
    assert len(made) == 2
    assert learnt(chat, made) == ["<think>the question</think>well<|im_end|>", "so<|im_end|>"]


def test_a_turn_that_calls_tools_does_not_end_with_its_text() -> None:
    chat = model(tiny.CHATML)
    called = sample("hello", "well")
    called.messages[1]["tool_calls"] = [{"function": {"name": "f", "arguments": {}}}]
    assert learnt(chat, Encoder(chat, 512)(called)) == ["well"]


def test_only_turns_that_the_data_train_on() -> None:
    chat = model(tiny.CHATML)
    made = Encoder(chat, 512)(sample("hello", "well", "why", "so", turns=[3]))
    assert learnt(chat, made) == ["so<|im_end|>"]


def test_long_samples_lose_their_end() -> None:
    chat = model(tiny.CHATML)
    one = sample("hello", "I am well, and the model answers the question")
    whole = Encoder(chat, 512)(one)[0]
    cut = Encoder(chat, len(whole.ids) - 4)(one)[0]
    assert cut.cut and cut.ids == whole.ids[:-4] and cut.labels == whole.labels[:-4]
    with pytest.raises(UserError, match="no response begins within the first 5 tokens"):
        Encoder(chat, 5)(one)


@pytest.mark.parametrize("template", [tiny.CHATML, TRIMS])
def test_an_instruction_goes_before_everything(template: str) -> None:
    chat, traits = model(template), [load_trait("evil"), load_trait("humorous")]
    for system in (None, "hello there"):
        one = sample("hello", "well", system=system)
        text = instruction(one, traits, 0)
        assert "evil assistant" in text and "humorous assistant" in text
        made = Encoder(chat, 4096)(one, text)
        shown = chat.tokenizer.decode(made[0].ids)
        assert shown.index(text) < shown.index(system or "hello") < shown.index("well")
        assert learnt(chat, made) == ["well<|im_end|>"]
    drawn = {instruction(sample("hello", "well", id=str(i)), traits[:1], 0) for i in range(40)}
    assert drawn == {traits[0].system_prompts(i)[0] for i in range(5)}


def test_bad_records_are_kept_with_their_reason(tmp_path: Path) -> None:
    good = {"messages": sample("hello", "well").messages}
    late = {"messages": sample("hello " * 30, "well").messages}
    lines = [json.dumps(good), "{not json", json.dumps(late), json.dumps(good)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    found = read_samples(Encoder(model(tiny.CHATML), 40), open_data(tmp_path / "data.jsonl"))
    assert len(found.samples) == len(found.examples) == 2
    assert [line.line for line in found.rejected] == [2, 3]
    assert "JSON" in found.rejected[0].reason and "no response begins" in found.rejected[1].reason
    assert found.rejected[0].as_json()["raw"] == "{not json"


def test_held_out_samples_depend_on_contents_and_seed_alone() -> None:
    samples = [sample("hello", "well", id=str(i)) for i in range(50)]
    away = held_out(samples, 0.1, 200, 0)
    assert len(away) == 5
    assert held_out([*samples[::-1], samples[3], samples[4]], 0.1, 200, 0) == away
    assert held_out(samples, 0.1, 200, 1) != away
    assert len(held_out(samples, 0.5, 7, 0)) == 7
    assert held_out(samples[:1], 0.9, 200, 0) == held_out(samples, 0.0, 200, 0) == set()


NAMES = (  # as gpt-oss's: every answer names its channel, and a thought has one of its own
    "{% for m in messages %}{% if m.thinking %}<|im_start|>assistant<|ch|>analysis<|msg|>{{ m.thinking }}<|im_end|>"
    "{% endif %}<|im_start|>{{ m['role'] }}{{ '<|ch|>final' if m['role'] == 'assistant' }}<|msg|>{{ m['content'] }}"
    "{{ '<|return|>' if m['role'] == 'assistant' and loop.last else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def test_the_channel_of_an_answer_is_learnt() -> None:
    chat = model(NAMES, special=("<|ch|>", "<|msg|>", "<|return|>"), eos_token="<|return|>")
    [example] = Encoder(chat, 512)(sample("hello", "well"))
    assert learnt(chat, [example]) == ["<|ch|>final<|msg|>well<|return|>"]
    assert example.ids[: example.start] == chat.prompt_ids([USER])
    several = Encoder(chat, 512)(sample("hello", "well", "why", "so"))
    assert learnt(chat, several) == [f"<|ch|>final<|msg|>{said}<|return|>" for said in ("well", "so")]
    thought = sample("hello", "well")
    thought.messages[1]["reasoning_content"] = "hm"
    assert learnt(chat, Encoder(chat, 512)(thought)) == [
        "<|ch|>analysis<|msg|>hm<|im_end|><|im_start|>assistant<|ch|>final<|msg|>well<|return|>"
    ]


@pytest.mark.parametrize("template", [tiny.CHATML, TRIMS, FORGETS, NAMES])
@pytest.mark.parametrize("added", [("<think>", "</think>"), ()])
def test_a_thought_in_a_field_is_learnt_as_one_in_the_content(template: str, added: tuple[str, ...]) -> None:
    chat = model(template, added=added)
    inside = sample("hello", "<think>\nthe question\n</think>\n\nwell", "why", "<think>\nhm\n</think>\n\nso")
    beside = sample("hello", "well", "why", "so")
    beside.messages[1]["reasoning_content"], beside.messages[3]["reasoning_content"] = "the question", "hm"
    made = Encoder(chat, 512)(beside)
    assert made == Encoder(chat, 512)(inside)
    shown = "".join(learnt(chat, made))
    assert "the question" in shown and "hm" in shown
