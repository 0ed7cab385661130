"""How strongly a model, steered or fine-tuned, shows a trait."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.evaluation.job import evaluate
    from personavec.evaluation.result import EvaluationRun
    from personavec.evaluation.settings import EvaluationSettings

__getattr__, __dir__ = offering(
    __name__,
    {
        "job": ["evaluate"],
        "result": ["EvaluationRun"],
        "settings": ["EvaluationSettings"],
    },
)

__all__ = ["EvaluationRun", "EvaluationSettings", "evaluate"]
