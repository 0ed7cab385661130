"""What decides the result of a study."""

from dataclasses import dataclass
from typing import Any

from personavec.errors import UserError
from personavec.finetune import Training


@dataclass(frozen=True)
class Settings:
    """What decides the result of a study, besides the model, the vectors and further data.

    Attributes:
        samples: Of each data set.
        questions: At most so many evaluation questions of each trait after each fine-tune, one answer each; as many
            again under an instruction to show the trait.
        prevention_questions: At most so many where prevention is judged: chosen by one half, judged by the other.
        max_new_tokens: Longest answer in the trait data.
        answer_tokens: Longest answer to an evaluation question.
        coefficients: Of preventative steering.
        learning_rate, epochs, batch, rank: See `Training`. A few dozen samples need a larger rate than the paper's
            thousands; four times this one damages the default model more than it teaches it.
        seed: Of everything random.
    """

    samples: int = 24
    questions: int = 4
    prevention_questions: int = 20
    max_new_tokens: int = 48
    answer_tokens: int = 32
    coefficients: tuple[float, ...] = (0.5, 1.0, 2.0, 2.5, 3.0)
    learning_rate: float = 5e-5
    epochs: float = 1.0
    batch: int = 2
    rank: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--samples", self.samples, 10),
            ("--questions", self.questions, 2),
            ("--prevention-questions", self.prevention_questions, 4),
        ):
            if value < least:
                raise UserError(f"{option} {value} is too few.", f"Choose {least} or more.")
        if self.questions > self.prevention_questions:
            raise UserError(
                f"--questions {self.questions} is more than --prevention-questions {self.prevention_questions}.",
                "Prevention is judged by as many questions or more.",
            )
        self.training(method="none")  # refuses what cannot be trained with

    def training(self, **choices: Any) -> Training:
        """Of one fine-tune."""
        return Training(
            **choices, learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch, accumulate=1,
            rank=self.rank, warmup_steps=2, held_out=0.25, checkpoint_every=10_000, watch_every=10_000, seed=self.seed,
        )  # fmt: skip
