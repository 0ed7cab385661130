"""The page of an extraction."""

from pathlib import Path
from typing import Any

from personavec.extraction import plots
from personavec.report.provenance import provenance_tables
from personavec.report.render import write_page


def write_extract_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page of an extraction.

    Args:
        run: {"command": "extract", "trait": {"name", "description", "writer"}, "model": {"id", ...}, "layer",
            "verdict": [sentence], "warnings": [sentence],
            "dose_response": [{"coefficient", "share", "score": estimate, "coherence": estimate}],
            "coherent_range": [low, high], "recommended_coefficient", "spearman": estimate,
            "steering": {"effect": estimate, "effect_on_null_questions": float, "coefficient",
            "null": {"effects": [float]}},
            "examples": [{"question", "answers": [{"coefficient", "text", "score", "coherence"}]}],
            "layer_sweep": [{"layer", "coefficient", "score": estimate, "coherence": estimate}],
            "separation": {"auc": estimate, "by_layer": [float], "null": {"covariance": {"mean", "p95"}, "isotropic":
            ...}}, "projections": {"positive" | "negative" | "neutral": [float]},
            "judge": {"name", "auc": estimate, "threshold"},
            "scores": {"positive" | "negative": [{"score", "coherence", "kept"}]},
            "rollouts": {"generated", "extraction", "kept", "kept_pairs", "reasons": {reason: count}},
            "specificity": {"vectors", "scores": names, "cosine", "effect": rows of floats or None}, and the provenance:
            "personavec", "written", "seconds", "arguments", "versions", "machine", "timings"}.
        path: Of the page.
    """
    figures = {
        "dose": plots.dose_response(run),
        "chance": plots.chance_effects(run),
        "sweep": plots.layer_sweep(run),
        "scores": plots.scores(run),
        "projections": plots.projections(run),
        "separation": plots.separation(run),
        "cosines": plots.cosines(run),
        "effects": plots.cross_effects(run),
    }
    write_page(path, "extraction/page.html", run=run, plots=figures, provenance=provenance_tables(run))
