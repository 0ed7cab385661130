"""What decides the result of a study."""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_doc import Doc

from personavec.errors import UserError
from personavec.finetune.settings import Training


@dataclass(frozen=True)
class StudySettings:
    """What decides the result of a study, besides the model, the vectors and further data.

    A few dozen samples need a larger learning rate than the paper's thousands; four times this one damages the default
    model more than it teaches it.

    Raises:
        UserError: Naming the field and what it may be.
    """

    samples: Annotated[int, Doc("Samples of a data set.")] = 24
    questions: Annotated[int, Doc("At most so many evaluation questions of a trait, after each fine-tune.")] = (
        4  # one answer each, and as many again where `instructed`
    )
    instructed: Annotated[bool, Doc("Also ask them under an instruction to show the trait.")] = True
    prevention_questions: Annotated[int, Doc("The same where ways of prevention are compared.")] = (
        20  # chosen by one half, judged by the other
    )
    max_new_tokens: Annotated[int, Doc("Longest answer in the trait data.")] = 48
    answer_tokens: Annotated[int, Doc("Longest answer to an evaluation question.")] = 32
    coefficients: Annotated[tuple[float, ...], Doc("Of preventative steering.")] = (0.5, 1.0, 2.0, 2.5, 3.0)
    learning_rate: Annotated[float, Doc("Highest learning rate of every fine-tune.")] = 5e-5
    epochs: Annotated[float, Doc("See `Training`.")] = 1.0
    batch: Annotated[int, Doc("See `Training`.")] = 2
    rank: Annotated[int, Doc("See `Training`.")] = 32
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("samples", self.samples, 10),
            ("questions", self.questions, 2),
            ("prevention_questions", self.prevention_questions, 4),
            ("max_new_tokens", self.max_new_tokens, 1),
        ):
            if value < least:
                raise UserError(f"`{name}` {value} is too few.", f"Choose {least} or more.")
        if self.questions > self.prevention_questions:
            raise UserError(
                f"`questions` {self.questions} is more than `prevention_questions` {self.prevention_questions}.",
                "Prevention is judged by as many questions or more.",
            )
        self.training(method="none")  # refuses what cannot be trained with

    def training(self, **choices: Any) -> Training:
        """Of one fine-tune."""
        return Training(
            **choices, learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch, accumulate=1,
            rank=self.rank, warmup_steps=2, held_out=0.25, checkpoint_every=10_000, watch_every=10_000, seed=self.seed,
        )  # fmt: skip
