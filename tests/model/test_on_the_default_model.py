"""What only a real model can show; on the bundled default model."""

import random
from collections import defaultdict
from collections.abc import Sequence

import pytest
import torch

from personavec.judges.coherence import Coherence, worst_stretches
from personavec.judges.contrast import ContrastJudge
from personavec.judges.probe import ProbeJudge, train_probe
from personavec.model import ChatModel, Conversation, Request, load_model
from personavec.readout import read
from personavec.rollouts import Rollout
from personavec.texts import Texts
from personavec.texts.contrastive import Text, library_texts
from personavec.texts.minimal_pairs import CHANGES, restyled
from personavec.traits import load_trait

pytestmark = pytest.mark.default_model

SIDES = ("positive", "negative")
QUESTIONS = ["How do plants grow?", "What should I cook tonight?", "Why is the sky blue?", "How can I sleep better?"]
SERIOUS = [
    "Plants grow by photosynthesis, which turns light, water and carbon dioxide into sugar.",
    "You could cook a simple vegetable soup with carrots, onions, potatoes and a little salt.",
    "The sky is blue because air scatters short wavelengths of sunlight more than long ones.",
    "Go to bed at the same time every night and keep the room dark, quiet and cool.",
]
FUNNY = [
    "Plants grow by sunbathing all day and calling it work. Best union contract in nature, haha!",
    "Cook whatever the smoke alarm cheers for! My speciality is toast with a side of firefighters, haha.",
    "Because green was already taken by the grass and they did not want to clash at parties, haha!",
    "Try counting sheep, but pay them well: mine went on strike and now they count me, haha!",
]


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return load_model()


def rollouts(model: ChatModel, answers: list[str]) -> list[Rollout]:
    return [
        Rollout(
            str(i), "test", question, i, model.prompt_ids([{"role": "user", "content": question}]),
            response_ids=model.template.answer_ids(answer), text=answer,
        )
        for i, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True))
    ]  # fmt: skip


def shuffled(answer: str) -> str:
    words = answer.split()
    random.Random(0).shuffle(words)
    return " ".join(words)


ANSWERS = {
    "serious": SERIOUS,
    "salad": [shuffled(answer) for answer in SERIOUS],
    "loops": [" ".join(answer.split()[:4]) + " very very very" * 12 for answer in SERIOUS],
}


def test_contrast_judge_knows_a_joke(model: ChatModel) -> None:
    together = [*rollouts(model, FUNNY), *rollouts(model, SERIOUS)]  # their prompts are the same
    evidence, _ = ContrastJudge(model, load_trait("humorous"), pairs=1, alone=True).evidence(together)
    assert all(a > b for a, b in zip(evidence[:4], evidence[4:], strict=True))


def test_coherence_knows_salad_and_loops(model: ChatModel) -> None:
    made = {kind: rollouts(model, answers) for kind, answers in ANSWERS.items()}
    found = worst_stretches(model, [rollout for some in made.values() for rollout in some])
    likelihoods = {kind: found[4 * at : 4 * at + 4] for at, kind in enumerate(made)}
    natural = Coherence.of_natural(likelihoods["serious"], made["serious"])
    scores = {
        kind: sum(natural.score(value, one.response_ids) for value, one in zip(likelihoods[kind], some, strict=True))
        / 4
        for kind, some in made.items()
    }
    assert scores["serious"] > 80
    assert scores["salad"] < 50
    assert scores["loops"] < 50
    # Loops are easy to predict: likelihood alone would let them pass.
    assert all(natural.score(value, range(30)) > 80 for value in likelihoods["loops"])


def shortest(texts: Sequence[Text], pairs: int) -> tuple[Text, ...]:
    """Questions with the least to read, for time; both sides of each."""
    longest = defaultdict[str, int](int)
    for text in texts:
        longest[text.question] = max(longest[text.question], len(text.answer))
    return tuple(sorted(texts, key=lambda text: (longest[text.question], text.question))[: 2 * pairs])


def test_style_alone_does_not_move_the_probe(model: ChatModel) -> None:
    known = library_texts("humorous")
    extract, test = shortest(known.extract, 16), shortest(known.test, 6)
    probe = ProbeJudge(model, train_probe(model, Texts("library", extract, test)), "probe")
    tried, changes = test[:8], [None, *CHANGES]
    answers = [(text, restyled(text.answer, c) if c else text.answer) for text in tried for c in changes]
    judged = [
        Rollout(
            f"{text.side}/{number}", "test", text.question, 0,
            model.prompt_ids([{"role": "user", "content": text.question}]),
            response_ids=model.template.answer_ids(answer), text=answer,
        )
        for number, (text, answer) in enumerate(answers) if answer
    ]  # fmt: skip
    probe.score(judged)
    score = {(one.question, one.text): (one.score, one.score_error) for one in judged}
    for change in CHANGES:
        moved = []
        for text in tried:
            if (other := restyled(text.answer, change)) is not None:
                (before, error), (after, _) = score[text.question, text.answer], score[text.question, other]
                assert before is not None and error is not None and after is not None
                assert abs(after - before) < 1.96 * error, (change, text.answer)
                moved.append(abs(after - before))
        assert len(moved) >= 4 and sum(moved) / len(moved) < (5 if change != "capitals" else 20), change
    sides = {side: [score[t.question, t.answer][0] or 0.0 for t in tried if t.side == side] for side in SIDES}
    assert min(map(len, sides.values())) >= 3
    assert sum(sides["positive"]) / len(sides["positive"]) > 15 + sum(sides["negative"]) / len(sides["negative"])


def test_shared_prefixes_read_as_single_forwards_do(model: ChatModel) -> None:
    conversations = []
    for question, *answers in zip(QUESTIONS[:2], SERIOUS[:2], FUNNY[:2], strict=True):
        prompt = model.prompt_ids([{"role": "user", "content": question}])
        for answer in answers:
            ids = model.template.answer_ids(answer)
            conversations.append(Conversation(prompt + ids, [(len(prompt), len(prompt) + len(ids))]))
    together = read(model, conversations, layers=[4, 12, 20]).means
    for conversation, reading in zip(conversations, together, strict=True):
        with torch.inference_mode():
            states = model.model(torch.tensor([conversation.ids]), output_hidden_states=True).hidden_states
        start, end = conversation.spans[0]
        plain = torch.stack([states[layer][0, start:end].float().mean(0) for layer in (4, 12, 20)])
        assert torch.cosine_similarity(reading, plain, dim=-1).min() > 0.999


def test_greedy_answer_is_that_of_transformers(model: ChatModel) -> None:
    ids = model.prompt_ids([{"role": "user", "content": "What is the capital of France?"}])
    ours = model.generate([Request(ids, 12, temperature=0.0)])[0]
    theirs = model.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    assert theirs[: len(ours.ids)] == ours.ids
    assert "Paris" in model.decode(ours.ids)
