"""How a model's character moves over conversations, before and while it answers."""

from personavec.monitoring.job import monitor, project

__all__ = ["monitor", "project"]
