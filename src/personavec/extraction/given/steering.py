"""What a vector from given texts does: answers under pushes of several sizes, scored by two kinds of judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.direction import with_neutral
from personavec.extraction.effects import estimate, known, score_matrix
from personavec.extraction.figures import steering_effect
from personavec.extraction.given.result import Push, PushedAnswer, RandomExample
from personavec.extraction.workbench import Workbench
from personavec.info import Steering
from personavec.interventions import steering
from personavec.judges.base import JudgeState
from personavec.judges.contrast import ContrastJudge
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.operations import ADD
from personavec.progress import progress
from personavec.rollouts import Rollout, plan
from personavec.stats.bootstrap import bootstrap_spearman_by_question
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import isotropic_directions
from personavec.texts import Text
from personavec.vector import PersonaVector

SHARES = (-0.25, -0.125, 0.125, 0.25, 0.4)  # of the mean residual norm; the last one is often too much
EFFECT = 0.25  # the share, in either direction, between which effects are taken
PAIRS = 1  # of instructions, that the contrast judge compares an answer under: its readings are most of the work
EXAMPLES = 8  # questions whose answers are shown

ByJudge = Mapping[str, list[Rollout]]  # the same answers with each judge's score


@dataclass(frozen=True)
class Steered:
    """What was answered.

    Attributes:
        vector: With the statistics of the plain answers.
        unit: The coefficient of a push as large as what it is added to.
        texts: The test half as rollouts, with the contrast judge's scores.
        dose: Answers to the evaluation questions under every push, without one among them; the contrast judge's are
            those without and at plus and minus `EFFECT`.
        null: Answers to some of them under random directions of the vector's norm.
        prompted: Answers to all of them with the trait asked for in the system prompt, without steering.
        state: What the contrast judge has learned of the trait, and what is natural for the model.
    """

    vector: PersonaVector
    unit: float
    texts: list[Rollout]
    dose: ByJudge
    null: ByJudge
    prompted: ByJudge
    state: JudgeState


def steer(bench: Workbench, vector: PersonaVector, extract: Sequence[Rollout], test: Sequence[Rollout]) -> Steered:
    """Plain answers, and answers under pushes; generated and scored.

    Args:
        bench: Its scorer is the probe, and a judge of coherence that has not been fitted.
        extract, test: Both halves of the texts, as rollouts.
    """
    asked, layer = bench.trait.evaluation_questions, vector.layer
    plain = bench.steered("dose", [], asked, layer, 0.0)
    bench.generate(plain, "2/4 Answering")
    bench.fit([], plain, [], "2/4 Judging")
    spoken = bench.spoken(plain)
    vector = with_neutral(bench, vector, spoken, bench.read(spoken, "2/4 Reading the answers"))
    assert vector.residual_norm is not None
    unit = float(vector.residual_norm[layer]) / float(vector.at(layer).norm())

    def pushed(share: float) -> list[Rollout]:
        return bench.steered("dose", steering(vector, share * unit), asked, layer, share * unit)

    dose = [answer for share in SHARES for answer in pushed(share)]
    null = _random(bench, vector, EFFECT * unit)
    prompted = plan(bench.model, "prompted", asked, system=bench.trait.system_prompts(0)[0], pair=0, side="positive")
    bench.generate([*dose, *null, *prompted], "3/4 Steering")
    bench.score([*dose, *null, *prompted], "4/4 Judging")
    at_effect = [answer for answer in dose if abs(abs(answer.coefficient or 0.0) - EFFECT * unit) < 1e-9]
    contrast = ContrastJudge(bench.model, bench.trait, pairs=PAIRS, alone=True)
    told, texts, asked_again, null_again, prompted_again = (
        [replace(answer) for answer in answers] for answers in (extract, test, [*plain, *at_effect], null, prompted)
    )
    natural = asked_again[: len(plain)]
    further = [*texts, *asked_again[len(plain) :], *null_again, *prompted_again]
    total = contrast.readings_needed(len(told) + len(plain) + len(further))
    with bench.timings.stage("judge"), progress("4/4 Judging a second time", total=total, unit="readings") as job:
        contrast.fit(told, natural, job.advance)
        contrast.score(further, job.advance)
    first = bench.scorer.name
    return Steered(
        vector=vector,
        unit=unit,
        texts=texts,
        dose={first: [*plain, *dose], contrast.name: asked_again},
        null={first: null, contrast.name: null_again},
        prompted={first: prompted, contrast.name: prompted_again},
        state=JudgeState(calibration=contrast.calibration, coherence=bench.scorer.state().coherence),
    )


def text_rollouts(model: ChatModel, split: str, texts: Sequence[Text], tokens: int) -> list[Rollout]:
    """Given texts as if the model had answered them, cut like answers."""
    places = {question: place for place, question in enumerate(dict.fromkeys(text.question for text in texts))}
    return [
        Rollout(
            id=f"text/{split}/{number}",
            stage="text",
            question=text.question,
            question_index=places[text.question],
            prompt_ids=model.prompt_ids([{"role": "user", "content": text.question}]),
            side=text.side,
            response_ids=model.template.answer_ids(text.answer)[:tokens],
            text=text.answer,
            finished=True,
        )
        for number, text in enumerate(texts)
    ]


def _random(bench: Workbench, vector: PersonaVector, coefficient: float) -> list[Rollout]:
    """Answers under random directions of the vector's norm, at plus and minus the coefficient."""
    layer, settings = vector.layer, bench.settings
    drawn = isotropic_directions((1, vector.directions.shape[1]), settings.random_directions, settings.seed + 2)[:, 0]
    drawn = torch.nn.functional.normalize(drawn, dim=-1) * vector.at(layer).norm()
    return [
        answer
        for number, direction in enumerate(drawn)
        for signed in (-coefficient, coefficient)
        for answer in bench.steered(
            "null",
            [Intervention(ADD, layer, signed * direction, settings.positions)],
            bench.trait.evaluation_questions[:NULL_QUESTIONS],
            layer,
            signed,
            f"random{number:02}",
        )
    ]


