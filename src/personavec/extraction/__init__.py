"""From a trait to a persona vector, and what the vector does to the model."""

from personavec.extraction.job import extract
from personavec.extraction.result import Extraction, ExtractionRun
from personavec.extraction.settings import Settings

__all__ = ["Extraction", "ExtractionRun", "Settings", "extract"]
