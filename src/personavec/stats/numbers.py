"""Arrays of numbers, checked."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def finite(values: ArrayLike, dimensions: int | None = None) -> Floats:
    """As float64.

    Raises:
        ValueError: Another number of dimensions (None: 1 or 2), no rows, or values that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in ((1, 2) if dimensions is None else (dimensions,)) or len(array) == 0:
        raise ValueError("no values" if array.size == 0 else f"values of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values that are not finite")
    return array
