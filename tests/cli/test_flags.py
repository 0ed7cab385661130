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
from personavec.errors import UserError
from personavec.finetune import Training

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
    """What may stand in the message of a UserError: in the call, in what is given a name that the call uses, and in
    what a function gives back that it calls."""
    nodes = list(ast.walk(tree))
    calls = [
        node
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError"
    ]
    inside = [node for call in calls for node in ast.walk(call)]
    used = {node.id for node in inside if isinstance(node, ast.Name)}
    used |= {node.attr for node in inside if isinstance(node, ast.Attribute)}
    sources: list[ast.AST] = list(calls)
    for node in nodes:
        if isinstance(node, ast.Assign) and used & {one.id for one in node.targets if isinstance(one, ast.Name)}:
            sources.append(node)
        if isinstance(node, ast.FunctionDef) and node.name in used:
            sources += [part for part in ast.walk(node) if isinstance(part, ast.Return)]
    for source in sources:
        for part in ast.walk(source):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def test_flags_are_found_in_messages() -> None:
    source = """
HOW = "Give it with --model."
def refuse(x):
    advice = f"Raise --limit {x}."
    raise UserError(f"{'--adapter' if x else 1} is wrong", advice if x else HOW + thing.spelled())
def spelled(self):
    return "--judge"
def other():
    return "--quiet"
"""
    found = [text for text in texts(ast.parse(source)) if FLAG.search(text)]
    assert sorted(found) == ["--adapter", "--judge", "Give it with --model.", "Raise --limit "]
    assert not FLAG.search(COMMAND.sub("", "Join them with `llama-gguf-split --merge`."))


SOURCES = sorted(path for path in ROOT.rglob("*.py") if ROOT / "cli" not in path.parents)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_outside_the_command_line_names_its_flags(path: Path) -> None:
    found = [text for text in texts(ast.parse(path.read_text(encoding="utf-8"))) if FLAG.search(COMMAND.sub("", text))]
    assert not found
