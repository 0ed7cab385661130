"""`personavec hub`: hand a vector on over the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options as o

app = typer.Typer(help="Push vectors to the Hugging Face hub, and pull them.", no_args_is_help=True)
Repository = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", callback=o.plain_text, help="Repository on the hub.", show_default=False)
]


@app.command("push")
def push(
    file: Annotated[Path, typer.Argument(help="Vector file.", show_default=False)],
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="Visible to its owners alone, if it is new.")] = False,
    json: o.Json = False,
) -> None:
    """Upload a vector with a card that says what was measured of it. Needs a token: HF_TOKEN or `hf auth login`."""
    from personavec.hub import push as upload

    o.quiet()
    pushed = upload(o.vector_file(file), repository, private=private)
    if json:
        o.print_json({"url": pushed.url, "sha256": pushed.sha256, "notes": list(pushed.notes)})
        return
    o.print_sentences(*pushed.notes)
    print(f"Pushed: {pushed.url}\nWhoever pulls it can check that it is this file:")
    print(f"  personavec hub pull {repository} --sha256 {pushed.sha256}")


@app.command("pull")
def pull(
    repository: Repository,
    out: Annotated[
        Path | None, typer.Option(help="Vector file to write. Default: NAME.safetensors.", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default=False)] = None,
    sha256: Annotated[
        str | None, typer.Option(help="What the file must hash to. Default: what the repository says.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Download a vector; it is written only if it is whole and a vector."""
    from personavec.hub import pull as download

    o.quiet()
    out = out or Path(f"{repository.rpartition('/')[2]}.safetensors")
    vector, digest = download(repository, out, revision=revision, sha256=sha256)
    if json:
        o.print_json({"vector": str(out), "trait": vector.trait, "model": vector.model, "sha256": digest})
        return
    print(f"Wrote {out}: {vector.trait}, layer {vector.layer} of {vector.model.get('id')}. SHA-256 {digest}")
    print(f"What was measured of it: personavec vectors show {out}")
