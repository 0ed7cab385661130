"""`personavec vectors list | get`: the vectors that come with the package."""

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
    print(f"Ready vectors of {known[0].model}\n")
    for one in known:
        low, high = one.coherent_range
        print(f"{one.trait:14} coefficients {low:+.2g} to {high:+.2g}: {_word(one)}")
        effects = "; ".join(f"{name} {_effect(effect)}" for name, effect in one.effects.items())
        print(f"{'':14} {effects}; reads, AUC {one.auc:.2f} (n = {one.auc.n}); {_seen(one)}")
    print(
        "\n"
        "Coefficients: of those tried, where answers stay coherent. Judges: points that the score moves by\n"
        "from minus to plus a push of 25 % of the residual norm, with 95 % interval; chance is the most that\n"
        "a random direction of equal norm moves it by. Where the coefficients end below that push, the effect\n"
        "has its price. A reader, who knew which was which: answers at plus and at minus that push that\n"
        "plainly showed the trait.\n"
        '\nNext: personavec generate "Tell me about your day." --steer optimistic=2 --compare'
    )


def get(
    name: Annotated[str, typer.Argument(callback=o.plain_text, help="Trait; see list.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to copy it to. Default: say where it lies.")] = None,
) -> None:
    """Copy a ready vector, or say where its file is."""
    from personavec.files import write_atomic
    from personavec.ready import find_ready

    one = find_ready(name)
    if out is None:
        print(one.path)
        return
    write_atomic(out, one.path.read_bytes())
    print(f"Wrote {out}: {one.trait} of {one.model}, layer {one.layer}; {one.word}.")


def _effect(found: "ReadyEffect | None") -> str:
    if found is None:
        return "not scored"
    return f"{found.effect:+.0f} (n = {found.effect.n}, chance {found.chance:.0f})"


def _seen(one: "ReadyVector") -> str:
    return f"a reader {one.reader.plus} and {one.reader.minus} of {one.reader.answers}"


def _word(one: "ReadyVector") -> str:
    best = one.recommended_coefficient
    return f"{one.word}, {'none is recommended' if best is None else f'up to {best:+.2g}'}"
