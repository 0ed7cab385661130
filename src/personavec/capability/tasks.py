"""Tasks of lm-evaluation-harness before and after something was done to a model."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from personavec.capability.result import TaskChange, TaskChanges, TaskMetric, TaskMetrics
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate

DRAWS = 200  # of documents, for the standard error of metrics that are no means
SEED = 1234  # of few-shot examples, the harness's default
NORMAL = 1.96  # standard errors to either side of 95 %


def fingerprint(tasks: Sequence[str]) -> list[list[str | None]]:
    """Names of tasks, with a short hash of those that are files, so that a run knows whether they are the same."""
    return [
        [name, hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16] if paths else None]
        for name in tasks
        for paths in [_files(name)]
    ]


class Tasks:
    """Tasks that the harness has loaded.

    Args:
        tasks: Names that it knows (tasks, groups such as mmlu, tags), YAML files of tasks, folders of such files.

    Attributes:
        version: Of the harness.

    Raises:
        UserError: The harness is not installed, a task is not known, or its data cannot be reached.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        try:
            import lm_eval
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UserError(
                f"`lm_eval` needs lm-evaluation-harness, which cannot be imported ({error}).",
                "Install it with: pip install 'personavec[eval]'",
            ) from error
        self.version: str = lm_eval.__version__
        known = [name for name in tasks if not _files(name)]
        folders = [name for name in tasks if Path(name).is_dir()]
        with _quiet():
            # Reading its thousands of tasks takes a while.
            manager = TaskManager(include_path=folders, include_defaults=bool(known))
            for name in known:
                if name not in manager.all_tasks:
                    raise UserError(
                        f"lm-evaluation-harness {self.version} knows no task {name!r}.",
                        "List its tasks with: lm-eval ls tasks. For one of your own name its YAML file.",
                    )
            found = [_load(manager, one) for name in tasks for one in _names(manager, name)]
        self._groups = {name: group for one in found for name, group in one.get("groups", {}).items()}
        self._tasks = {name: task for one in found for name, task in one["tasks"].items()}
        inside = {child for one in found for children in one.get("group_map", {}).values() for child in children}
        self._outermost = [name for name in (*self._groups, *self._tasks) if name not in inside]

    def measure(
        self, model: ChatModel, interventions: Sequence[Intervention], log: JsonLines, name: str = "Tasks"
    ) -> TaskMetrics:
        """Run the tasks on a model with its adapter as it is.

        Prompts are the task's own text, without the chat template, as is the harness's habit.

        Args:
            interventions: Steering; see `Subject`.
            log: Of this model and steering: answers that need not be asked for again after an interruption.
            name: For the progress bar.

        Raises:
            UserError: A task that needs what cannot be given: images, code that is executed, another way to generate.
        """
        import lm_eval

        from personavec.capability.subject import Subject

        with _quiet():
            try:
                for task in self._tasks.values():
                    if task.get_config("num_fewshot") is None:
                        task.set_config("num_fewshot", 0)
                    task.set_fewshot_seed(seed=SEED)
                # Not simple_evaluate, which lists all installed packages, for minutes.
                found = lm_eval.evaluate(
                    Subject(model, interventions, log, name),
                    {"tasks": self._tasks, "groups": self._groups},
                    bootstrap_iters=0,  # its own forks processes, and prints
                )
            except (ValueError, NotImplementedError) as error:
                raise UserError(f"lm-evaluation-harness gave up: {error}", "Choose other tasks.") from error
        return {one: self._metrics(one, found) for one in self._outermost}

    def _metrics(self, name: str, found: Mapping[str, Any]) -> dict[str, TaskMetric]:
        """Every metric of a task or group that is a number."""
        leaves = self._leaves(name)
        metrics = {}
        for key, value in found["results"][name].items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not (isinstance(value, int | float) and np.isfinite(value)):
                continue
            values = [
                sample[metric]
                for leaf in leaves
                for sample in found["samples"][leaf]
                if sample["filter"] == kind and metric in sample
            ]
            # Of metrics that are no means, such as perplexities and F1, a document has no figure of its own.
            mean = all(isinstance(one, int | float) for one in values) and bool(np.isclose(np.mean(values), value))
            metrics[metric if kind == "none" else f"{metric} ({kind})"] = TaskMetric(
                value=float(value),
                stderr=None if mean or name in self._groups else self._error(name, metric, values),
                n=len(values),
                better=found["higher_is_better"].get(name, {}).get(metric),
                values=tuple(float(one) for one in values) if mean else None,
            )
        return metrics

    def _error(self, name: str, metric: str, values: Sequence[Any]) -> float | None:
        """Standard error of what a task makes of its documents' values, by drawing documents."""
        of = self._tasks[name].aggregation().get(metric)
        if of is None:
            return None
        draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
        error = float(np.std([of([values[at] for at in draw]) for draw in draws], ddof=1))
        return error if np.isfinite(error) else None

    def _leaves(self, name: str) -> list[str]:
        group = self._groups.get(name)
        return [name] if group is None else [task.task_name for task in group.get_all_tasks()]


