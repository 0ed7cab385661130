"""Builds the site: pages from docs/ and benchmarks/ into build/docs, and from there, by Zensical, into build/site.

python docs/site.py    (needs the extra docs)

Links are checked twice: those between files by the tests (tests/test_docs.py), and all that a page came to by Zensical,
whose warnings end the build.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGE, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
ASSETS = (".css", ".ipynb", ".svg", ".png", ".txt")
CALLS_OUT = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""")


def stage() -> None:
    """Copy what the site is made of; docs/ becomes its root, so that links out of it lose a step."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for file in sorted((ROOT / "docs").rglob("*")):
        if file.suffix == ".md":
            put(file, file.relative_to(ROOT / "docs"), ("](../", "]("))
        elif file.suffix in ASSETS:
            (STAGE / file.relative_to(ROOT / "docs")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, STAGE / file.relative_to(ROOT / "docs"))
    for file in (ROOT / "benchmarks").rglob("*.md"):
        put(file, file.relative_to(ROOT), ("](../docs/", "](../"))
    put(ROOT / "CHANGELOG.md", Path("CHANGELOG.md"), ("](docs/", "]("))
    put(ROOT / "llms.txt", Path("llms.txt"), ("](docs/", "]("), (".md)", ".html)"))


def put(file: Path, at: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in changes:
        text = text.replace(old, new)
    (STAGE / at).parent.mkdir(parents=True, exist_ok=True)
    (STAGE / at).write_text(text, encoding="utf-8")


def calls_out() -> list[str]:
    """Pages that would load something from elsewhere."""
    return [str(page) for page in SITE.rglob("*.html") if CALLS_OUT.search(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    stage()
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=False)
    if built.returncode or (found := calls_out()):
        sys.exit(built.returncode or f"These pages load something from elsewhere: {', '.join(found)}")
    print(f"Open {SITE / 'index.html'}")
