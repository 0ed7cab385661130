"""What a model can do: how well it predicts ordinary text, and tasks of the lm-evaluation-harness."""

from personavec.capability.passages import passage_losses, perplexities, perplexity
from personavec.capability.result import Perplexity, TaskChange, TaskChanges
from personavec.capability.tasks import Tasks

__all__ = ["Perplexity", "TaskChange", "TaskChanges", "Tasks", "passage_losses", "perplexities", "perplexity"]
