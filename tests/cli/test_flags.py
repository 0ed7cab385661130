"""Messages name fields, as Python has them; on the command line they name its flags."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import personavec
import personavec.cli.app  # whose options are known then
from personavec.cli import main
from personavec.cli.flags import with_flags
from personavec.cli.options import print_sentences
from personavec.errors import UserError
from personavec.finetune import Training
from personavec.report import render

ROOT = Path(personavec.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
COMMAND = re.compile(r"`[^`\s]+ [^`]*`")  # of another program, with its own flags


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("`learning_rate` 0 is not usable.", "--learning-rate 0 is not usable."),
        ("Choose another with `out`.", "Choose another with --out."),
        ("Give `method` none, or `judge` api:MODEL.", "Give --method none, or --judge api:MODEL."),
        ("With `measure` False nothing is scored.", "With --no-measure nothing is scored."),
        ("Say so with `other_weights` True; else", "Say so with --other-weights; else"),
        ("`rslora` is for adapters.", "--rslora is for adapters."),
        ("`vector`, `steer` and `judge_all`", "--vector, --steer and --judge-all"),
        ("`coefficients` is no option, nor is `with preventing(...)`.",) * 2,
        ("Start one with `ray start --head`.",) * 2,
    ],
)
def test_fields_that_are_options_are_spelled_as_flags(said: str, read: str) -> None:
    assert with_flags(said) == read


def test_one_mistake_is_told_in_the_words_of_python_and_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=r"^`learning_rate` 0\.0 is not usable\. Choose a number above 0, such as 1e-5\.$"
    ):
        Training(learning_rate=0.0)
    monkeypatch.setattr("sys.argv", ["personavec", "finetune", "chats", "--out", "run", "--learning-rate", "0"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error == "Error: --learning-rate 0.0 is not usable.\nChoose a number above 0, such as 1e-5.\n"


def test_what_is_logged_names_flags_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    monkeypatch.setattr("sys.argv", ["personavec", "traits", "list"])
    try:
        with pytest.raises(SystemExit):
            main()
        logging.getLogger("personavec").warning("All %d work with `ray` local.", 3)
    finally:
        root.handlers = before
    assert capsys.readouterr().err == "All 3 work with --ray local.\n"


def texts(tree: ast.AST) -> Iterator[str]:
    """All that a module could say: what stands in quotes, but for docstrings and other programs' arguments."""
    nodes = list(ast.walk(tree))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    silent |= {id(part) for node in nodes if isinstance(node, ast.List) for part in node.elts if _is_flag(part)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield COMMAND.sub("", node.value)


def _is_flag(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and bool(re.fullmatch(r"--[\w-]+(=\S*)?", str(node.value)))


def test_flags_are_found_in_messages() -> None:
    source = """
HOW = "Give it with --model."
def refuse(x):
    "Of `--quiet` and --loud."
    advice = f"Raise --limit {x}."
    run(["pip", "--no-deps", "--retries=2"])
    log.warning("Join them with `llama-gguf-split --merge`.")
    raise UserError(f"{'--adapter' if x else 1} is wrong", advice if x else HOW)
def verdict():
    return ["Nothing was measured (--no-measure)."]
"""
    found = [text for text in texts(ast.parse(source)) if FLAG.search(text)]
    assert sorted(found) == [
        "--adapter", "Give it with --model.", "Nothing was measured (--no-measure).", "Raise --limit ",
    ]  # fmt: skip


SOURCES = sorted(path for path in ROOT.rglob("*.py") if ROOT / "cli" not in path.parents)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_outside_the_command_line_names_its_flags(path: Path) -> None:
    assert not [text for text in texts(ast.parse(path.read_text(encoding="utf-8"))) if FLAG.search(text)]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.html")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_names_flags(path: Path) -> None:
    assert not re.search(r"(?<![\w(-])--[a-z]", path.read_text(encoding="utf-8").replace('style="--', ""))


def test_what_a_run_says_names_flags_on_the_command_line_and_fields_on_its_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "Thresholds stray. `baseline` exact <keeps> them closer to -1."
    print_sentences(said, said)
    assert capsys.readouterr().out == "- Thresholds stray. --baseline exact <keeps> them closer to -1.\n" * 2
    written = render._templates.from_string("{{ said | sentence }}").render(said=said)
    assert written == "Thresholds stray. <code>baseline</code> exact &lt;keeps&gt; them closer to −1."
