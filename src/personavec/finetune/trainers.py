"""What trainers of transformers do not offer to their callbacks."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from personavec.errors import UserError


def running_trainer() -> Any:
    """The trainer that is calling us: callbacks are not told."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    raise UserError(
        "No transformers.Trainer is running.", "In a training loop of your own, use `with preventing(...)` instead."
    )


def replaced(owner: Any, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Let `owner.name(...)` call `wrapper(plain, ...)`. Returns what undoes it, in any order with others."""
    plain = getattr(owner, name)
    before = owner.__dict__.get(name)
    on = True

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(plain, *args, **kwargs) if on else plain(*args, **kwargs)

    def undo() -> None:
        nonlocal on
        on = False
        if owner.__dict__.get(name) is call:
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    setattr(owner, name, call)
    return undo


def log_beside(trainer: Any, control: Any, figures: Mapping[str, float]) -> None:
    """Log figures beside the trainer's own, which takes its line of this step for written when anything is logged."""
    due = control.should_log
    # Not the method of a subclass: TRL's would put the training metrics gathered so far into this line.
    Trainer.log(trainer, dict(figures))
    control.should_log = due
