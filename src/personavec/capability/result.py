"""What a model can do, before and after something was done to it."""

from personavec.results import Figure, Result


class Perplexity(Result):
    """Of general text, by the same passages.

    Attributes:
        before, after: Perplexity, over passages.
        ratio: What it was multiplied by, of each passage.
    """

    before: Figure
    after: Figure
    ratio: Figure


class TaskChange(Result):
    """One metric of a task of lm-evaluation-harness, in the metric's own unit, over documents.

    Attributes:
        before: Of the model as it came.
        after, change: Of the model that something was done to; None: there is no such model.
        better: Whether more is better; None: not known.
    """

    before: Figure
    after: Figure | None = None
    change: Figure | None = None
    better: bool | None


class TaskMetric(Result):
    """One metric of a task, as it was measured of one model.

    Attributes:
        value: In the metric's own unit.
        stderr: Standard error of a value that is no mean; None: not known, or of the values.
        n: Documents.
        better: Whether more is better; None: not known.
        values: One for each document; None: the metric is no mean.
    """

    value: float
    stderr: float | None
    n: int
    better: bool | None
    values: tuple[float, ...] | None


TaskChanges = dict[str, dict[str, TaskChange]]  # by task and metric
TaskMetrics = dict[str, dict[str, TaskMetric]]  # by task and metric
