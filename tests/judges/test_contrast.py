# mypy: disable-error-code="unreachable"
"""The contrast judge: its scale, what it judges a response by, and that no response judges itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personavec.errors import UserError
from personavec.info import JudgeFacts
from personavec.judges.base import JudgeState
from personavec.judges.calibration import Calibration
from personavec.judges.contrast import (
    FOLDS,
    JUDGING_PAIRS,
    ContrastJudge,
    LikelihoodJudge,
    judging_pairs,
    open_model,
)
from personavec.judges.kinds import Surroundings
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from personavec.stats.estimate import Estimate
from personavec.traits import InstructionPair, Trait
from tiny import CHATML, chat_model, plain_states

NATS = st.floats(-30, 30)
SIDE = st.lists(NATS, min_size=1, max_size=20)


def trait(pairs: int = 5, **changes: Any) -> Trait:
    """A trait whose pair k can be exchanged by `pair{k}=(positive, negative)`."""
    texts = [changes.get(f"pair{k}", (f"Grumble, way {k}.", f"Be merry, way {k}.")) for k in range(pairs)]
    return Trait(
        name="grumpy",
        description="Complains.",
        instructions=tuple(InstructionPair(positive=positive, negative=negative) for positive, negative in texts),
        extraction_questions=("What is for lunch?",),
        evaluation_questions=("How was the film?",),
        rubric="{question} {answer}",
    )


# Calibration


@given(SIDE, SIDE)
def test_any_calibration_gives_scores_that_rise_with_the_evidence(positive: list[float], negative: list[float]) -> None:
    calibration = Calibration.fit(positive, negative)
    assert math.isfinite(calibration.middle) and math.isfinite(calibration.slope) and calibration.slope >= 0
    assert calibration.score(calibration.middle) == pytest.approx(50)
    scores = [calibration.score(evidence) for evidence in sorted([*positive, *negative, -1e300, 1e300])]
    assert all(0 <= low <= high <= 100 for low, high in pairwise(scores))


@given(st.floats(0.01, 10), st.floats(-10, 10))
def test_sides_well_apart_score_10_and_90(gap: float, low: float) -> None:
    spread = gap / 20 * np.array([-1, 0, 1])
    calibration = Calibration.fit((low + gap + spread).tolist(), (low - spread).tolist())
    assert calibration.score(low) == pytest.approx(10, abs=0.01)
    assert calibration.score(low + gap) == pytest.approx(90, abs=0.01)


@pytest.mark.parametrize("gap", [0.1, 0.5, 1.0, 2.0])
def test_where_the_sides_overlap_the_score_is_the_posterior(gap: float) -> None:
    """Of the responses that score about s, about s of 100 are positive."""
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(gap, 1, 20_000), rng.normal(0, 1, 20_000)
    calibration = Calibration.fit(positive.tolist(), negative.tolist())
    scores = np.array([calibration.score(e) for e in [*positive, *negative]])
    is_positive = np.arange(40_000) < 20_000
    for part in np.array_split(np.argsort(scores), 8):
        assert 100 * is_positive[part].mean() == pytest.approx(scores[part].mean(), abs=3)


@pytest.mark.parametrize(("positive", "negative"), [([1, 2], [2, 3]), ([1, 2], [2, 1]), ([0], [0])])
def test_evidence_that_points_the_wrong_way_scores_50(positive: list[float], negative: list[float]) -> None:
    calibration = Calibration.fit(positive, negative)
    assert {calibration.score(e) for e in (-100, 0, 100)} == {50}


# What a response is judged by


@pytest.mark.parametrize("pairs", range(1, 7))
def test_judging_pairs_are_enough_take_turns_and_are_never_the_own_one(tiny: ChatModel, pairs: int) -> None:
    for own in (None, *range(pairs)):
        others = set(range(pairs)) - {own}
        for count in (1, JUDGING_PAIRS):
            used = []
            for question in range(pairs):
                judging = judging_pairs(trait(pairs), rollout(tiny, "x", own, question=question), count)
                assert len(set(judging)) == len(judging) == min(count, max(len(others), 1))
                used += judging
            assert set(used) == (others or {0})


@cache
def prompt_ids(model: ChatModel, asked: str) -> list[int]:
    return model.prompt_ids([{"role": "user", "content": asked}])


def rollout(model: ChatModel, text: str, pair: int | None = None, side: Any = None, question: int = 0) -> Rollout:
    asked = f"Question {question}?"
    return Rollout(
        id=f"{pair}/{side}/{question}/{text}",
        stage="extraction" if side else "neutral",
        question=asked,
        question_index=question,
        prompt_ids=list(prompt_ids(model, asked)),
        pair=pair,
        side=side,
        response_ids=model.tokenizer.encode(text, add_special_tokens=False) if text else [],
        text=text,
    )


def likelihood(model: ChatModel, system: str | None, rollout: Rollout) -> float:
    """Mean log-probability per token of a response, the plain way; None: after its own prompt."""
    prompt = rollout.prompt_ids
    if system is not None:
        asked = [{"role": "system", "content": system}, {"role": "user", "content": rollout.question}]
        prompt = model.prompt_ids(asked)
    ids = [*prompt, *rollout.response_ids]
    logits = plain_states(model.model, model.model.model.layers, ids)[1]
    logprobs = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(rollout.response_ids)[:, None]).mean())


def test_evidence_is_the_likelihood_under_the_trait_minus_that_against_it(tiny: ChatModel) -> None:
    judge = ContrastJudge(tiny, trait())
    rollouts = [
        rollout(tiny, "the answer", 4, "positive"),
        rollout(tiny, "I am well, and then the model", 0, "negative", 1),
        rollout(tiny, "", 0, "negative", 2),
        rollout(tiny, "question", question=3),
    ]
    evidence, worst = judge.evidence(rollouts)
    assert math.isnan(evidence.pop(2)) and math.isnan(worst.pop(2))
    del rollouts[2]
    for found, least, r in zip(evidence, worst, rollouts, strict=True):
        pairs = judging_pairs(trait(), r)
        both = np.array([[likelihood(tiny, system, r) for system in trait().system_prompts(pair)] for pair in pairs])
        assert found == pytest.approx((both[:, 0] - both[:, 1]).mean(), abs=1e-5)
        assert least == pytest.approx(likelihood(tiny, None, r), abs=1e-5), "shorter than a stretch: all of it"


def test_an_answer_is_judged_without_its_thought_also_where_the_prompt_opens_one() -> None:
    """In place of the thought, which may tell the instruction, stands an empty one."""
    opens = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    model = chat_model(chat_template=opens, added=["<think>", "</think>"])
    thought, empty = (model.template.answer_ids(text) for text in ("be merry, way 1\n</think>\n\n", "\n</think>\n\n"))
    answer = rollout(model, "the answer", 4, "positive")
    expected = []
    for pair in range(JUDGING_PAIRS):
        sides = []
        for system in trait().system_prompts(pair):
            asked = [{"role": "system", "content": system}, {"role": "user", "content": answer.question}]
            prompt = [*model.prompt_ids(asked), *empty]
            logits = plain_states(model.model, model.model.model.layers, [*prompt, *answer.response_ids])[1]
            logprobs = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
            sides.append(float(logprobs.gather(1, torch.tensor(answer.response_ids)[:, None]).mean()))
        expected.append(sides[0] - sides[1])
    thoughtful = replace(answer, response_ids=[*thought, *answer.response_ids])
    [evidence], _ = ContrastJudge(model, trait()).evidence([thoughtful])
    assert evidence == pytest.approx(float(np.mean(expected)), rel=1e-3, abs=1e-4)


STATE: dict[str, Any] = {
    "calibration": {"middle": 0.5, "slope": 2.0, "pairs": 3},
    "coherence": {"worst_mean": -1.0, "worst_deviation": 0.5, "repetition_mean": 0.1},
}


def test_state_of_other_shapes_is_refused(tiny: ChatModel) -> None:
    assert ContrastJudge.from_state(tiny, trait(), STATE).state().record() == STATE
    damaged: list[Any] = [None, [], "x", {}, {"calibration": STATE["calibration"]}]
    wrong: list[Any] = [None, [], 3, "ab", {}, {"middle": 1.0}]
    numbers: list[Any] = [None, "1", [], math.nan, math.inf]
    for part in STATE:
        damaged += [STATE | {part: value} for value in [*wrong, STATE[part] | {"x": 1.0}]]
        for name in STATE[part]:
            damaged += [STATE | {part: STATE[part] | {name: value}} for value in numbers]
    damaged += [STATE | {"coherence": STATE["coherence"] | {"worst_deviation": 0.0}}]
    for state in damaged:
        with pytest.raises((KeyError, TypeError, ValueError)):
            ContrastJudge.from_state(tiny, trait(), state)


@pytest.mark.parametrize("own", range(5))
def test_a_response_is_never_judged_by_its_own_pair(tiny: ChatModel, own: int) -> None:
    """Its evidence does not change with its own pair, but with each of the pairs that judge it."""
    answers = [rollout(tiny, "the answer is well", own, "positive")]

    def evidence(changed: int | None) -> float:
        other: dict[str, Any] = (
            {} if changed is None else {f"pair{changed}": ("Find fault with all.", "Praise everything.")}
        )
        return ContrastJudge(tiny, trait(**other)).evidence(answers)[0][0]

    judging = judging_pairs(trait(), answers[0])
    assert own not in judging
    for pair in range(5):
        assert (evidence(pair) == evidence(None)) == (pair not in judging)


def test_as_many_pairs_judge_later_as_the_calibration_was_fitted_with(tiny: ChatModel) -> None:
    sides = [
        rollout(tiny, text, None, side, q) for q in range(3) for text, side in (("the", "positive"), ("a", "negative"))
    ]
    judge = ContrastJudge(tiny, trait(), pairs=1)
    judge.fit(sides, [rollout(tiny, "the answer")])
    assert judge.state().record()["calibration"]["pairs"] == 1
    done: list[int] = []
    held = JudgeFacts(name="contrast", auc=Estimate(0.9, 0.8, 1.0, 3), threshold=50.0, state=judge.state().record())
    ContrastJudge.from_state(tiny, trait(), held.state).score(sides, done.append)  # as a vector's file holds it
    assert sum(done) == 3 * len(sides) == judge.readings_needed(len(sides))
    of_before = {"middle": 0.5, "slope": 2.0}
    assert ContrastJudge.from_state(tiny, trait(), STATE | {"calibration": of_before}).pairs == JUDGING_PAIRS


# Fitting


class Planted(ContrastJudge):
    """Evidence and likelihood by rollout id, instead of from the model."""

    def __init__(self, model: ChatModel, planted: dict[str, float]) -> None:
        super().__init__(model, trait())
        self.planted = planted

    def evidence(
        self, rollouts: Sequence[Rollout], advance: Callable[[int], None] | None = None
    ) -> tuple[list[float], list[float]]:
        values = [self.planted[r.id] for r in rollouts]
        return values, [-1.0 if math.isfinite(value) else math.nan for value in values]


def crowd(model: ChatModel, questions: int = 12) -> tuple[list[Rollout], list[Rollout], dict[str, float]]:
    """Contrastive and neutral rollouts of some questions, and evidence that tells the sides apart."""
    rng = np.random.default_rng(0)
    contrastive = [
        rollout(model, "well", pair, side, question)
        for question in range(questions)
        for pair in range(2)
        for side in ("positive", "negative")
    ]
    neutral = [rollout(model, "the model", question=question) for question in range(questions)]
    planted = {r.id: float(rng.normal(1.0 if r.side == "positive" else 0.0, 0.4)) for r in [*contrastive, *neutral]}
    return contrastive, neutral, planted


def fitted(model: ChatModel, planted: dict[str, float]) -> tuple[dict[str, float | None], Planted]:
    contrastive, neutral, _ = crowd(model)
    judge = Planted(model, planted)
    judge.fit(contrastive, neutral)
    return {r.id: r.score for r in [*contrastive, *neutral]}, judge


@pytest.mark.parametrize("question", [0, 4, 11])
def test_no_question_calibrates_its_own_scores(tiny: ChatModel, question: int) -> None:
    """Whatever the other answers to a question (or to one of its fold) are like, an answer's score stays."""
    contrastive, _, planted = crowd(tiny)
    before, _ = fitted(tiny, planted)
    mine = next(r.id for r in contrastive if r.question_index == question)
    for changed in (r for r in contrastive[question % 4 :: 4] if r.id != mine):
        after, _ = fitted(tiny, planted | {changed.id: planted[changed.id] + 5})
        same_fold = changed.question_index % FOLDS == question % FOLDS
        assert (after[mine] == before[mine]) == same_fold


