"""Chat training data of any usual format as a stream of samples."""

from personavec.data.dataset import Dataset, Joined, Rejected, Sample, from_dataset, open_data
from personavec.data.formats import FORMATS
from personavec.data.record import Record

__all__ = ["FORMATS", "Dataset", "Joined", "Record", "Rejected", "Sample", "from_dataset", "open_data"]
