"""Parts of a data set that are left out in turn: what belongs together, such as the answers to a question, stays so."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def folds(clusters: Sequence[Hashable], count: int, seed: int) -> NDArray[np.intp]:
    """A fold for each row (n,), 0..count - 1: whole clusters in one, drawn at random, equally many in each."""
    names = list(dict.fromkeys(clusters))
    order = np.random.default_rng(seed).permutation(len(names))
    of = {name: int(place) % count for name, place in zip(names, order, strict=True)}
    return np.array([of[name] for name in clusters], np.intp)
