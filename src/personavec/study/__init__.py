"""Reruns of the paper's experiments."""

from personavec.study.finetune import Settings, study_finetune

__all__ = ["Settings", "study_finetune"]
