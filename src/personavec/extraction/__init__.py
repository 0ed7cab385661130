"""From a trait to a persona vector, and what the vector does to the model."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.extraction.given.job import extract_from_texts
    from personavec.extraction.given.result import TextsExtraction, TextsRun
    from personavec.extraction.given.settings import TextSettings
    from personavec.extraction.given.teacher import taught_texts
    from personavec.extraction.job import extract
    from personavec.extraction.result import Extraction, ExtractionRun
    from personavec.extraction.settings import ExtractionSettings

__getattr__, __dir__ = offering(
    __name__,
    {
        "given.job": ["extract_from_texts"],
        "given.result": ["TextsExtraction", "TextsRun"],
        "given.settings": ["TextSettings"],
        "given.teacher": ["taught_texts"],
        "job": ["extract"],
        "result": ["Extraction", "ExtractionRun"],
        "settings": ["ExtractionSettings"],
    },
)

__all__ = [
    "Extraction",
    "ExtractionRun",
    "ExtractionSettings",
    "TextSettings",
    "TextsExtraction",
    "TextsRun",
    "extract",
    "extract_from_texts",
    "taught_texts",
]
