"""Reruns of the paper's experiments."""

from personavec.study.finetune import study_finetune
from personavec.study.settings import Settings

__all__ = ["Settings", "study_finetune"]