def test_an_answer_does_not_calibrate_its_own_score(tiny: ChatModel) -> None:
    """A score follows its evidence along the curve that the other folds fixed."""
    contrastive, _, planted = crowd(tiny)
    first = contrastive[0]
    others = {r.id: planted[r.id] for r in contrastive if r.question_index % FOLDS != first.question_index % FOLDS}
    sides = {r.id: r.side for r in contrastive}
    positive, negative = ([e for name, e in others.items() if sides[name] == side] for side in ("positive", "negative"))
    curve = Calibration.fit(positive, negative)
    for evidence in (-3.0, 0.0, 0.5, 9.0):
        scores, _ = fitted(tiny, planted | {first.id: evidence})
        assert scores[first.id] == pytest.approx(curve.score(evidence))


def test_natural_and_further_answers_are_scored_by_the_whole_calibration(tiny: ChatModel) -> None:
    contrastive, neutral, planted = crowd(tiny)
    scores, judge = fitted(tiny, planted)
    positive, negative = ([planted[r.id] for r in contrastive if r.side == side] for side in ("positive", "negative"))
    whole = Calibration.fit(positive, negative)
    assert judge.calibration == whole
    assert [scores[r.id] for r in neutral] == [whole.score(planted[r.id]) for r in neutral]
    further = [replace(r, score=None) for r in contrastive[:3]]
    judge.score(further)
    assert [r.score for r in further] == [whole.score(planted[r.id]) for r in further]
    assert all(r.coherence == 100 for r in further)


