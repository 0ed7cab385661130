"""A model's files for a server that loads the weights itself: what they are, without loading them here.

A GGUF file is unpacked once, to `<cache>/models/<stem>-<hash of the file>-<dtype>/`.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from personavec.cache import cache_folder, cannot_cache
from personavec.errors import UserError
from personavec.model.chat import context_length, stop_ids
from personavec.model.gguf import unpack
from personavec.model.identity import hash_samples, sampled_places, weights_hash
from personavec.model.load import DTYPES, check_kind, choose_dtype, find_source
from personavec.model.template import Template
from personavec.model.vocabulary import check_vocabulary
from personavec.model.weights import load_weights

_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")


class Checkpoint:
    """A causal language model in a folder of safetensors, with its tokenizer.

    Args:
        folder: Config, tokenizer and weights as transformers saves them.
        id: What the user calls it.
        dtype: What the server computes in; None: the checkpoint's own.
        device: Where the server runs it.
        thinking: See `Template`.

    Attributes:
        template, n_layers, hidden_size, context_length, stop_ids, dtype, device, adapter_hash: As a ChatModel has them.

    Raises:
        UserError: Files are missing or damaged, or the tokenizer has tokens that the model has none for.
    """

    def __init__(
        self,
        folder: Path,
        id: str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        thinking: bool = False,
    ) -> None:
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        self.folder, self.id = folder, id
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise UserError(
                f"{folder} holds no safetensors.", "Save the model again with save_pretrained of transformers."
            )
        try:
            self.config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            saved = (folder / "generation_config.json").is_file()
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True) if saved else None
        except Exception as error:  # what is damaged makes these libraries raise whatever they stumble on
            raise UserError(
                f"Cannot read the model in {folder}: {error}", "Copy or download the folder again."
            ) from error
        text = self.config.get_text_config()
        self.template = Template(self.tokenizer, thinking=thinking)
        if note := check_vocabulary(id, self.tokenizer, self.template, text.vocab_size):
            self.template.notes.append(note)
        self.n_layers: int = text.num_hidden_layers
        self.hidden_size: int = text.hidden_size
        self.context_length = context_length(text)
        self.stop_ids = stop_ids((generation, self.config, self.tokenizer), self.template)
        self.dtype = dtype or self.config.dtype or text.dtype or torch.float32
        self.device = torch.device(device)
        self.adapter_hash: str | None = None

    @cached_property
    def weights_hash(self) -> str:
        """The hash that the loaded model has, from a few numbers of the files.

        A checkpoint whose tensors are not the model's own (quantised, or laid out in another way) is loaded for it.

        Raises:
            UserError: The files are damaged, or are not those of the model, see `load_weights`.
        """
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(self.config)
        shapes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
        try:
            held = {name: file for file in self.files for name in _names(file)}
            if getattr(self.config, "quantization_config", None) is None and (
                shapes.keys() <= held.keys() <= empty.state_dict().keys()
            ):
                return hash_samples(_sampled(shapes, held))
        except (SafetensorError, ValueError) as error:
            raise UserError(f"The weights in {self.folder} are damaged: {error}", "Copy the folder again.") from error
        return weights_hash(load_weights(self.id, self.folder, dtype="auto", local_files_only=True))


def open_checkpoint(name: str | None = None, *, device: str = "cpu", dtype: str | None = None) -> Checkpoint:
    """The files of a model by what the user calls it, see `load_model`.

    Raises:
        UserError: There are none, they are damaged, or the cache cannot be written.
    """
    kind = choose_dtype(dtype, device)
    chosen: torch.dtype | None = None if kind == "auto" else kind
    found = find_source(name)
    folder = Path(found.place)
    if found.kind == "gguf":
        folder = _unpacked(folder, next((name for name, kind in DTYPES.items() if kind == chosen), "bfloat16"))
    elif found.kind == "hub":
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(found.place, allow_patterns=list(_HUB_FILES)))
        except Exception as error:  # of the network, of the hub, of the name
            raise UserError(
                f"Cannot fetch the model {found.label!r}: {str(error).strip().partition(chr(10))[0]}",
                "Give a hub id, a local folder, a .gguf file, or leave `model` out for the bundled default.",
            ) from error
    check_kind(found.label, str(folder))
    return Checkpoint(folder, found.label, dtype=chosen, device=device)


def _unpacked(gguf: Path, dtype: str) -> Path:
    with gguf.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    folder = cache_folder() / "models" / f"{gguf.stem}-{digest}-{dtype}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
                    unpack(gguf, Path(work) / "whole", dtype)
                    shutil.move(Path(work) / "whole", folder)
    except SafetensorError as error:
        raise cannot_cache(folder.parent, OSError(str(error))) from error
    except OSError as error:
        if error.errno is None:  # of the library that reads the file, not of the disk
            raise _unreadable(gguf, error) from error
        raise cannot_cache(folder.parent, error) from error
    except UserError:
        raise
    except Exception as error:  # what is damaged makes the library raise whatever it stumbles on
        raise _unreadable(gguf, error) from error
    return folder


def _unreadable(gguf: Path, error: Exception) -> UserError:
    return UserError(f"Cannot load the model {str(gguf)!r}: {error}", "Download the file again, or give another model.")


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as handle:
        return list(handle.keys())


def _sampled(
    shapes: dict[str, tuple[int, ...]], held: dict[str, Path]
) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    """The numbers that the hash is made of, read row by row."""
    for name, shape in sorted(shapes.items()):
        with safe_open(held[name], framework="pt") as handle:
            part: Any = handle.get_slice(name)
            if tuple(part.get_shape()) != shape:
                raise ValueError(f"{name} has the shape {part.get_shape()}, not {list(shape)}.")
            size = torch.Size(shape).numel()
            if len(shape) < 2:
                yield name, shape, handle.get_tensor(name).flatten()[sampled_places(size)]
                continue
            width = size // shape[0]
            found = [
                part[row : row + 1].flatten()[at] for row, at in (divmod(int(i), width) for i in sampled_places(size))
            ]
            yield name, shape, torch.stack(found)
