"""One parameter of a command stands for many options, each declared once."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from annotated_doc import Doc
from typer.testing import CliRunner

from personavec.cli.expand import expanded, fields_of, interventions
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


def test_every_operation_is_an_option() -> None:
    def answer(*, asked: Annotated[dict[str, list[str]], interventions()]) -> None:
        print(asked)

    told = run(answer, "--help")
    assert all(f"--{one.option} {one.metavar}" in told for one in OPERATIONS.values())
    assert (
        run(answer, "-s", "a=1", "--floor", "b=-1", "--steer", "c=2") == "{'add': ['a=1', 'c=2'], 'floor': ['b=-1']}\n"
    )
