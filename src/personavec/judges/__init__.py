"""Judges: who scores a response 0..100 for a trait, and 0..100 for coherence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Answered:
    """A question and the answer that is judged."""

    question: str
    answer: str


class Judge(Protocol):
    """Anything that scores answers."""

    name: str

    def score(self, items: Sequence[Answered]) -> list[float | None]:
        """One score 0..100 per item; None where there is none (a refusal, or no number)."""
