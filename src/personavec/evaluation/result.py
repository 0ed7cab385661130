"""What an evaluation found: the content of its run.json."""

from typing import ClassVar

from personavec.capability.result import Perplexity, TaskChanges
from personavec.info import StyleHeld
from personavec.results import Figure, Result, Run


class EvaluatedAnswer(Result):
    """An answer to an evaluation question.

    Attributes:
        question: As the model was asked.
        text: As the model wrote it.
        score, coherence: Points, 0..100; None: the judge gave none.
    """

    question: str
    text: str
    score: float | None
    coherence: float | None


class EvaluationRun(Run):
    """How strongly a model shows a trait.

    Attributes:
        trait: Its name.
        judge: Who scored the answers, as the user named it.
        steer: What was done to the stream, in words, a sentence for each.
        score, coherence: Points, over questions.
        answers: All of them.
        plain: Points, over questions, of the model without adapter and steering; None: there is neither.
        against_plain: What adapter and steering do to the score, and what of it remains with style held equal; None:
            there is neither, or no question has a score on both sides.
        perplexity: Of general text, without and with adapter and steering; None: there is neither.
        lm_eval: Tasks, without and with them; None: no task was asked for.
    """

    COMMAND: ClassVar[str] = "evaluate"

    trait: str
    judge: str
    steer: tuple[str, ...]
    score: Figure
    coherence: Figure
    answers: tuple[EvaluatedAnswer, ...]
    plain: Figure | None = None
    against_plain: StyleHeld | None = None
    perplexity: Perplexity | None
    lm_eval: TaskChanges | None