def test_all_questions_in_one_fold_are_scored_by_the_whole_calibration(tiny: ChatModel) -> None:
    contrastive = [rollout(tiny, "well", 0, side, 0) for side in ("positive", "negative")]
    neutral = [rollout(tiny, "well")]
    judge = Planted(tiny, {contrastive[0].id: 1.0, contrastive[1].id: 0.0, neutral[0].id: 0.5})
    judge.fit(contrastive, neutral)
    assert [r.score for r in [*contrastive, *neutral]] == pytest.approx([90, 10, 50])


def test_empty_responses_have_no_score_and_no_coherence(tiny: ChatModel) -> None:
    contrastive, neutral, planted = crowd(tiny)
    judge = Planted(tiny, planted | {r.id: math.nan for r in (contrastive[0], contrastive[5], neutral[2])})
    judge.fit(contrastive, neutral)
    empty = [contrastive[0], contrastive[5], neutral[2]]
    assert [(r.score, r.coherence) for r in empty] == [(None, 0.0)] * 3
    spoken = [r for r in [*contrastive, *neutral] if r not in empty]
    assert all(r.score is not None and r.coherence == 100 for r in spoken)
    assert judge.calibration is not None and math.isfinite(judge.calibration.middle)


def test_sides_and_natural_answers_that_say_nothing_are_refused(tiny: ChatModel) -> None:
    contrastive, neutral, planted = crowd(tiny)
    for side in ("positive", "negative"):
        silent = {r.id: math.nan for r in contrastive if r.side == side}
        with pytest.raises(
            UserError, match=f"No response under the {side} .*'grumpy'.* The responses are empty; raise `max"
        ):
            Planted(tiny, planted | silent).fit(contrastive, neutral)
    with pytest.raises(UserError, match="no natural answer"):
        Planted(tiny, planted | {r.id: math.nan for r in neutral}).fit(contrastive, neutral)
    with pytest.raises(ValueError, match="fitted first"):
        Planted(tiny, planted).score(contrastive)


