"""Load a chat model by what the user calls it: the bundled default, a hub id, a local folder or a GGUF file."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from personavec.errors import UserError
from personavec.files import check_utf8, printable
from personavec.model.adapter import ADVICE, put_on
from personavec.model.chat import ChatModel
from personavec.model.weights import load_weights

log = logging.getLogger(__name__)

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "added_tokens.json", "chat_template.jinja")
SENSES = ("vision_config", "audio_config", "image_config", "video_config", "speech_config")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        label: What results call the model.
        place: A folder, a GGUF file, or a hub id.
        kind: Which of these; "bundled" is a folder that personavec made.
    """

    label: str
    place: str
    kind: Literal["bundled", "folder", "gguf", "hub"]


def find_source(name: str | None) -> ModelSource:
    """What a user's name of a model stands for; the bundled one is fetched if it is missing.

    Raises:
        UserError: No such file or folder, or a folder with damaged configuration.
    """
    from personavec.model.default import BUNDLED, prepare_bundled

    label = name or "default"
    check_utf8(label)
    if label in BUNDLED:
        return ModelSource(BUNDLED[label].hub_id, str(prepare_bundled(BUNDLED[label])), "bundled")
    path = expanded(label)
    if not path.is_dir() and label.lower().endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"There is no file {label}.", "Give the path of a GGUF file.")
        return _gguf(label, path)
    if path.is_file():
        with path.open("rb") as handle:
            if handle.read(4) == b"GGUF":  # whatever its name
                return _gguf(label, path)
        raise UserError(f"{label} is a file, and no GGUF file.", f"Give the folder that it is in: {path.parent}")
    if _names_a_place(label):
        if not (path / "config.json").is_file():
            raise UserError(f"{label} is not a model folder (no config.json in it).", _instead(label, path))
        if (path / "adapter_config.json").is_file():  # which transformers would put on, or the server would not
            raise UserError(
                f"{label} holds a model and an adapter (config.json and adapter_config.json).",
                "Move the adapter's two files into a folder of their own and name that with `adapter`; if it is merged "
                "into the model already, delete them.",
            )
        _check_json(label, path, CONFIGS)  # transformers passes over some of them where they are damaged
        return ModelSource(label, str(path), "folder")
    return ModelSource(label, label, "hub")


def _gguf(label: str, path: Path) -> ModelSource:
    if re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", label, re.IGNORECASE):
        raise UserError(
            f"{label} is one part of a model that is cut into several files.",
            "Join them with `llama-gguf-split --merge`, and give the whole file.",
        )
    return ModelSource(label, str(path), "gguf")


def _instead(label: str, folder: Path) -> str:
    """What to give instead of a folder that is no model's."""
    if (folder / "adapter_config.json").is_file():
        return f"It is an adapter: name the model that it was made for, and say `adapter` {label}"
    if files := sorted(file.name for file in folder.glob("*") if file.name.lower().endswith(".gguf")):
        return f"It holds GGUF files: name one, as {folder / files[0]}"
    if (folder / "model_index.json").is_file():
        return "It holds a model that draws images; give a folder, hub id or .gguf file of a chat model."
    return "Give a folder, a hub id or a .gguf file."


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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_dtype(dtype, device)
    found = find_source(name)
    label = found.label
    try:
        model, tokenizer = _read(found, device, chosen, trust_remote_code)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # what is damaged makes these libraries raise whatever they stumble on
        _explain(found, error, trust_remote_code)
        raise UserError(
            f"Cannot load the model {label!r}: {_reason(error)}",
            "Give a hub id, a local folder, a .gguf file, or leave `model` out for the bundled default.",
        ) from error
    if adapter is not None:
        model = put_on(model, find_adapter(adapter), adapter)
        label = f"{label}+{adapter}"
    chat = ChatModel(model, tokenizer, printable(label), thinking=thinking)
    for note in chat.template.notes:
        log.warning(note)
    return chat


def _read(found: ModelSource, device: str, dtype: Any, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model and its tokenizer, whatever transformers raises."""
    from transformers import AutoTokenizer, GgufConfig

    both: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    options: dict[str, Any] = {"dtype": dtype} | ({} if device == "cpu" else {"device_map": device})
    source = found.place
    if found.kind == "gguf":
        source, both["gguf_file"] = str(Path(source).parent), Path(source).name
        # Packed weights would save memory but compute in float32 through kernels that are not everywhere.
        options["quantization_config"] = GgufConfig(dequantize=True)
    elif found.kind == "bundled":
        both["local_files_only"] = True
    tokenizer = AutoTokenizer.from_pretrained(source, **both)
    # 8-bit layers would tell at every multiplication in which dtype they quantise.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model = load_weights(found.label, source, **both, **options)
    if not tokenizer("a")["input_ids"]:
        raise ValueError("its tokenizer knows no words; the folder may lack tokenizer.json.")
    return model, tokenizer


def _explain(found: ModelSource, error: Exception, trust_remote_code: bool) -> None:
    """Say what keeps a model from being loaded, if it is its kind or one of its configuration or tokenizer files.

    Raises:
        UserError: It is.
    """
    from transformers import AutoConfig, AutoTokenizer

    if found.kind == "gguf":
        return
    check_kind(found.label, found.place, trust_remote_code)
    folder = Path(found.place)
    if not (folder / "config.json").is_file():
        return
    _check_json(found.label, folder, TOKENIZERS)
    for name, load in (("config.json", AutoConfig), ("tokenizer.json or tokenizer_config.json", AutoTokenizer)):
        try:
            load.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        except (ImportError, MemoryError):  # nothing is wrong with the file
            return
        except Exception as again:
            if type(again) is type(error):
                raise _unusable(found.label, folder, name, _reason(again)) from error


def check_kind(label: str, place: str, trust_remote_code: bool = False) -> None:
    """Refuse what transformers has no causal language model for.

    Raises:
        UserError: Saying what it is instead.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    except Exception:  # told by the error that led here
        return
    if type(config) in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in (
        getattr(config, "auto_map", None) or {}
    ):
        return
    name = ", ".join(config.architectures or [config.model_type])
    senses = sorted(part.removesuffix("_config") for part in config.sub_configs if part in SENSES)
    if senses:
        raise UserError(
            f"{label!r} is a model of {' and '.join(senses)} as well as text ({name}), which is not supported.",
            "Give a model of text alone: that family's text-only chat model, or another one.",
        )
    raise UserError(
        f"{label!r} is no causal language model ({name}).", "personavec works with decoder-only chat models."
    )


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
    return expanded(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def expanded(name: str) -> Path:
    """A path that a user gave, with `~` as the home folder.

    Raises:
        UserError: There is no such home folder.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name} names a home folder, and there is none ({error}).", "Write the whole path, from / on."
        ) from error


def find_adapter(name: str) -> str:
    """The folder or hub id that a user's name of an adapter stands for.

    Raises:
        UserError: No such folder, or one that holds no adapter.
    """
    check_utf8(name)
    folder = expanded(name)
    place = _names_a_place(name)
    if place and not (folder / "adapter_config.json").is_file():
        raise UserError(f"{name} is not an adapter's folder (no adapter_config.json in it).", ADVICE)
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
        raise UserError("No CUDA device is there.", "Choose `device` cpu, or install a CUDA build of PyTorch.")
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
