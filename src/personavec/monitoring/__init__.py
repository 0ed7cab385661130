"""How a model's character moves over conversations, before and while it answers."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.monitoring.job import monitor
    from personavec.monitoring.projections import project

__getattr__, __dir__ = offering(__name__, {"job": ["monitor"], "projections": ["project"]})

__all__ = ["monitor", "project"]
