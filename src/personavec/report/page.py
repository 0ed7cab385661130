"""The page around the plots: one self-contained HTML file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from personavec.files import write_atomic


@dataclass(frozen=True)
class Figure:
    """A plot with what it shows and how to read it."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out."""

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    examples: Sequence[dict[str, Any]] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default=())
    raw: str = ""


def write_page(
    path: Path | str, title: str, lead: str, sections: Sequence[Section], *, verdict: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> None:  # fmt: skip
    """Render and write the page. Every text is escaped: answers of models are not to be trusted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("personavec.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html").render(
        title=title, lead=lead, sections=sections, verdict=verdict, warnings=warnings
    )
    write_atomic(path, page)


def provenance(run: dict[str, Any]) -> Section:
    """What it takes to repeat the run."""
    keys = ("personavec", "command", "written", "seconds", "timings", "model", "arguments", "versions", "machine")
    return Section(
        "How this was made", raw=json.dumps({k: run[k] for k in keys if k in run}, indent=1, ensure_ascii=False)
    )


def interval(e: dict[str, Any], digits: int = 1) -> str:
    """An estimate with its 95 % interval."""
    return f"{e['mean']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"


def number(value: float | None) -> str:
    """A score, or a dash where there is none."""
    return "–" if value is None else f"{value:.0f}"
