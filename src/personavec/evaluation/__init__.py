"""How strongly a model, steered or fine-tuned, shows a trait."""

from personavec.evaluation.job import evaluate
from personavec.evaluation.result import EvaluationRun
from personavec.evaluation.settings import EvaluationSettings

__all__ = ["EvaluationRun", "EvaluationSettings", "evaluate"]
