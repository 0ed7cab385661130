"""What a model can do: how well it predicts ordinary text, and tasks of the lm-evaluation-harness."""

from personavec.capability.passages import passage_losses, perplexity

__all__ = ["passage_losses", "perplexity"]
