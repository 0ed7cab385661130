"""What a LoRA of a minute learns: a trait's texts, as many steps as fit into a minute of one core.

For benchmarks/models.py. Trained is on the texts that show the trait of the half which neither vectors nor probes are
made of; the loss is taken on those of the other half, to other questions. How long a step takes is seen in a short
training first, so that the learning rate can fall to 0 within the minute.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import now
from personavec import ChatModel
from personavec.data import open_data
from personavec.files import JsonLines, write_atomic
from personavec.finetune import Training, Tuned, fine_tune
from personavec.finetune.adapter import saved_adapter
from personavec.finetune.character import before_and_after
from personavec.finetune.examples import Encoder, read_samples
from personavec.finetune.losses import example_losses
from personavec.finetune.result import Change
from personavec.finetune.training import Steps
from personavec.judges.coherence import Coherence, worst_stretches
from personavec.results import Result
from personavec.rollouts import Rollout, generate, plan
from personavec.texts.contrastive import library_texts
from personavec.traits import load_trait

TRAIT = "optimistic"
SECONDS = 60.0  # of processor time
TRIED = 4  # steps that are timed beforehand, less the first
BATCH = 2
RATE = 1e-4  # as in benchmarks/prevention.py


class Minute(Result):
    """What was learned in it.

    Attributes:
        texts: That are trained on.
        steps, samples: In the time, and samples seen in them, each as often as it was.
        seconds: Of processor time, the steps alone.
        loss: On texts that are not trained on, in nats per token.
        score: Of answers to evaluation questions.
        coherence: Of the same.
    """

    texts: int
    steps: int
    samples: int
    seconds: float
    loss: Change
    score: Change
    coherence: Change


def chats(folder: Path, half: str) -> Path:
    """The texts of a half that show the trait, as data to fine-tune on."""
    path = folder / f"{half}.jsonl"
    texts = [text for text in getattr(library_texts(TRAIT), half) if text.side == "positive"]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": t.question}, {"role": "assistant", "content": t.answer}]})
        for t in texts
    ]
    write_atomic(path, "".join(line + "\n" for line in lines))
    return path


def trained(model: ChatModel, data: Path, out: Path, steps: int, count: int) -> tuple[Tuned, list[float]]:
    """An adapter after so many steps on so many samples, and the processor time at which each step ended."""
    ends: list[float] = []
    before = Steps.on_step_end

    def timed(self: Steps, *given: Any, **named: Any) -> None:
        ends.append(now())
        before(self, *given, **named)

    training = Training(
        method="none", epochs=steps * BATCH / count, learning_rate=RATE, batch=BATCH, accumulate=1, warmup_steps=2,
        held_out=0, checkpoint_every=10_000, watch_every=10_000,
    )  # fmt: skip
    with patch.object(Steps, "on_step_end", timed):
        tuned = fine_tune(model, data, out, training, measure=False)
    return tuned, ends


def minute(
    model: ChatModel,
    folder: Path,
    answer_tokens: int,
    temperature: float,
    score: Callable[[Sequence[Rollout]], list[float | None]],
) -> Minute:
    """Train and measure.

    Args:
        folder: Where everything is kept.
        answer_tokens, temperature: Of answers.
        score: The judge.
    """  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    data, others = chats(folder, "test"), chats(folder, "extract")
    count = sum(1 for _ in open_data(data))
    _, ends = trained(model, data, folder / "tried", TRIED, count)
    steps = max(1, round(SECONDS / ((ends[-1] - ends[0]) / (TRIED - 1))))
    tuned, ends = trained(model, data, folder / "tuned", steps, count)

    encoder = Encoder(model, model.context_length)
    unseen = [mine[0] for mine in read_samples(encoder, open_data(others)).examples]
    trait, log = load_trait(TRAIT), JsonLines(folder / "answers.jsonl")

    def answered(asked: ChatModel, name: str, questions: Sequence[str]) -> list[Rollout]:
        made = plan(model, "minute", questions, setting=name)
        generate(asked, made, log, description=name, max_new_tokens=answer_tokens, temperature=temperature)
        return made

    # What is natural is told by answers to other questions than those that are scored.
    natural = answered(model, "natural", trait.extraction_questions)
    coherence = Coherence.of_natural(worst_stretches(model, natural), natural)
    answers, losses = {}, {}
    answers["before"] = answered(model, "before", trait.evaluation_questions)
    losses["before"] = example_losses(model, unseen).tolist()
    with saved_adapter(model, tuned.adapter) as adapted:
        answers["after"] = answered(adapted, "after", trait.evaluation_questions)
        losses["after"] = example_losses(adapted, unseen).tolist()
    coherent = {
        when: [coherence.score(worst, r.response_ids) for worst, r in zip(worst_stretches(model, some), some, strict=True)]
        for when, some in answers.items()
    }  # fmt: skip
    changes = [
        before_and_after(both["before"], both["after"])
        for both in (losses, {when: score(some) for when, some in answers.items()}, coherent)
    ]
    assert all(changes), "no answer has a score both before and after"
    loss, scores, sense = (change for change in changes if change is not None)
    mean = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else SECONDS
    return Minute(
        texts=count, steps=tuned.steps, samples=tuned.steps * BATCH, seconds=mean * len(ends),
        loss=loss, score=scores, coherence=sense,
    )  # fmt: skip
