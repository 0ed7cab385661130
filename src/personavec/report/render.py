"""Templates to one file: everything inline, everything escaped, nothing executed."""

import re
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup, escape

from personavec.files import write_atomic
from personavec.report import words


def _sentence(text: str) -> Markup:
    """A sentence with real minus signs, and with what stands between backquotes set off as what is typed."""
    return Markup(_TYPED.sub(r"<code>\1</code>", str(escape(words.minus(text)))))  # escaped before it gets its marks


_TYPED = re.compile("`([^`]+)`")
_templates = Environment(
    loader=ChoiceLoader([PackageLoader("personavec.report"), PackageLoader("personavec", "")]),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "number": words.number,
    "signed": words.signed,
    "interval": words.interval,
    "sentence": _sentence,
}


def write_page(path: Path | str, template: str, **content: Any) -> None:
    """Render a template and write it, whole or not at all.

    Args:
        template: `JOB/page.html`, the page of a job; it extends those of report/templates.

    Model output is hostile text: it is escaped, characters that UTF-8 cannot carry are replaced, and the page's
    content security policy allows no script and no request.
    """
    html = _templates.get_template(template).render(**content)
    write_atomic(path, html.encode("utf-8", "replace"))
