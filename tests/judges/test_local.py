"""The local judge against brute force, on a stub model whose every probability is known."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from personavec.judges import Answered, local
from personavec.judges.local import LocalJudge, local_judges
from personavec.model import ChatModel
from personavec.traits import load_library

DIGITS = ["▁", "\n", *"0123456789", "REF", "USAL", ".", "/", "▁8", "0x", "٣"]
WHOLE = [*DIGITS, *(str(n) for n in range(10, 101)), "▁85", "00", "05", "101", "500", "5th"]


class Tokenizer:
    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


class StubModel:
    """A model with random but fixed next-token probabilities after every continuation of a prompt."""

    def __init__(self, tokens: Sequence[str], favour: float = 0.0) -> None:
        self.tokenizer = Tokenizer(tokens)
        self.favour = favour
        self.asked = 0
        self.template = SimpleNamespace(lead=[])

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        ((role, content),) = [(m["role"], m["content"]) for m in messages]
        assert role == "user"
        return [1000 + ord(c) for c in content]

    def check_fits(self, prompt_tokens: int, new_tokens: int) -> None:
        assert prompt_tokens + new_tokens < 500

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        logits = 2 * np.random.default_rng(list(ids)).standard_normal(len(self.tokenizer.tokens))
        logits[[token.strip("▁").isdecimal() for token in self.tokenizer.tokens]] += self.favour
        return logits

    def next_token_logprobs(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        assert 0 < len(prompts) <= local.BATCH
        self.asked += len(prompts)
        return torch.stack([torch.tensor(self.logits(p)).float().log_softmax(-1) for p in prompts])


def judge(stub: StubModel) -> LocalJudge:
    return LocalJudge(cast(ChatModel, stub), lambda item: item.question + item.answer, "local:stub")


def brute_force(stub: StubModel, prompt: list[int]) -> dict[int, float]:
    """Every sequence of up to four tokens, written out: a number, and then something else than a digit."""
    tokens = stub.tokenizer.tokens

    def after(ids: list[int]) -> np.ndarray:
        e = np.exp(stub.logits(prompt + ids))
        return e / e.sum()

    numbers: dict[int, float] = {}
    blanks = [i for i, token in enumerate(tokens) if token in "▁\n"]
    plain = [i for i, token in enumerate(tokens) if token.isascii() and token.isdigit()]
    spaced = [i for i, token in enumerate(tokens) if token[0] == "▁" and token[1:].isdigit()]
    digit_first = [i for i, token in enumerate(tokens) if token[0] in "0123456789"]
    for lead in [[], *([b] for b in blanks)]:
        for length in (1, 2, 3):
            for rest in itertools.product([*plain, *spaced] if length else [], *[plain] * (length - 1)):
                digits = "".join(tokens[i].strip("▁") for i in rest)
                if len(digits) > 3 or int(digits) > 100 or str(int(digits)) != digits:
                    continue
                p, ids = 1.0, []
                for i in [*lead, *rest]:
                    p *= after(ids)[i]
                    ids = [*ids, i]
                if (len(digits) == 1 and digits != "0") or digits == "10":
                    p *= 1 - after(ids)[digit_first].sum()
                numbers[int(digits)] = numbers.get(int(digits), 0.0) + p
    return numbers


@pytest.mark.parametrize("tokens", [DIGITS, WHOLE], ids=["digits", "whole numbers"])
def test_probabilities_equal_brute_force(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "FLOOR", 0.0)
    stub = StubModel(tokens)
    items = [Answered("q", str(i)) for i in range(2)]
    for item, found in zip(items, judge(stub).probabilities(items), strict=True):
        expected = brute_force(stub, [1000 + ord(c) for c in item.question + item.answer])
        assert {int(number) for number in found} == set(expected) == set(range(101))
        for number, p in expected.items():
            assert found[str(number)] == pytest.approx(p, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("tokens", [DIGITS, WHOLE], ids=["digits", "whole numbers"])
def test_the_floor_hardly_moves_a_score(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Answered("question", str(i)) for i in range(3 * local.BATCH // 2)]
    quick = StubModel(tokens, favour=1.0)
    scores = judge(quick).score(items)
    monkeypatch.setattr(local, "FLOOR", 0.0)
    whole = StubModel(tokens, favour=1.0)
    pairs = [(a, b) for a, b in zip(scores, judge(whole).score(items), strict=True) if a is not None and b is not None]
    assert len(pairs) > len(items) / 2
    assert max(abs(a - b) for a, b in pairs) < 1.0
    assert quick.asked < whole.asked


class Certain(StubModel):
    """A model that writes one text, whatever it is asked."""

    def __init__(self, tokens: Sequence[str], *says: str) -> None:
        super().__init__(tokens)
        self.says = [tokens.index(token) for token in says]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        said = len([i for i in ids if i < 1000])
        logits = np.full(len(self.tokenizer.tokens), -20.0)
        logits[self.says[said] if said < len(self.says) else self.tokenizer.tokens.index(".")] = 0.0
        return logits


@pytest.mark.parametrize(
    ("tokens", "says", "score"),
    [
        (DIGITS, ["8", "5"], 85),
        (DIGITS, ["8", "."], 8),
        (DIGITS, ["▁", "8", "5"], 85),
        (DIGITS, ["▁8", "5"], 85),
        (DIGITS, ["0"], 0),
        (DIGITS, ["1", "0"], 10),
        (DIGITS, ["1", "0", "0"], 100),
        (DIGITS, ["1", "0", "1"], None),
        (DIGITS, ["0", "7"], 0),
        (DIGITS, ["REF", "USAL"], None),
        (WHOLE, ["85"], 85),
        (WHOLE, ["▁85"], 85),
        (WHOLE, ["100"], 100),
        (WHOLE, ["1", "00"], 100),
        (WHOLE, ["10", "."], 10),
        (WHOLE, ["500"], None),
        (WHOLE, ["8", "5th"], None),
    ],
)
def test_a_certain_reply(tokens: list[str], says: list[str], score: float | None) -> None:
    (found,) = judge(Certain(tokens, *says)).score([Answered("q", "a")])
    assert found == (None if score is None else pytest.approx(score, abs=0.01))


def test_a_judge_whose_prompt_opens_a_thought_is_asked_after_it() -> None:
    class Thinker(Certain):
        def logits(self, ids: Sequence[int]) -> np.ndarray:
            return super().logits(ids) if 2000 in ids else np.zeros(len(self.tokenizer.tokens))

    stub = Thinker(DIGITS, "8", "5")
    stub.template.lead = [2000]
    assert judge(stub).score([Answered("q", "a")]) == [pytest.approx(85, abs=0.01)]


def test_nothing_to_judge() -> None:
    assert judge(StubModel(DIGITS)).score([]) == []


def test_two_judges_share_one_model() -> None:
    stub: Any = Certain(DIGITS, "5", "0")
    stub.check_fits = lambda *_: None
    loaded: list[str] = []

    def load(name: str) -> ChatModel:
        loaded.append(name)
        return cast(ChatModel, stub)

    trait, coherence = local_judges("some/model", load_library("evil"), load)
    assert loaded == ["some/model"]
    assert trait.name == coherence.name == "local:some/model"
    item = Answered("How are you?", "Fine.")
    assert "evil" in trait.prompt(item)
    assert "evil" not in coherence.prompt(item)
    assert trait.score([item]) == [pytest.approx(50, abs=0.01)]
