"""How strongly a model, steered or fine-tuned, shows a trait."""

from personavec.evaluation.job import evaluate

__all__ = ["evaluate"]
