"""PersonaVector: one safetensors file with the directions, where they came from, and what they are known to do."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personavec.errors import UserError
from personavec.files import check_utf8, write_atomic
from personavec.info import VectorInfo
from personavec.model import ChatModel, weights_hash
from personavec.model.checkpoint import Checkpoint

FORMAT = "personavec"
VERSION, TWO_DIRECTIONS = "1", "2"  # of a file with one direction, and of one with a direction to read along besides
READ = "read."  # before the names of the tensors of the latter
POSITIONS = ("response_mean", "prompt_mean", "prompt_last")


@dataclass(frozen=True, eq=False)
class PersonaVector:
    """The persona vector of one trait for one model, at every layer.

    The direction that steers best need not be the one that tells data apart best. A vector may hold another one in
    `read`: jobs that read (monitor, project, screen, shift) ask for `reading`, jobs that edit the stream (generate,
    chat, steer, evaluate, prevention) for `steering`. Of a vector with one direction both are the vector itself.

    Attributes:
        trait: Name of the trait.
        directions: (n_layers + 1, d) float32: mean reading of responses that show the trait minus mean of those that do
            not (paper section 2.2). Row 0 is the embedding output, row l the output of block l.
        layer: The layer it is used at unless another is named, 1..n_layers.
        model: Identity of the model: "id", "weights", "template", "n_layers", "hidden_size".
        alternatives: The same difference at other positions, "prompt_mean" and "prompt_last" (paper figure 11).
        neutral_mean, neutral_deviation: (n_layers + 1,) of the projections of the model's neutral answers.
        neutral_prompt_mean, neutral_prompt_deviation: The same for the last prompt token.
        neutral_token_mean, neutral_token_deviation: The same for the single tokens of the answers.
        residual_norm: (n_layers + 1,) mean norm of readings, the yardstick for coefficients.
        info: Everything else that was measured: dose-response, coherent range, judge, seeds, versions.
        normed_last_row: The last row was read after the final norm (vectors of the public code): not to be used.
        read: What is read along, with a layer and evidence of its own; None: the same as what is steered by.
    """

    trait: str
    directions: Tensor
    layer: int
    model: Mapping[str, JsonValue]
    alternatives: Mapping[str, Tensor] = field(default_factory=dict)
    neutral_mean: Tensor | None = None
    neutral_deviation: Tensor | None = None
    neutral_prompt_mean: Tensor | None = None
    neutral_prompt_deviation: Tensor | None = None
    neutral_token_mean: Tensor | None = None
    neutral_token_deviation: Tensor | None = None
    residual_norm: Tensor | None = None
    info: VectorInfo = field(default_factory=VectorInfo)
    normed_last_row: bool = False
    read: "PersonaVector | None" = None

    def __post_init__(self) -> None:
        shape = tuple(self.directions.shape)
        if len(shape) != 2 or shape[0] < 2:
            raise UserError(f"A persona vector has shape (layers + 1, width), not {shape}.", "Is this another file?")
        statistics = (getattr(self, name) for name in _STATISTICS)
        tensors = (self.directions, *self.alternatives.values(), *statistics)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor is not None):
            raise UserError(f"The vector of {self.trait!r} holds numbers that are not finite.", "Extract it again.")
        self._check_layer(self.layer)
        if self.read is not None:
            check_one_model([self, self.read])
            if self.read.trait != self.trait or self.read.read is not None:
                raise UserError(
                    f"A vector of {self.trait!r} cannot be read along one of {self.read.trait!r}.",
                    "Give two vectors of one trait.",
                )

    @property
    def reading(self) -> "PersonaVector":
        """What data and answers are read along."""
        return self if self.read is None else self.read

    @property
    def steering(self) -> "PersonaVector":
        """What the stream is edited by."""
        return self if self.read is None else replace(self, read=None)

    def with_read(self, read: "PersonaVector") -> "PersonaVector":
        """This vector to steer by, and another one of the same trait and model to read along.

        What only one of them knows of its trait and its judge, both know then.

        Raises:
            UserError: They are of different traits or models.
        """
        steer, other = self.steering, read.reading
        along = replace(other, info=_filled(other.info, steer.info))
        return replace(steer, read=along, info=_filled(steer.info, other.info))

    @property
    def agreement(self) -> list[float]:
        """Cosine between what is read along and what is steered by, at every layer that either may be used at."""
        return [float(self.reading.unit(layer) @ self.steering.unit(layer)) for layer in self.steerable_layers]

    @property
    def n_layers(self) -> int:
        """Number of the model's blocks."""
        return self.directions.shape[0] - 1

    @property
    def steerable_layers(self) -> list[int]:
        """Layers whose row is the output of a block."""
        return list(range(1, self.n_layers + (0 if self.normed_last_row else 1)))

    def _check_layer(self, layer: int) -> None:
        if layer not in self.steerable_layers:
            raise UserError(
                f"Layer {layer} is out of range for the vector of {self.trait!r}.",
                f"Choose 1 to {self.steerable_layers[-1]}"
                + (" (the last row of this import was taken after the final norm)." if self.normed_last_row else "."),
            )

    def at(self, layer: int) -> Tensor:
        """`v_l` (d,), not normalised."""
        self._check_layer(layer)
        return self.directions[layer]

    def unit(self, layer: int) -> Tensor:
        """`v_l / |v_l|` (d,)."""
        return torch.nn.functional.normalize(self.at(layer), dim=0)

    def increments(self) -> dict[int, Tensor]:
        """`u_l = v_l - v_(l-1)` for every layer, with `v_0 = 0` (paper appendix J.3)."""
        before = torch.zeros_like(self.directions[0])
        steps = {}
        for layer in self.steerable_layers:
            steps[layer] = self.directions[layer] - before
            before = self.directions[layer]
        return steps

    def neutral(self, layer: int, of: Literal["answer", "prompt", "token"] = "answer") -> tuple[float, float]:
        """Mean and deviation of the projections of the model's neutral answers at a layer.

        Args:
            of: Means over whole answers, last prompt tokens, or single tokens of answers.

        Raises:
            UserError: The file has none (an imported vector).
        """
        mean, deviation = {
            "answer": (self.neutral_mean, self.neutral_deviation),
            "prompt": (self.neutral_prompt_mean, self.neutral_prompt_deviation),
            "token": (self.neutral_token_mean, self.neutral_token_deviation),
        }[of]
        if mean is None or deviation is None:
            raise UserError(
                f"The vector of {self.trait!r} has no neutral statistics of this kind ({of}).",
                "Extract it with this version of personavec to get them.",
            )
        self._check_layer(layer)
        return float(mean[layer]), float(deviation[layer])

    @property
    def identity(self) -> list[JsonValue]:
        """Which vector this is: its trait, its layer, and a short hash of its directions; these of `read`, too."""
        return [self.trait, self.layer, self.hash, *(() if self.read is None else (self.read.layer, self.read.hash))]

    @property
    def hash(self) -> str:
        """Of its directions, short."""
        directions = self.directions.detach().float().cpu().contiguous()
        return hashlib.sha256(directions.numpy().tobytes()).hexdigest()[:16]

    def using(self, layer: int) -> "PersonaVector":
        """The same vector with another layer."""
        return replace(self, layer=layer)

    def check(self, model: Any, *, other_weights: bool = False) -> None:
        """Refuse a model that the vector was not made for. A PEFT adapter on top of the right model is let through.

        Args:
            model: A ChatModel, a Checkpoint or a transformers model.
            other_weights: Accept any model of the same shape: a full fine-tune or a quantised copy of the right one.

        Raises:
            UserError: Naming both models.
        """
        ours = isinstance(model, ChatModel | Checkpoint)
        config = model if ours else model.config.get_text_config()
        n_layers, width = config.n_layers if ours else config.num_hidden_layers, config.hidden_size
        mine = self.model.get("id", "another model")
        if (n_layers, width) != (self.n_layers, self.directions.shape[1]):
            raise UserError(
                f"The vector of {self.trait!r} belongs to {mine} ({self.n_layers} layers of width "
                f"{self.directions.shape[1]}); this model has {n_layers} layers of width {width}.",
                "Use the model it was extracted on, or extract a vector for this one.",
            )
        weights = self.model.get("weights")
        if (
            not other_weights
            and weights is not None
            and weights != (model.weights_hash if ours else weights_hash(model))
        ):
            raise UserError(
                f"The vector of {self.trait!r} belongs to {mine}; this model has the same shape but other weights.",
                "If it is a fine-tune or a quantised copy of that model, say so with `other_weights` True; "
                "else extract a vector for it.",
            )

    def save(self, path: Path | str) -> None:
        """Write the file, atomically."""
        check_utf8(path)
        header, tensors, version = self._header(), self._tensors(), VERSION
        if self.read is not None:
            header["read"], version = self.read._header(), TWO_DIRECTIONS
            tensors |= {READ + name: tensor for name, tensor in self.read._tensors().items()}
        metadata = {"format": FORMAT, "version": version, "header": json.dumps(header, allow_nan=False)}
        write_atomic(path, save({k: v.detach().float().cpu().clone() for k, v in tensors.items()}, metadata))

    def _tensors(self) -> dict[str, Tensor]:
        """By the names that they have in the file."""
        statistics = {name: value for name in _STATISTICS if (value := getattr(self, name)) is not None}
        return {"response_mean": self.directions, **self.alternatives, **statistics}

    def _header(self) -> dict[str, JsonValue]:
        """All else."""
        return {
            "trait": self.trait,
            "layer": self.layer,
            "model": dict(self.model),
            "info": self.info.as_stored(),
            "normed_last_row": self.normed_last_row,
        }

    @classmethod
    def load(cls, path: Path | str) -> "PersonaVector":
        """Read a file.

        Raises:
            UserError: No such file, not a personavec file, a newer version, damaged, or not what it says it is.
        """
        path = Path(path)
        check_utf8(path)
        if not path.is_file():
            raise UserError(
                f"There is no vector file {path}.",
                "Make one with `personavec extract`, or take a ready one (`personavec vectors list`).",
            )
        try:
            with safe_open(path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                # Copies: what is cut short or written over later would end the process that has it mapped.
                tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({error}).",
                "It was cut short or damaged; copy or extract it again.",
            ) from error
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path} is not a persona vector.", "Give a vector.safetensors written by personavec.")
        if metadata.get("version") not in (VERSION, TWO_DIRECTIONS):
            raise UserError(
                f"{path} has format version {metadata.get('version')}; this personavec reads {VERSION} and "
                f"{TWO_DIRECTIONS}.",
                "Update personavec, or extract the vector again.",
            )
        try:
            header = json.loads(metadata["header"], parse_constant=_finite, parse_float=_finite)
            json.dumps(header, ensure_ascii=False).encode()  # half a character (a lone surrogate) cannot be shown
            if metadata["version"] == VERSION:
                return cls._of(header, tensors)
            of_read = {name.removeprefix(READ): tensors.pop(name) for name in [*tensors] if name.startswith(READ)}
            return replace(cls._of(header, tensors), read=cls._of(header["read"], of_read))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged: {type(error).__name__}, {error}.", "Copy or extract it again."
            ) from error

    @classmethod
    def _of(cls, header: Any, tensors: dict[str, Tensor]) -> "PersonaVector":
        """One direction of a file, whoever wrote it.

        Raises:
            KeyError, TypeError, ValueError: It is no such thing.
        """
        if not isinstance(header["model"], dict) or not isinstance(header["info"], dict):
            raise TypeError("a header of another shape")
        if any(not isinstance(header["model"].get(key, ""), str | None) for key in ("id", "weights", "template")):
            raise TypeError("a model's identity that is not text")
        directions = tensors.pop("response_mean")
        rows = directions.shape[:1]
        alternatives = {name: tensors.pop(name) for name in POSITIONS[1:] if name in tensors}
        if any(tensor.shape != directions.shape for tensor in alternatives.values()):
            raise ValueError("directions of different shapes")
        statistics: dict[str, Any] = {name: tensors.pop(name) for name in _STATISTICS if name in tensors}
        if tensors or any(tensor.shape != rows for tensor in statistics.values()):
            raise ValueError("tensors that do not belong to a persona vector")
        if any(tensor.dtype != torch.float32 for tensor in (directions, *alternatives.values(), *statistics.values())):
            raise ValueError("tensors that are not float32")
        return cls(
            trait=str(header["trait"]),
            directions=directions,
            layer=int(header["layer"]),
            model=header["model"],
            info=VectorInfo.parse(header["info"]),
            normed_last_row=bool(header["normed_last_row"]),
            alternatives=alternatives,
            **statistics,
        )


