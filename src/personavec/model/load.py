"""Load a chat model by what the user calls it: the bundled default, a hub id, a local folder or a GGUF file."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from personavec.errors import UserError
from personavec.files import check_utf8, printable
from personavec.model.chat import ChatModel

log = logging.getLogger(__name__)

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "added_tokens.json", "chat_template.jinja")
ADAPTER_ADVICE = "Give a folder with adapter_config.json made for this base model."
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        label: What results call the model.
        place: A folder, a GGUF file, or a hub id.
        kind: Which of these; "bundled" is a folder that personavec made.
    """

    label: str
    place: str
    kind: Literal["bundled", "folder", "gguf", "hub"]


def find_source(name: str | None) -> Source:
    """What a user's name of a model stands for; the bundled one is fetched if it is missing.

    Raises:
        UserError: No such file or folder, or a folder with damaged configuration.
    """
    from personavec.model.default import BUNDLED, prepare_bundled

    label = name or "default"
    check_utf8(label)
    if label in BUNDLED:
        return Source(BUNDLED[label].hub_id, str(prepare_bundled(BUNDLED[label])), "bundled")
    if label.endswith(".gguf"):
        if not Path(label).is_file():
            raise UserError(f"There is no file {label}.", "Give the path of a GGUF file.")
        return Source(label, label, "gguf")
    if _names_a_place(label):
        folder = Path(label).expanduser()
        if not (folder / "config.json").is_file():
            advice = "Give a folder, a hub id or a .gguf file."
            if (folder / "adapter_config.json").is_file():
                advice = f"It is an adapter: name the model that it was made for, and say --adapter {label}"
            raise UserError(f"{label} is not a model folder (no config.json in it).", advice)
        _check_json(label, folder, CONFIGS)  # transformers passes over some of them where they are damaged
        return Source(label, str(folder), "folder")
    return Source(label, label, "hub")


