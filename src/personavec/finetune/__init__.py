"""Fine-tuning without learning a character nobody wanted."""

from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.job import fine_tune
from personavec.finetune.prevention import Prevention, preventing
from personavec.finetune.result import FinetuneRun, Tuned
from personavec.finetune.settings import Training
from personavec.finetune.watch import ShiftMonitor

__all__ = [
    "FinetuneRun",
    "PreventativeSteering",
    "Prevention",
    "ShiftMonitor",
    "Training",
    "Tuned",
    "fine_tune",
    "preventing",
]
