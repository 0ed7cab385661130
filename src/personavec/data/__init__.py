"""Chat training data of any usual format as a stream of samples."""

from personavec.data.dataset import Dataset, Rejected, Sample, from_dataset, open_data
from personavec.data.formats import FORMATS, columns_from_text
from personavec.data.record import Record

__all__ = ["FORMATS", "Dataset", "Record", "Rejected", "Sample", "columns_from_text", "from_dataset", "open_data"]