_STATISTICS = (
    "neutral_mean",
    "neutral_deviation",
    "neutral_prompt_mean",
    "neutral_prompt_deviation",
    "neutral_token_mean",
    "neutral_token_deviation",
    "residual_norm",
)


def _finite(text: str) -> float:
    """A number of the header; a vector file holds none that JSON does not have."""
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text}")
    return float(text)


def _filled(info: VectorInfo, other: VectorInfo) -> VectorInfo:
    """With the trait and the judge that another vector of the trait knows, where it knows none."""
    lacking = [name for name in ("trait", "judge") if getattr(info, name) is None]
    return info.model_copy(update={n: known for n in lacking if (known := getattr(other, n)) is not None})


def reading_sides(vectors: Sequence[PersonaVector]) -> list[PersonaVector]:
    """What each is read along."""
    return [vector.reading for vector in vectors]


def two_directions(vectors: Sequence[PersonaVector]) -> list[str]:
    """A sentence for each vector that is read along another direction than it is steered by."""
    return [
        f"{v.trait} is read along another direction (layer {v.read.layer}) than it is steered by (layer {v.layer}); "
        f"the cosine of the two is {cosine(v.read, v, v.read.layer):+.2f} at the one layer and "
        f"{cosine(v.read, v, v.layer):+.2f} at the other."
        for v in vectors
        if v.read is not None
    ]