# With a model


def speaking(model: ChatModel) -> tuple[list[Rollout], list[Rollout]]:
    texts = ["the answer", "I am well", "hello there", "how are you", "the question", "and then"]
    contrastive = [
        rollout(model, f"{texts[(3 * question + pair) % 6]} {side[0]}", pair, side, question)
        for question in range(6)
        for pair in (0, 4)
        for side in ("positive", "negative")
    ]
    return contrastive, [rollout(model, text, question=question) for question, text in enumerate(texts)]


def test_a_judge_is_restored_from_its_state(tiny: ChatModel) -> None:
    contrastive, neutral = speaking(tiny)
    judge = ContrastJudge(tiny, trait())
    judge.fit(contrastive, neutral)
    again = ContrastJudge.from_state(tiny, trait(), judge.state())
    sets = [[replace(r, score=None, coherence=None) for r in contrastive] for _ in range(2)]
    for one, rollouts in zip((judge, again), sets, strict=True):
        one.score(rollouts)
    assert sets[0] == sets[1] and all(r.score is not None and r.coherence is not None for r in sets[0])


def test_scores_do_not_depend_on_what_else_is_judged(tiny: ChatModel) -> None:
    contrastive, neutral = speaking(tiny)
    judge = ContrastJudge(tiny, trait())
    judge.fit(contrastive, neutral)
    judge.score(contrastive)
    for r in contrastive[::5]:
        alone = replace(r)
        judge.score([alone])
        assert (alone.score, alone.coherence) == pytest.approx((r.score, r.coherence), abs=0.02)


