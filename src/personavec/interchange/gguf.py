"""Control vectors of llama.cpp, which repeng and EasySteer read too: `direction.N` is added to the output of block N,
blocks counted from 0, at every token.

So layer l is `direction.(l-1)`; llama.cpp takes none for its first block and refuses a file with any other tensor. It
adds up what several files say of one layer, and reads no metadata; the other two need `controlvector.model_hint`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.files import cannot_write, replacing
from personavec.interchange.steering import ConstantSteering
from personavec.vector import PersonaVector

LARGEST_LAYER = 1000  # of a file that is believed; rows up to it are held in memory
# Of the metadata, what is read again.
KNOWN = {
    "trait": str,
    "model": str,
    "weights": str,
    "template": str,
    "coefficient": float,
    "layer": int,
    "n_layers": int,
}


def write(steering: ConstantSteering, out: Path, model: Any) -> tuple[Path, list[str]]:
    """See `FORMS`.

    Args:
        model: A ChatModel or a Checkpoint, for the name of its architecture.

    Raises:
        UserError: Layer 1 is steered, which llama.cpp cannot.
    """
    import gguf

    if 1 in steering.added:
        raise UserError(
            "Layer 1 cannot be exported as gguf: llama.cpp adds nothing to the output of its first block.",
            "Choose `layers` best or a number from 2 on"
            + ("; increments at all layers begin with the first." if steering.layers == "all" else "."),
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    with replacing(out) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        for key, value in _metadata(steering, model).items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float64}[type(value)]
            add(key, value)
        for layer, delta in steering.added.items():
            writer.add_tensor(f"direction.{layer - 1}", delta.cpu().numpy().astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    names = ", ".join(f"direction.{layer - 1} (layer {layer})" for layer in steering.added)
    return out.with_name(f"{out.name}.md"), [
        f"Tensors: {names}, already times the coefficient: scale 1 in the other engine is what is described here.",
        "llama.cpp: `llama-server -m MODEL.gguf --control-vector FILE`, or half of it with "
        "`--control-vector-scaled FILE:0.5`. repeng: ControlVector.import_gguf.",
    ]


def _metadata(steering: ConstantSteering, model: Any) -> dict[str, str | int | float]:
    config = getattr(model, "model", model).config.get_text_config()
    known = {name: str(steering.model[name]) for name in ("weights", "template") if steering.model.get(name)}
    vector, coefficient = steering.parts[0]
    single = len(steering.parts) == 1
    return {
        "controlvector.model_hint": config.model_type.removesuffix("_text"),
        "controlvector.layer_count": len(steering.added),
        "general.name": steering.name,
        "general.description": " ".join(steering.sentences()),
        "personavec.operation": "add",
        "personavec.hook_point": "residual stream, output of a block",
        "personavec.positions": "all",
        "personavec.layer_map": "direction.N is added to the output of block N counted from 0, which is layer N + 1",
        "personavec.trait": vector.trait if single else steering.name,
        "personavec.coefficient": float(coefficient) if single else 1.0,  # the tensors are already times this
        "personavec.layer": next(iter(steering.added)),
        "personavec.n_layers": steering.n_layers,
        "personavec.model": str(steering.model.get("id", "unknown")),
        "personavec.facts": steering.facts(),
        **{f"personavec.{name}": value for name, value in known.items()},
    }


@dataclass(frozen=True)
class ControlVector:
    """What a GGUF file holds of a control vector.

    Attributes:
        directions: (d,) float32 by layer, counted as here: `direction.N` is layer N + 1.
        facts: Of its metadata, what personavec wrote: see `KNOWN`; empty in other tools' files.
    """

    directions: Mapping[int, Tensor]
    facts: Mapping[str, Any]


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(4) == b"GGUF"


def read_control_vector(path: Path | str) -> ControlVector:
    """Read and check a control vector, whoever wrote it.

    Raises:
        UserError: No such file, damaged, or anything but one finite direction of one width for each layer.
    """
    import gguf

    path = Path(path)
    advice = "Give a control vector, such as personavec, repeng or llama.cpp's generator write."
    if not path.is_file():
        raise UserError(f"There is no file {path}.", advice)
    try:
        reader = gguf.GGUFReader(path)
        kind = reader.get_field("general.architecture")
        if kind is None or kind.contents() != "controlvector":
            raise UserError(f"{path} is a GGUF file, but no control vector.", advice)
        fields = {name: reader.get_field(f"personavec.{name}") for name in KNOWN}
        facts: dict[str, Any] = {name: field.contents() for name, field in fields.items() if field is not None}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        held = {name: np.array(tensor.data) for name, tensor in tensors.items()}
    except UserError:
        raise
    except Exception as error:  # what is damaged makes the library raise whatever it stumbles on
        raise UserError(f"{path} is not a whole GGUF file ({error}).", advice) from error
    directions = {}
    for name, data in held.items():
        number = re.fullmatch(r"direction\.(\d{1,4})", name)
        if number is None or not 1 <= int(number[1]) <= LARGEST_LAYER or data.ndim != 1 or data.dtype != np.float32:
            raise UserError(
                f"{path} holds {name}, {data.dtype} {list(data.shape)}, where only direction.1, direction.2, ... of "
                "float32 belong.",
                advice,
            )
        directions[int(number[1]) + 1] = torch.from_numpy(data)
    widths = {row.shape[0] for row in directions.values()}
    if len(widths) != 1 or not all(bool(row.isfinite().all()) for row in directions.values()):
        raise UserError(f"{path} holds no directions, of different widths, or not finite.", advice)
    for name, value in facts.items():
        if type(value) is not KNOWN[name] or not value or (name == "coefficient" and not math.isfinite(facts[name])):
            raise UserError(f"{path}: its personavec.{name} is {value!r}.", "The file is damaged; export it again.")
    return ControlVector(dict(sorted(directions.items())), facts)


def read_vector(
    path: Path | str, *, trait: str | None = None, layer: int | None = None, model: str | None = None
) -> PersonaVector:
    """A persona vector from a control vector. Rows of layers that the file has no direction for are zero.

    A file that personavec wrote is divided by its coefficient, so that coefficients mean what they meant.

    Args:
        trait, layer, model: None: as the file says, where personavec wrote it; a single direction tells its layer.

    Raises:
        UserError: The file cannot be used, or does not say what is not given.
    """
    held = read_control_vector(path)
    facts, rows = held.facts, held.directions
    trait = facts.get("trait") if trait is None else trait
    if trait is None:
        raise UserError(f"{path} does not say which trait it is of.", "Name it with `trait`.")
    if layer is None:
        layer = facts.get("layer") or (next(iter(rows)) if len(rows) == 1 else None)
    if layer is None or layer not in rows:
        raise UserError(
            f"{path} has directions for layers {', '.join(map(str, rows))}"
            + ("." if layer is None else f", not for layer {layer}."),
            "Choose one of them with `layer`.",
        )
    # Other tools give a direction to every block but the first, so the last one tells how many there are.
    n_layers = facts.get("n_layers", max(rows))
    if not max(rows) <= n_layers <= LARGEST_LAYER + 1:
        raise UserError(f"{path} has directions for layers that its model does not have.", "Export it again.")
    width = rows[layer].shape[0]
    directions = torch.zeros(n_layers + 1, width)
    for number, row in rows.items():
        directions[number] = row / facts.get("coefficient", 1.0)
    identity = {"id": model or facts.get("model", "unknown"), "n_layers": n_layers, "hidden_size": width}
    known = {name: facts[name] for name in ("weights", "template") if name in facts and model is None}
    return PersonaVector(trait, directions, layer, {**identity, **known})
