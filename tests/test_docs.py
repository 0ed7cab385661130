"""The pages: links lead somewhere, commands and code are of this version, and made pages are what is made now."""

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import personavec
from personavec.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "llms.txt", *DOCS.rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")],
    key=lambda page: page.relative_to(ROOT),
)
WRITTEN = [page for page in PAGES if page.name not in ("CHANGELOG.md", "cli.md", "run-files.md")]
FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?:(?: {4}[^\n]*)?\n)+)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
COMMAND: Any = get_command(app)
PLACEHOLDER = re.compile(r"\.\.\.|[A-Z]{4,}")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", INDENTED.sub("\n", FENCED.sub("", text)))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and the site make them."""
    found = re.findall(r"^#+ +(.+?) *$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        for title in found
    }


def dead(page: Path) -> Iterator[str]:
    for target in (next(filter(None, found)) for found in LINK.findall(prose(page.read_text(encoding="utf-8")))):
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if re.match(r"[a-z]+:", target):
            continue
        if not file.exists() or ROOT not in file.parents or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not list(dead(page))


def test_dead_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text(
        "# One *two*, three\n[x](b.md) [x](#one-two-three) [x](#four) `[x](c.md)`\n\n    [x](d.md)\n\n![x](e.svg)\n"
    )
    assert list(dead(page)) == ["b.md", "#four", "e.svg"]


def commands(text: str) -> Iterator[list[str]]:
    """What is typed behind `personavec` in a page's blocks and cells, but for what stands for something else there."""
    blocks = [found[2] for found in FENCED.findall(text) if found[1] in ("", "bash", "sh", "console")]
    blocks += INDENTED.findall(FENCED.sub("", text))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    cells = re.findall(r"`(personavec [^`]+)`", FENCED.sub("", text))
    for line in [*lines, *cells]:
        if found := re.search(r"(?:^|[ /])personavec ((?:-|[a-z]).*)", line):
            yield shlex.split(found[1], comments=True)


def known(words: list[str]) -> bool:
    """Whether a command's words lead to a command, and its options are options of that."""
    command = COMMAND
    rest = list(words)
    while rest and (below := getattr(command, "commands", None)):
        if rest[0].startswith("-"):
            break
        if rest[0] not in below:
            return bool(PLACEHOLDER.search(rest[0]))
        command = below[rest.pop(0)]
    spelled = {"--help"} | {
        flag for p in command.params for flag in [*p.opts, *p.secondary_opts] if flag.startswith("-")
    }
    return all(word.partition("=")[0] in spelled for word in rest if re.match(r"--?[a-z]", word))


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_commands_are_of_this_version(page: Path) -> None:
    assert [shlex.join(words) for words in commands(page.read_text(encoding="utf-8")) if not known(words)] == []


def test_commands_of_another_version_are_found() -> None:
    block, cells = "    personavec extract a --out b\n    personavec fly\n", "`personavec traits show evil --nothing`"
    text = f"x\n\n{block}\n{cells} `personavec --version`\n"
    assert [known(words) for words in commands(text)] == [True, False, False, True]


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_code_is_python_and_names_what_there_is(page: Path) -> None:
    for _, language, code in FENCED.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            assert not foreign_names(code)


def test_the_notebook_is_python_and_was_run() -> None:
    cells = json.loads((DOCS / "notebooks" / "ten-minutes.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not foreign_names("\n".join("".join(cell["source"]) for cell in code))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]


def foreign_names(code: str) -> set[str]:
    """What is taken from `pv` and is not there."""
    nodes = ast.walk(ast.parse(code))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_pv(node.value)} - set(
        personavec.__all__
    )


def _is_pv(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "pv"


def test_the_page_of_commands_is_what_the_sources_make_of_it() -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", DOCS / "cli_reference.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == maker.page(), "run: python docs/cli_reference.py"


def test_every_public_name_is_in_the_reference() -> None:
    listed = re.findall(r"^::: personavec\.(\w+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(personavec.__all__)


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ *- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) - {"benchmarks/README.md", "CHANGELOG.md"} == pages