def compared(before: TaskMetrics, after: TaskMetrics | None = None, seed: int = 0) -> TaskChanges:
    """Both sides of every metric whose error is known.

    The change is that of each document where it has a figure; else the two sides count as independent, which makes its
    interval too wide rather than too narrow.

    Args:
        after: None: there is one side only.
    """
    changes: TaskChanges = {}
    for task, metrics in before.items():
        changes[task] = {}
        for metric, old in metrics.items():
            first = _estimate(old, seed)
            if after is None:
                if first is not None:
                    changes[task][metric] = TaskChange(before=first, better=old.better)
                continue
            new = after[task].get(metric, old.model_copy(update={"values": None, "stderr": None}))
            second, change = _estimate(new, seed), _estimate(_difference(old, new), seed)
            if first is not None and second is not None and change is not None:
                changes[task][metric] = TaskChange(before=first, after=second, change=change, better=old.better)
    return changes


def _difference(old: TaskMetric, new: TaskMetric) -> TaskMetric:
    values = None
    if old.values is not None and new.values is not None:
        values = tuple(np.subtract(new.values, old.values).tolist())
    return TaskMetric(
        value=new.value - old.value,
        n=old.n,
        better=old.better,
        values=values,
        stderr=float(np.hypot(old.stderr or 0.0, new.stderr or 0.0)),
    )


def _estimate(metric: TaskMetric, seed: int) -> Estimate | None:
    if metric.values is not None:
        return bootstrap_mean(metric.values, seed=seed)
    if metric.stderr is None:
        return None
    half = NORMAL * metric.stderr
    return Estimate(metric.value, metric.value - half, metric.value + half, metric.n)


def _files(name: str) -> list[Path]:
    """The YAML files that a task's name stands for; none if it is a name that the harness knows.

    Raises:
        UserError: A file that is not there, or a folder without any.
    """
    path = Path(name)
    if path.is_dir():
        inside = sorted(path.glob("*.yaml"))
        if not inside:
            raise UserError(f"There is no .yaml file in {path}.", "Name a task, its YAML file, or a folder of them.")
        return inside
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no file {path}.", "Name a task, its YAML file, or a folder of them.")
        return [path]
    return []


def _names(manager: Any, name: str) -> list[str]:
    """What the harness loads for a name: itself, or what is in a folder (by name: groups have none by path)."""
    if not Path(name).is_dir():
        return [name]
    inside = {path.resolve() for path in _files(name)}
    entries = manager.task_index.items()
    return [one for one, entry in entries if entry.yaml_path is not None and entry.yaml_path.resolve() in inside]


def _load(manager: Any, name: str) -> Any:
    try:
        return manager.load([name])
    except OSError as error:  # what datasets raises for data that are not there, and where there is no network
        raise UserError(
            f"The data of the task {name} cannot be reached: {_line(error)}",
            "Run it once where the Hugging Face hub can be reached, with the same HF_HOME; or write a YAML file of "
            "your own with dataset_path: json and dataset_kwargs: {data_files: FILE}.",
        ) from error
    except ImportError as error:
        raise UserError(f"The task {name} needs a further package: {_line(error)}", "Install it.") from error
    except Exception as error:  # YAML, templates and Python of others
        raise UserError(
            f"lm-evaluation-harness cannot load the task {name}: {type(error).__name__}: {_line(error)}",
            "Look at its YAML file.",
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes and bars of the harness and of what loads its data."""
    import datasets

    disabled, bars = logging.root.manager.disable, datasets.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        with patch("lm_eval.api.task.tqdm", lambda items, **_: items, create=True):
            yield
    finally:
        logging.disable(disabled)
        if bars:
            datasets.enable_progress_bars()
