"""How a model's character moves over conversations, before and while it answers."""

from personavec.monitoring.job import monitor
from personavec.monitoring.projections import project

__all__ = ["monitor", "project"]
