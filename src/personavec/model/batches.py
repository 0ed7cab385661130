"""Which sequences go through the model side by side."""

from collections.abc import Sequence


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in batches of like length, of at most `budget` tokens with the padding, or of a single one.

    The longest first, so that memory runs out at once or never. With a budget of 0 each goes alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches
