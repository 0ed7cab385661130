# mypy: disable-error-code="comparison-overlap, no-any-return"
"""The local judge against brute force, on a stub model whose every probability is known."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from personavec.judges import local
from personavec.judges.kinds import open_judge
from personavec.judges.local import LocalRespondent
from personavec.judges.rubric import RubricModel
from personavec.model import ChatModel
from personavec.rollouts import Rollout
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
        self.known: dict[tuple[int, ...], np.ndarray] = {}
        self.template = SimpleNamespace(lead=[])

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        ((role, content),) = [(m["role"], m["content"]) for m in messages]
        assert role == "user"
        return [1000 + ord(c) for c in content]

    def check_fits(self, prompt_tokens: int, new_tokens: int) -> None:
        assert prompt_tokens + new_tokens < 500

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        if (known := self.known.get(tuple(ids))) is None:
            known = self.known[tuple(ids)] = self.drawn(ids)
        return known

    def drawn(self, ids: Sequence[int]) -> np.ndarray:
        logits = 2 * np.random.default_rng(list(ids)).standard_normal(len(self.tokenizer.tokens))
        logits[[token.strip("▁").isdecimal() for token in self.tokenizer.tokens]] += self.favour
        return logits

    def next_token_logprobs(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        assert 0 < len(prompts) <= local.BATCH
        self.asked += len(prompts)
        return torch.stack([torch.tensor(self.logits(p)).float().log_softmax(-1) for p in prompts])


def judge(stub: StubModel) -> LocalRespondent:
    return LocalRespondent(cast(ChatModel, stub), "local:stub")


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
            # Three digits at most, so that the longer tokens need not be tried beside others.
            first, others = (
                [i for i in some if len(tokens[i].strip("▁")) <= 4 - length] for some in ([*plain, *spaced], plain)
            )
            for rest in itertools.product(first, *[others] * (length - 1)):
                digits = "".join(tokens[i].strip("▁") for i in rest)
                if len(digits) > 3 or int(digits) > 100 or str(int(digits)) != digits:
                    continue
                p = 1.0
                ids: list[int] = []
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
    prompts = [f"q{i}" for i in range(2)]
    for prompt, found in zip(prompts, judge(stub).probabilities(prompts), strict=True):
        expected = brute_force(stub, [1000 + ord(c) for c in prompt])
        assert {int(number) for number in found} == set(expected) == set(range(101))
        for number, p in expected.items():
            assert found[str(number)] == pytest.approx(p, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("tokens", [DIGITS, WHOLE], ids=["digits", "whole numbers"])
def test_the_floor_hardly_moves_a_score(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"question{i}" for i in range(3 * local.BATCH // 2)]
    quick = StubModel(tokens, favour=1.0)
    scores = judge(quick).scores(prompts)
    monkeypatch.setattr(local, "FLOOR", 0.0)
    whole = StubModel(tokens, favour=1.0)
    pairs = [
        (a, b) for a, b in zip(scores, judge(whole).scores(prompts), strict=True) if a is not None and b is not None
    ]
    assert len(pairs) > len(prompts) / 2
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
    (found,) = judge(Certain(tokens, *says)).scores(["qa"])
    assert found == (None if score is None else pytest.approx(score, abs=0.01))


def test_a_judge_whose_prompt_opens_a_thought_is_asked_after_it() -> None:
    class Thinker(Certain):
        def logits(self, ids: Sequence[int]) -> np.ndarray:
            return super().logits(ids) if 2000 in ids else np.zeros(len(self.tokenizer.tokens))

    stub = Thinker(DIGITS, "8", "5")
    stub.template.lead = [2000]
    assert judge(stub).scores(["qa"]) == [pytest.approx(85, abs=0.01)]


def test_nothing_to_judge() -> None:
    assert judge(StubModel(DIGITS)).scores([]) == []


def test_judges_of_all_traits_share_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = Certain(DIGITS, "5", "0")
    stub.check_fits = lambda *_: None
    loaded: list[Any] = []
    asked: list[str] = []
    prompt_ids = stub.prompt_ids

    def load(*args: Any, **options: Any) -> ChatModel:
        loaded.append((args, options))
        return cast(ChatModel, stub)

    def note(messages: Sequence[dict[str, str]]) -> list[int]:
        asked.append(messages[0]["content"])
        return prompt_ids(messages)

    stub.prompt_ids = note
    monkeypatch.setattr(local, "load_model", load)
    opened = open_judge("local:some/model", device="cpu", dtype="float32")
    both = [opened.of_both(load_library(name)) for name in ("evil", "humorous")]
    assert loaded == [(("some/model",), {"device": "cpu", "dtype": "float32"})]
    assert [judge.name for judge in both] == ["local:some/model"] * 2
    assert all(judge.fitted and judge.cost(["How are you?"], 5) is None for judge in both)
    spoken, silent = (Rollout(text, "neutral", "How are you?", 0, [], text=text) for text in ("Fine.", " "))
    for judge in both:
        judge.score([spoken, silent])
        assert (spoken.score, spoken.coherence) == (pytest.approx(50, abs=0.01), pytest.approx(50, abs=0.01))
        assert (silent.score, silent.coherence) == (None, 0.0)
    assert ["evil" in prompt for prompt in asked] == [True, False, False, False]
    assert ["humorous" in prompt for prompt in asked] == [False, False, True, False]


def test_one_figure_can_be_judged_without_the_other() -> None:
    stub: Any = Certain(DIGITS, "5", "0")
    stub.check_fits = lambda *_: None
    opened = RubricModel(judge(stub))
    first, second = (Rollout("a", "neutral", "How are you?", 0, [], text="Fine.") for _ in range(2))
    opened.of_trait(load_library("evil")).score([first])
    opened.of_coherence(load_library("evil")).score([second])
    assert (first.score, first.coherence) == (pytest.approx(50, abs=0.01), None)
    assert (second.score, second.coherence) == (None, pytest.approx(50, abs=0.01))