def test_progress_counts_what_was_announced(tiny: ChatModel) -> None:
    contrastive, neutral = speaking(tiny)
    done: list[int] = []
    judge = ContrastJudge(tiny, trait())
    judge.fit(contrastive, neutral, done.append)
    assert sum(done) == judge.readings_needed(len(contrastive) + len(neutral))


def test_a_refusal_has_no_score_and_does_not_calibrate(tiny: ChatModel) -> None:
    def sides(refusal: str) -> list[Rollout]:
        return [
            rollout(tiny, text, side=side, question=question)
            for question in range(6)
            for side, text in (
                ("positive", refusal if question == 0 else "the model answers the question"),
                ("negative", "how are you today"),
            )
        ]

    neutral = [rollout(tiny, "I am well", question=question) for question in range(3)]
    refusing, shorter = sides("I'm sorry, but I can't help with that."), sides("")
    judge, other = ContrastJudge(tiny, trait(3)), ContrastJudge(tiny, trait(3))
    judge.fit(refusing, neutral)
    other.fit(shorter, neutral)
    assert refusing[0].score is None
    assert refusing[0].coherence is not None
    assert all(r.score is not None for r in refusing[1:])
    assert judge.calibration is not None and other.calibration is not None
    assert vars(judge.calibration) == pytest.approx(vars(other.calibration), rel=1e-3)


