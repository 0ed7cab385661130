"""From a trait to a persona vector, and what the vector does to the model."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.extraction.job import extract
    from personavec.extraction.result import Extraction, ExtractionRun
    from personavec.extraction.settings import Settings

__getattr__, __dir__ = offering(
    __name__,
    {
        "job": ["extract"],
        "result": ["Extraction", "ExtractionRun"],
        "settings": ["Settings"],
    },
)

__all__ = ["Extraction", "ExtractionRun", "Settings", "extract"]