def load_model(
    name: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    thinking: bool = False,
    trust_remote_code: bool = False,
) -> ChatModel:
    """Load a model and its tokenizer.

    Args:
        name: None or "default" for the bundled model, "default-1.5b" for its bigger sister, a hub id, a folder, or a
            `.gguf` file.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread the model over all devices. None: a GPU if there is
            one.
        dtype: "bfloat16", "float16" or "float32". None: the checkpoint's on a GPU; on a CPU bfloat16 where the
            processor multiplies it natively, else float32.
        adapter: Folder or hub id of a PEFT adapter to load on top.
        thinking: Let a reasoning model think, and count its thoughts as part of the response.
        trust_remote_code: Run code that comes with the model. Off unless asked for.

    Raises:
        UserError: The model, device or dtype does not exist, or cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"dtype": choose_dtype(dtype, device), "trust_remote_code": trust_remote_code}
    tokenizer_options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    found = find_source(name)
    label, source = found.label, found.place
    if found.kind == "gguf":
        source = str(Path(source).parent)
        options["gguf_file"] = tokenizer_options["gguf_file"] = Path(found.place).name
        # Packed weights would save memory but compute in float32 through kernels that are not everywhere.
        options["quantization_config"] = GgufConfig(dequantize=True)
    elif found.kind == "bundled":
        options["local_files_only"] = tokenizer_options["local_files_only"] = True
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **tokenizer_options)
        if device == "auto":
            options["device_map"] = "auto"
        elif device != "cpu":
            options["device_map"] = device
        model = AutoModelForCausalLM.from_pretrained(source, **options)
        if not tokenizer("a")["input_ids"]:
            raise ValueError("its tokenizer knows no words; the folder may lack tokenizer.json.")
    except MemoryError:
        raise
    except Exception as error:  # what is damaged makes these libraries raise whatever they stumble on
        _explain(label, Path(source), error, trust_remote_code)
        raise UserError(
            f"Cannot load the model {label!r}: {_reason(error)}",
            "Give a hub id, a local folder, a .gguf file, or leave --model out for the bundled default.",
        ) from error
    if adapter is not None:
        model = _with_adapter(model, adapter)
        label = f"{label}+{adapter}"
    chat = ChatModel(model, tokenizer, printable(label), thinking=thinking)
    for note in chat.template.notes:
        log.warning(note)
    return chat


def _explain(label: str, folder: Path, error: Exception, trust_remote_code: bool) -> None:
    """Name the file that keeps a model folder from being loaded, if it is one of configuration or tokenizer.

    Raises:
        UserError: It is.
    """
    from transformers import AutoConfig, AutoTokenizer

    if label.endswith(".gguf") or not (folder / "config.json").is_file():
        return
    _check_json(label, folder, TOKENIZERS)
    for name, load in (("config.json", AutoConfig), ("tokenizer.json or tokenizer_config.json", AutoTokenizer)):
        try:
            load.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        except (ImportError, MemoryError):  # nothing is wrong with the file
            return
        except Exception as again:
            if type(again) is type(error):
                raise _unusable(label, folder, name, _reason(again)) from error


def _check_json(label: str, folder: Path, names: tuple[str, ...]) -> None:
    """Refuse files of a folder that hold no JSON object (or, with another ending, no text).

    Raises:
        UserError: Naming the first one.
    """
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json" and not isinstance(json.loads(text), dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            raise _unusable(label, folder, name, _reason(error)) from error


def _unusable(label: str, folder: Path, name: str, reason: str) -> UserError:
    return UserError(
        f"Cannot load {label!r}: {name} in {folder} cannot be used ({reason}).",
        "If the file was damaged or cut short, copy or download the folder again.",
    )


def _names_a_place(name: str) -> bool:
    """Whether a name is a path, also one where nothing is, and no hub id: asking a hub for it takes long."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _with_adapter(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    source = find_adapter(adapter)
    try:
        return PeftModel.from_pretrained(model, source)
    except MemoryError:
        raise
    except Exception as error:
        reason = "its weights have other sizes than this model's" if "size mismatch" in str(error) else _reason(error)
        raise UserError(f"Cannot load the adapter {adapter!r}: {reason}", ADAPTER_ADVICE) from error


def find_adapter(name: str) -> str:
    """The folder or hub id that a user's name of an adapter stands for.

    Raises:
        UserError: No such folder, or one that holds no adapter.
    """
    check_utf8(name)
    folder = Path(name).expanduser()
    place = _names_a_place(name)
    if place and not (folder / "adapter_config.json").is_file():
        raise UserError(f"{name} is not an adapter's folder (no adapter_config.json in it).", ADAPTER_ADVICE)
    _check_json(name, folder, ("adapter_config.json",))
    return str(folder) if place else name


def choose_dtype(name: str | None, device: str) -> Any:
    """A torch dtype, or "auto" for the checkpoint's own.

    Raises:
        UserError: No such dtype or device.
    """
    if device.split(":")[0] not in ("cpu", "cuda", "mps", "xpu", "auto"):
        raise UserError(f"Unknown device {device!r}.", "Choose cpu, cuda, cuda:N, mps or auto.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("No CUDA device is there.", "Choose --device cpu, or install a CUDA build of PyTorch.")
    if name is None:
        if device == "cpu":
            return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32
        return "auto"
    if name not in DTYPES:
        raise UserError(f"Unknown dtype {name!r}.", f"Choose {', '.join(DTYPES)}.")
    return DTYPES[name]


def _cpu_multiplies_bfloat16() -> bool:
    """AVX512-BF16 or AMX; without them bfloat16 is emulated and slower than float32."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text(encoding="utf-8") for flag in ("avx512_bf16", "amx_bf16"))


def _reason(error: BaseException) -> str:
    """The error's first line, or first two where the first only announces the second."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return said if isinstance(error, OSError | ValueError) and said else f"{type(error).__name__} {said}".strip()
