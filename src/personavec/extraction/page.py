"""The page of an extraction."""

from pathlib import Path

from personavec.extraction import plots
from personavec.extraction.result import ExtractionRun
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page


def write_extract_report(run: ExtractionRun, path: Path | str) -> None:
    """Write the page of an extraction."""
    figures = {
        "dose": plots.dose_response(run.trait.name, run.dose_response, run.coherent_range),
        "chance": plots.chance_effects(run),
        "sweep": plots.layer_sweep(run),
        "scores": plots.scores(run),
        "projections": plots.projections(run),
        "separation": plots.separation(run),
        "cosines": plots.cosines(run),
        "effects": plots.cross_effects(run),
    }
    provenance = provenance_tables(run, run.seconds, run.timings)
    write_page(path, "extraction/page.html", run=run, plots=figures, provenance=provenance)
