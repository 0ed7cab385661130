"""Fine-tuning without learning a character nobody wanted."""

from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.job import Tuned, fine_tune
from personavec.finetune.prevention import Prevention, preventing
from personavec.finetune.settings import Training
from personavec.finetune.watch import ShiftMonitor

__all__ = ["PreventativeSteering", "Prevention", "ShiftMonitor", "Training", "Tuned", "fine_tune", "preventing"]
