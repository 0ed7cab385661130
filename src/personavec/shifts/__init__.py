"""What a fine-tune did to the character: the fine-tuning shift, for any two checkpoints or an adapter."""

from personavec.shifts.job import run_shift
from personavec.shifts.measure import shift

__all__ = ["run_shift", "shift"]
