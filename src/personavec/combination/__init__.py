"""New vectors from old ones: sums and differences, and what of a vector is its trait's alone."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.combination.specificity import specific
    from personavec.combination.sums import combine

__getattr__, __dir__ = offering(__name__, {"specificity": ["specific"], "sums": ["combine"]})

__all__ = ["combine", "specific"]
