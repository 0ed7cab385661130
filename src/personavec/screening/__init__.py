"""Screening training data: how far a data set lies along each trait, and which samples do it."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.screening.compare import compare_screenings
    from personavec.screening.datasets import projector, screen
    from personavec.screening.files import screen_files
    from personavec.screening.job import run_screening
    from personavec.screening.result import ScreeningRun
    from personavec.screening.settings import ScreenSettings

__getattr__, __dir__ = offering(
    __name__,
    {
        "compare": ["compare_screenings"],
        "datasets": ["projector", "screen"],
        "files": ["screen_files"],
        "job": ["run_screening"],
        "result": ["ScreeningRun"],
        "settings": ["ScreenSettings"],
    },
)

__all__ = [
    "ScreenSettings",
    "ScreeningRun",
    "compare_screenings",
    "projector",
    "run_screening",
    "screen",
    "screen_files",
]
