"""What is needed to repeat a run, as tables for its page."""

from typing import Any

from personavec.report import words

_PROVENANCE = ("model", "arguments", "versions", "machine", "timings")


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
