"""One parameter of a command stands for many options, each declared once."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from annotated_doc import Doc
from typer.testing import CliRunner

from personavec.cli.expand import expanded, fields_of, interventions
from personavec.errors import UserError
from personavec.operations import OPERATIONS


@dataclass(frozen=True)
class Settings:
    rank: Annotated[int, Doc("Rank of the adapter.")] = 32
    rate: Annotated[float, Doc("Highest rate.")] = 1e-5
    rslora: Annotated[bool, Doc("Scale by the root.")] = True
    seed: int = 0


def run(command: Any, *arguments: str) -> str:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(expanded(command))
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def train(
    data: str, *, settings: Annotated[dict[str, Any], fields_of(Settings, without={"seed"})], seed: int = 7
) -> None:
    print(data, sorted(settings.items()), seed)


def test_fields_become_options_with_their_help_and_default() -> None:
    told = run(train, "--help")
    assert "Rank of the adapter." in told and "[default: 32]" in told and "--no-rslora" in told
    assert "settings" not in told
    assert run(train, "x") == "x [('rank', 32), ('rate', 1e-05), ('rslora', True)] 7\n"
    given = run(train, "x", "--rank", "4", "--no-rslora", "--seed", "1")
    assert given == "x [('rank', 4), ('rate', 1e-05), ('rslora', False)] 1\n"


def test_fields_that_suit_the_model_are_left_out_unless_given() -> None:
    everything = fields_of(Settings, suited=dict.fromkeys(("rank", "rate", "rslora", "seed"), ""))

    def suited(*, settings: Any) -> None:
        print(sorted(settings.items()))

    suited.__annotations__["settings"] = Annotated[dict[str, Any], everything]
    assert run(suited) == "[]\n"
    assert run(suited, "--rank", "4", "--no-rslora") == "[('rank', 4), ('rslora', False)]\n"


@dataclass(frozen=True)
class Choices:
    layer: Annotated[Literal["auto"] | int, Doc("auto, or a number.")] = "auto"
    turns: Annotated[Literal["all", "last"], Doc("all or last.")] = "all"
    everything: Annotated[bool, Doc("Take all.")] = False
    judge: Annotated[str | None, Doc("Who judges.")] = None


def test_choices_are_texts_that_the_settings_check_and_numbers_are_numbers() -> None:
    def choose(*, settings: Annotated[dict[str, Any], fields_of(Choices)]) -> None:
        print(settings)

    told = run(choose, "--help")
    assert "--layer <str>" in told and "--turns <str>" in told and "--no-everything" not in told
    assert run(choose) == "{'layer': 'auto', 'turns': 'all', 'everything': False, 'judge': None}\n"
    given = run(choose, "--layer", "14", "--turns", "both", "--everything", "--judge", "caf\udcc3\udca9")
    assert given == "{'layer': 14, 'turns': 'both', 'everything': True, 'judge': 'café'}\n"
    with pytest.raises(UserError, match="--layer 'best' is not understood"):
        run(choose, "--layer", "best")


def test_a_default_that_depends_on_more_is_told_in_words() -> None:
    def choose(
        *, settings: Annotated[dict[str, Any], fields_of(Settings, suited={"rank": "Default: it depends."})]
    ) -> None:
        print(settings)

    assert "Rank of the adapter. Default: it depends.\n" in run(choose, "--help")


def test_every_operation_is_an_option() -> None:
    def answer(*, asked: Annotated[dict[str, list[str]], interventions()]) -> None:
        print(asked)

    told = run(answer, "--help")
    assert all(f"--{one.option} {one.metavar}" in told for one in OPERATIONS.values())
    assert (
        run(answer, "-s", "a=1", "--floor", "b=-1", "--steer", "c=2") == "{'add': ['a=1', 'c=2'], 'floor': ['b=-1']}\n"
    )
