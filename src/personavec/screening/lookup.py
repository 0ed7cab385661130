"""Samples of a data set by their index."""

from collections.abc import Collection

from personavec.data import Dataset, Sample


class Lookup:
    """Finds samples by their index. Indices beyond those found before are looked for from there on."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._records, self._last = iter(data), -1

    def __call__(self, indices: Collection[int]) -> dict[int, Sample]:
        """The samples with these indices, by index."""
        wanted = set(indices)
        samples: dict[int, Sample] = {}
        if not wanted:
            return samples
        if min(wanted) <= self._last:
            self._records = iter(self._data)
        for record in self._records:
            if record.index in wanted and isinstance(record, Sample):
                samples[record.index] = record
                if len(samples) == len(wanted):
                    break
        self._last = max(wanted)
        return samples
