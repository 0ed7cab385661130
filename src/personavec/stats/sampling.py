"""Which samples get a baseline: a random subset that does not depend on the order of the data or on interruptions."""

from collections import Counter
from collections.abc import Collection
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def priority(identity: str, occurrence: int, seed: int) -> float:
    """A uniform number in 0..1 that belongs to a sample, its how-many-th occurrence and the seed alone."""
    text = f"{occurrence}:{identity}".encode("utf-8", "surrogatepass")
    digest = blake2b(text, digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def priorities(ids: Collection[str], seed: int) -> NDArray[np.float64]:
    """Those of all samples (N,). One that occurs twice gets two, and keeps them in whatever order the samples come.

    Only ids that occur more than once are held in memory.
    """
    found = np.fromiter((priority(identity, 0, seed) for identity in ids), np.float64, len(ids))
    ordered = np.sort(found)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if len(twice):
        again = np.isin(found, twice)
        seen: Counter[str] = Counter()
        for row, identity in enumerate(ids):
            if again[row]:
                if seen[identity]:
                    found[row] = priority(identity, seen[identity], seed)
                seen[identity] += 1
    return found


def smallest(values: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Indices of the samples with the smallest priorities, smallest first: a smaller subset begins a larger one.

    A simple random sample without replacement.
    """
    if size < len(values):
        edge = np.partition(values, size - 1)[size - 1] if size else -1.0
        candidates = np.flatnonzero(values <= edge)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")][:size].astype(np.intp)
