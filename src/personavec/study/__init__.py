"""Reruns of the paper's experiments."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.study.finetune import study_finetune
    from personavec.study.settings import StudySettings

__getattr__, __dir__ = offering(
    __name__,
    {
        "finetune": ["study_finetune"],
        "settings": ["StudySettings"],
    },
)

__all__ = ["StudySettings", "study_finetune"]
