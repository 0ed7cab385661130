"""Fine-tuning without learning a character nobody wanted."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.finetune.callback import PreventativeSteering
    from personavec.finetune.job import fine_tune
    from personavec.finetune.prevention import Prevention, preventing
    from personavec.finetune.result import FinetuneRun, Tuned
    from personavec.finetune.settings import Training
    from personavec.finetune.watch import ShiftMonitor, shift_limits

__getattr__, __dir__ = offering(
    __name__,
    {
        "callback": ["PreventativeSteering"],
        "job": ["fine_tune"],
        "prevention": ["Prevention", "preventing"],
        "result": ["FinetuneRun", "Tuned"],
        "settings": ["Training"],
        "watch": ["ShiftMonitor", "shift_limits"],
    },
)

__all__ = [
    "FinetuneRun",
    "PreventativeSteering",
    "Prevention",
    "ShiftMonitor",
    "Training",
    "Tuned",
    "fine_tune",
    "preventing",
    "shift_limits",
]
