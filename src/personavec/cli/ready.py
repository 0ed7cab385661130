"""`personavec vectors list | get`: the vectors that come with the package."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personavec.cli import options as o

if TYPE_CHECKING:
    from personavec.ready import ReadyEffect, ReadyVector


def list_vectors(json: o.Json = False) -> None:
    """The ready vectors of the default model, and what each was measured to do."""
    from personavec.ready import ready_vectors

    known = list(ready_vectors().values())
    if json:
        o.print_json([{**one.as_json(), "file": str(one.path), "word": one.word} for one in known])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Ready vectors of {known[0].model}", title_justify="left")
    judges = list(known[0].effects)
    headings = ("trait", "reads (AUC)", *(f"steers, by {name}" for name in judges), "a reader sees", "coherent", "")
    for heading in headings:
        table.add_column(heading)
    for one in known:
        low, high = one.coherent_range
        effects = (_effect(one.effects[name]) for name in judges)
        table.add_row(
            one.trait, f"{one.auc:.2f}\nn = {one.auc.n}", *effects, _seen(one), f"{low:+.2g} to {high:+.2g}", _word(one)
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Brackets are 95 % intervals over n questions. Steers: points that a judge's score moves by, from minus to "
        "plus a push of 25 % of the residual norm; chance is the most that a random direction of equal norm moves it "
        "by. A reader: answers at plus and at minus that push in which one person, who knew which was which, plainly "
        "saw the trait. Coherent: the coefficients, of those tried, at which answers stay coherent; where they end "
        "below that push, the effect has its price.",
        soft_wrap=not console.is_terminal,
    )
    console.print(
        '\nNext: personavec generate "Tell me about your day." --steer optimistic=2 --compare', soft_wrap=True
    )


def get(
    name: Annotated[str, typer.Argument(callback=o.plain_text, help="Trait; see list.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to copy it to. Default: say where it lies.")] = None,
) -> None:
    """Copy a ready vector, or say where its file is."""
    from personavec.ready import find_ready

    one = find_ready(name)
    if out is None:
        print(one.path)
        return
    shutil.copyfile(one.path, out)
    print(f"Wrote {out}: {one.trait} of {one.model}, layer {one.layer}; {one.word}.")


def _effect(found: "ReadyEffect | None") -> str:
    if found is None:
        return "not scored"
    return f"{found.effect:+.0f}\nn = {found.effect.n}, chance {found.chance:.0f}"


def _seen(one: "ReadyVector") -> str:
    return f"{one.reader.plus} and {one.reader.minus}\nof {one.reader.answers}"


def _word(one: "ReadyVector") -> str:
    best = one.recommended_coefficient
    return f"{one.word}\n{'none recommended' if best is None else f'up to {best:+.2g}'}"