def pushes(dose: ByJudge, unit: float, seed: int) -> list[Push]:
    """Scores and coherence by push.

    Args:
        unit: The coefficient of a push as large as what it is added to.
    """
    coefficients = sorted({r.coefficient or 0.0 for answers in dose.values() for r in answers})
    return [
        _push({name: _at(c, answers) for name, answers in dose.items() if _at(c, answers)}, c, unit, seed)
        for c in coefficients
    ]


def _at(coefficient: float, answers: Sequence[Rollout]) -> list[Rollout]:
    return [answer for answer in answers if answer.coefficient == coefficient]


def _push(answers: ByJudge, coefficient: float, unit: float, seed: int) -> Push:
    any_judge = next(iter(answers.values()))
    return Push(
        share=coefficient / unit,
        coefficient=coefficient,
        score={name: known(partial(estimate, scored, "score", seed)) for name, scored in answers.items()},
        scored={name: sum(r.score is not None for r in scored) for name, scored in answers.items()},
        answers=len(any_judge),
        coherence=estimate(any_judge, "coherence", seed),
    )


def effects(steered: Steered, seed: int) -> dict[str, Steering | None]:
    """The effect of the vector that each judge sees, beside that of random directions; None: it scored too little."""
    return {
        name: known(partial(steering_effect, answers, steered.null[name], EFFECT * steered.unit, seed))
        for name, answers in steered.dose.items()
    }


def rank_correlation(dose: Sequence[Rollout], seed: int) -> Estimate | None:
    """Between coefficient and score, by question; None: no answer has a score."""
    if all(answer.score is None for answer in dose):
        return None
    return bootstrap_spearman_by_question(*score_matrix(dose), seed=seed)


def random_examples(dose: ByJudge, unit: float, seed: int) -> list[RandomExample]:
    """The answers to a few questions drawn at random, by push."""
    answers = sorted(next(iter(dose.values())), key=lambda r: r.coefficient or 0.0)
    scores = {name: {r.id: r.score for r in scored} for name, scored in dose.items()}
    questions = list(dict.fromkeys(r.question for r in answers))
    drawn = np.random.default_rng(seed).permutation(len(questions))[:EXAMPLES]
    return [
        RandomExample(
            question=questions[place],
            answers=tuple(
                PushedAnswer(
                    share=(r.coefficient or 0.0) / unit,
                    text=r.text,
                    score={name: of[r.id] for name, of in scores.items() if r.id in of},
                    coherence=r.coherence,
                )
                for r in answers
                if r.question == questions[place]
            ),
        )
        for place in drawn
    ]
