"""One self-contained HTML page per run: it opens offline, on a phone, on paper, in light and dark.

Every writer takes the content of run.json. An *estimate* is {"mean", "low", "high", "n"} with a 95 % interval. Keys not
named here are ignored; a part whose key is missing or empty is replaced by a sentence.
"""

from pathlib import Path
from typing import Any

from personavec.report import words
from personavec.report.render import write_page

__all__ = ["write_evaluate_report", "write_extract_report", "write_monitor_report"]

ANSWERS_SHOWN = 100
TURNS_SHOWN = 30  # of a conversation, as text
_PROVENANCE = ("model", "arguments", "versions", "machine", "timings")


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
    from personavec.report import plots  # draws with matplotlib, which takes long to import

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
    write_page(path, "extract.html", run=run, plots=figures, provenance=provenance_tables(run))


def write_evaluate_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page of an evaluation.

    Args:
        run: {"command": "evaluate", "trait": name, "model": {"id", ...}, "judge": name, "steer": [sentence],
            "score": estimate, "coherence": estimate,
            "answers": [{"question", "text", "score", "coherence"}], and the provenance as in an extraction}.
        path: Of the page.
    """
    from personavec.report import plots

    answers = run.get("answers") or []
    write_page(
        path,
        "evaluate.html",
        run=run,
        plots={"answers": plots.answers(run)},
        answers=answers[:ANSWERS_SHOWN],
        total=len(answers),
        questions=len({answer["question"] for answer in answers}),
        provenance=provenance_tables(run),
    )


def write_monitor_report(run: dict[str, Any], path: Path | str) -> None:
    """Write the page of a monitoring run.

    Args:
        run: {"command": "monitor", "model": {"id", ...}, "read", "rejected": counts of records,
            "sources": files, "vectors": [{"name", "layer", "neutral_mean", "neutral_deviation"}],
            "conversations": [{"id", "line", "source", "turns": [{"index" (from 0), "role": "assistant", "text" (its
            beginning), "before", "during": {name: deviations from neutral, or None}, "before_raw", "during_raw": {name:
            projection}}]}], and the provenance as in an extraction}.
        path: Of the page.
    """
    from personavec.report import drift

    scale = drift.Scale.of(run)
    conversations = [c for c in run.get("conversations") or [] if c["turns"]]
    chosen = drift.largest(scale, conversations)
    write_page(
        path,
        "monitor.html",
        run=run,
        scale=scale,
        several=len(run.get("sources") or []) > 1,
        total=len(conversations),
        turns_shown=TURNS_SHOWN,
        overview=drift.overview(scale, conversations),
        farthest=drift.farthest(scale, conversations),
        plots={"spread": drift.spread(scale, conversations), "average": drift.average(scale, conversations)},
        conversations=[(c, drift.conversation(scale, c, number)) for number, c in enumerate(chosen, 1)],
        provenance=provenance_tables(run),
    )


def provenance_tables(run: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled tables of what is needed to repeat the run."""
    general = [("command", f"personavec {run['command']} {run.get('personavec', '')}".strip())]
    general += [("written", str(run["written"]).replace("T", " "))] if run.get("written") else []
    general += [("time taken", words.duration(run["seconds"]))] if run.get("seconds") else []
    tables = [("run", general)]
    for key in _PROVENANCE:
        given = run.get(key)
        if key == "timings" and given:
            tables.append(("time by stage", [(stage, words.duration(s)) for stage, s in given.items()]))
        elif given:
            tables.append((key, words.facts(given if isinstance(given, dict) else {"id": given})))
    return tables
