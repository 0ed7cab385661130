"""From a trait to a persona vector, and what the vector does to the model."""

from personavec.extraction.job import Extraction, Settings, extract

__all__ = ["Extraction", "Settings", "extract"]
