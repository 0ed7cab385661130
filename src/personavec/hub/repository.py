"""Repositories on the Hugging Face hub that hold one vector: pushed with a card and a checksum, pulled with checks."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from personavec.errors import UserError
from personavec.files import check_utf8, write_atomic
from personavec.hub.card import PICTURE, VECTOR, card, picture
from personavec.hub.paths import without_paths
from personavec.vector import PersonaVector

SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it
_SUM = re.compile(rf"^([0-9a-f]{{64}}) [ *]{re.escape(VECTOR)}$", re.MULTILINE)


@dataclass(frozen=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: Of the commit.
        sha256: Of the vector's file as it was pushed.
        notes: What was left out, so that the file pushed is not byte for byte the one given.
    """

    url: str
    sha256: str
    notes: tuple[str, ...] = ()


def push(file: Path | str, repository: str, *, private: bool = False) -> Pushed:
    """Upload a vector with a card that says what was measured of it, in one commit; the repository is made if need be.

    Args:
        file: Of a vector.
        repository: "owner/name".
        private: Make it visible to its owners alone, if it is made.

    Raises:
        UserError: No vector, or the hub refuses: mostly for want of a token (HF_TOKEN, or `hf auth login`).
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    vector, content, notes = _public(file)
    digest = hashlib.sha256(content).hexdigest()
    files = {VECTOR: content, SUMS: f"{digest}  {VECTOR}\n".encode()}
    if (drawn := picture(vector)) is not None:
        files[PICTURE] = drawn.encode()
    files["README.md"] = card(vector, repository, digest).encode("utf-8", "replace")
    api = HfApi()
    with _on_the_hub(repository, "Set HF_TOKEN, or run `hf auth login`, with a token that may write there."):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=f"Persona vector of {vector.trait}",
        )
    return Pushed(str(commit.commit_url), digest, notes)


def _public(file: Path | str) -> tuple[PersonaVector, bytes, tuple[str, ...]]:
    """The vector and its file without paths of this machine, and what was changed for that."""
    vector = PersonaVector.load(file)
    public = without_paths(vector)
    if public is vector:
        return vector, Path(file).read_bytes(), ()
    with TemporaryDirectory() as folder:
        public.save(Path(folder) / VECTOR)
        content = (Path(folder) / VECTOR).read_bytes()
    name = public.model.get("id")
    return public, content, (f"Paths of this machine were left out: card and file call the model {name}.",)


def pull(
    repository: str, out: Path | str, *, revision: str | None = None, sha256: str | None = None
) -> tuple[PersonaVector, str]:
    """Download a vector, and write it only if it is whole and a vector.

    Args:
        repository: "owner/name".
        out: File to write.
        revision: Branch, tag or commit.
        sha256: What the file must hash to. None: what the repository says, which finds damage but no ill will; whoever
            pushed the vector knows the true one.

    Returns:
        The vector, and the SHA-256 of its file.

    Raises:
        UserError: The hub does not have it, it is not what it should be, or no vector; or `out` is another file.
    """
    from huggingface_hub import HfApi

    check_utf8(out)
    api = HfApi()
    with TemporaryDirectory() as folder:
        with _on_the_hub(repository, "Check the name; a private one needs HF_TOKEN, or `hf auth login`."):
            path = Path(api.hf_hub_download(repository, VECTOR, revision=revision, local_dir=folder))
            if sha256 is None:
                sums = Path(api.hf_hub_download(repository, SUMS, revision=revision, local_dir=folder))
                found = _SUM.search(sums.read_text(encoding="utf-8", errors="replace"))
                sha256 = found[1] if found is not None else "none"
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != sha256.lower():
            raise UserError(
                f"{VECTOR} of {repository} has the SHA-256 {digest}, and should have {sha256}.",
                "Nothing was written. Try again; if this comes back, ask whoever pushed it.",
            )
        vector = PersonaVector.load(path)
    if Path(out).exists() and Path(out).read_bytes() != content:
        raise UserError(f"There is another file at {out} already.", "Choose another with `out`, or delete it.")
    write_atomic(out, content)
    return vector, digest


@contextmanager
def _on_the_hub(repository: str, advice: str) -> Iterator[None]:
    """What the hub refuses becomes the user's to mend."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{repository!r} is no name of a repository ({_line(error)}).", "Write owner/name.") from error
    except Exception as error:  # the network, its library, the hub, its permissions
        raise UserError(f"The hub does not do this with {repository}: {_line(error)}", advice) from error


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
