"""Fine-tuning without learning a character nobody wanted."""

from personavec.finetune.callback import PreventativeSteering
from personavec.finetune.prevention import Prevention, preventing

__all__ = ["PreventativeSteering", "Prevention", "preventing"]
