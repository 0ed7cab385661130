"""What is needed to repeat a run, as tables for its page."""

from collections.abc import Mapping

from personavec.report import words
from personavec.results import Run


def provenance_tables(
    run: Run, seconds: float | None = None, timings: Mapping[str, float] | None = None
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled tables of what is needed to repeat the run.

    Args:
        seconds: The run took; None: not known.
        timings: Seconds by stage.
    """
    general = [("command", f"personavec {run.command} {run.personavec}"), ("written", run.written.replace("T", " "))]
    general += [] if seconds is None else [("time taken", words.duration(seconds))]
    tables = [("run", general), ("model", words.facts(run.model.as_json()))]
    tables += [("arguments", words.facts(run.arguments))] if run.arguments else []
    tables += [("versions", words.facts(run.versions)), ("machine", words.facts(run.machine.as_json()))]
    if timings:
        tables.append(("time by stage", [(stage, words.duration(s)) for stage, s in timings.items()]))
    return tables