def test_coherence_alone_is_what_the_contrast_judge_finds_beside_the_trait(tiny: ChatModel) -> None:
    contrastive, neutral = speaking(tiny)
    whole, alone = ContrastJudge(tiny, trait()), LikelihoodJudge(tiny)
    assert not whole.fitted and not alone.fitted
    with pytest.raises(ValueError, match="fitted first"):
        alone.score(neutral)
    whole.fit(contrastive, neutral)
    wanted = [r.coherence for r in [*contrastive, *neutral]]
    copies = [replace(r, score=None, coherence=None) for r in [*contrastive, *neutral]]
    done: list[int] = []
    alone.fit(copies[: len(contrastive)], copies[len(contrastive) :], done.append)
    assert [r.coherence for r in copies] == wanted and not any(r.score for r in copies)
    assert sum(done) == alone.readings_needed(len(copies))
    assert alone.fitted and alone.state().record() == {"coherence": whole.state().record()["coherence"]}
    again = LikelihoodJudge(tiny, whole.coherence)
    again.score(copies)
    assert [r.coherence for r in copies] == pytest.approx(wanted, abs=0.02)


def test_the_trait_alone_is_scored_as_beside_coherence_and_coherence_is_left_as_it_is(tiny: ChatModel) -> None:
    contrastive, neutral = speaking(tiny)
    copies = [[replace(r, coherence=7.0) for r in some] for some in (contrastive, neutral)]
    whole, alone = ContrastJudge(tiny, trait()), ContrastJudge(tiny, trait(), alone=True)
    whole.fit(contrastive, neutral)
    done: list[int] = []
    alone.fit(copies[0], copies[1], done.append)
    assert [r.score for some in copies for r in some] == [r.score for r in [*contrastive, *neutral]]
    assert {r.coherence for some in copies for r in some} == {7.0}
    assert sum(done) == alone.readings_needed(len(contrastive) + len(neutral))
    assert alone.fitted and alone.state().record() == {"calibration": whole.state().record()["calibration"]}


def test_a_judge_is_fitted_once_it_knows_both(tiny: ChatModel) -> None:
    known = JudgeState.model_validate(STATE)
    fitted = [
        ContrastJudge(tiny, trait(), calibration, coherence).fitted
        for calibration in (None, known.calibration)
        for coherence in (None, known.coherence)
    ]
    assert fitted == [False, False, False, True]


def test_the_model_that_answers_judges_a_trait_coherence_or_both(tiny: ChatModel) -> None:
    known, opened = JudgeState.model_validate(STATE), open_model("contrast", Surroundings(model=tiny))
    for judge in (opened.of_trait(trait(), known), opened.of_both(trait(), known)):
        assert (judge.model, judge.trait, judge.state()) == (tiny, trait(), known)
    alone = opened.of_coherence(trait(), known)
    assert (alone.model, alone.state().record()) == (tiny, {"coherence": STATE["coherence"]})
    assert not opened.of_trait(trait()).fitted and not opened.of_coherence(trait()).fitted
    with pytest.raises(UserError, match=r"needs the model in this process.* Screen with `engine` transf") as caught:
        open_model("contrast", Surroundings())
    assert "contrast" not in caught.value.advice and "classifier:" in caught.value.advice


def test_an_empty_answer_that_comes_later_has_no_score_and_no_coherence(tiny: ChatModel) -> None:
    empty, spoken = rollout(tiny, "", 0, "positive"), rollout(tiny, "the answer", 0, "positive")
    done: list[int] = []
    ContrastJudge.from_state(tiny, trait(), STATE).score([empty, spoken], done.append)
    assert (empty.score, empty.coherence) == (None, 0.0) and spoken.score is not None
    assert sum(done) == 2 * JUDGING_PAIRS + 1
    LikelihoodJudge(tiny, JudgeState.model_validate(STATE).coherence).score([spoken], done.append)
    assert sum(done) == 2 * JUDGING_PAIRS + 2
    with pytest.raises(ValueError, match="another judge's state"):
        ContrastJudge.from_state(tiny, trait(), {"coherence": STATE["coherence"]})