def check_one_model(vectors: Sequence[PersonaVector]) -> None:
    """Refuse vectors of different models; where the weights are not known, the models' names tell.

    Raises:
        UserError: Naming two of them.
    """
    first = vectors[0]
    for other in vectors[1:]:
        known = (first.model.get("weights"), other.model.get("weights"))
        same = known[0] == known[1] if None not in known else first.model.get("id") == other.model.get("id")
        if not same or first.directions.shape != other.directions.shape:
            raise UserError(
                f"The vectors of {first.trait!r} and {other.trait!r} belong to different models: "
                f"{first.model.get('id')} and {other.model.get('id')}, whose weights are not the same.",
                "Give vectors that were extracted on one model.",
            )


def check_one_per_trait(vectors: Sequence[PersonaVector]) -> None:
    """Refuse two vectors of one trait: what is measured along them is told apart by the trait's name.

    Raises:
        UserError: Naming the trait.
    """
    names = [vector.trait for vector in vectors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Two vectors are of the trait {twice[0]!r}.", "Give each trait once.")


def cosine(a: PersonaVector, b: PersonaVector, layer: int) -> float:
    """Cosine between two vectors of one model at a layer."""
    if a.directions.shape != b.directions.shape:
        raise UserError(
            f"The vectors of {a.trait!r} and {b.trait!r} belong to models of different shape.",
            "Compare vectors of one model.",
        )
    return float(a.unit(layer) @ b.unit(layer))


def siblings(folder: Path, vector: PersonaVector) -> list[PersonaVector]:
    """The other traits' vectors of the same model in the runs beside this one, by name."""
    found: dict[str, PersonaVector] = {}
    for _, other in beside(folder, vector):
        if other.trait != vector.trait:
            found.setdefault(other.trait, other)
    return [found[name] for name in sorted(found)]


def beside(folder: Path, vector: PersonaVector) -> list[tuple[Path, PersonaVector]]:
    """All vectors of the same model in the runs beside this one, by the names of their folders."""
    found = []
    for path in sorted(folder.resolve().parent.glob("*/vector.safetensors")):
        if path.parent == folder.resolve():
            continue
        try:
            other = PersonaVector.load(path)
        except UserError:
            continue
        alike = other.model.get("weights") == vector.model.get("weights") and not other.normed_last_row
        if alike and other.directions.shape == vector.directions.shape:
            found.append((path.parent, other))
    return found
