"""What keeps a model from learning traits while it is trained: edits of the residual stream in training forwards."""

import hashlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from personavec.errors import UserError
from personavec.finetune.methods import stream_method
from personavec.finetune.result import StreamPrevention
from personavec.finetune.wrapping import blocks_of, unwrapped
from personavec.model.blocks import Blocks
from personavec.model.edits import SteeringPlan
from personavec.model.evaluating import evaluating
from personavec.operations import Layers, Positions, TrainedPositions
from personavec.vector import PersonaVector


class Prevention:
    """Keeps a model from learning traits: put on a model with `attach`, taken off with `detach`.

    It acts in forwards that learn: of blocks in training mode, with gradients on. Evaluation, generation (also the
    rollouts that GRPO draws from a model in training mode) and reference passes go through the plain model. Gradients
    flow through the edited stream; the vectors get none.

    Its methods (paper, section 5.2 and appendix J), see `methods.METHODS`:

    - "steer": `h_l <- h_l + alpha v_l`, preventative steering. The weights need not move along `v_l` any more.
    - "ablate": `h_l <- h_l - (h_l . v^_l) v^_l`, CAFT. Several vectors: their span is projected out. The paper does it
      at all layers.
    - "regularise": the stream is left alone, and `penalty` is to be added to the loss. The paper gives no formula; ours
      is the mean over the tokens that bear loss, and over the layers, of

          w (((h_l - b_l) . v^_l) / |v_l|)^2,

      summed over the vectors, where `b_l` is the stream of the model without its adapter at the same token. The change
      of 1 is one whole persona vector, so that a weight `w` means the same for every model. Costs a forward without
      gradients per training forward, up to the deepest layer needed.

    Args:
        vector: One persona vector, or several.
        coefficient: One number for each vector: the paper's alpha, or the weight `w`; "ablate" takes none.
        method: See above; further interventions that make sense in training go by their own names.
        layers: "best" is each vector's own layer, a number is that layer, "all" is every layer, where steering adds the
            increments `u_l = v_l - v_(l-1)` (paper, appendix J.3).
        positions: Where the stream is edited. "response" is every token that bears loss (its label is not -100) and the
            token before, from which it is predicted; "all" is every token. The penalty is always on tokens that bear
            loss.

    Attributes:
        acting: Off, every forward is plain.
        fired: Whether any forward was edited, or measured for the penalty.

    Raises:
        UserError: Coefficients that do not fit the vectors, vectors of different models, an unknown choice.
    """

    def __init__(
        self,
        vector: PersonaVector | Sequence[PersonaVector],
        coefficient: float | Sequence[float] | None = None,
        *,
        method: str = "steer",
        layers: Layers = "best",
        positions: TrainedPositions = "all",
    ) -> None:
        self.method = stream_method(method)
        if positions not in get_args(TrainedPositions):
            raise UserError(f"Unknown positions {positions!r}.", "Choose all or response.")
        self.vectors = [one.steering for one in ([vector] if isinstance(vector, PersonaVector) else vector)]
        if not self.vectors:
            raise UserError("There is no vector.", "Give at least one.")
        self.coefficients = self.method.weights(self.vectors, coefficient)
        self.layers, self.positions = layers, positions
        if len({tuple(one.directions.shape) for one in self.vectors}) > 1:
            raise UserError("The vectors belong to models of different shape.", "Use vectors of one model.")
        self._directions = self.method.directions(self.vectors, self.coefficients, layers)
        self._steering = None if self.method.penalises else self._stream_steering()
        self._edits = {} if self._steering is None else self._steering.edits()
        self.acting = True
        self.fired = False
        self._model: Any = None
        self._blocks: Blocks | None = None
        self._hooks = ExitStack()
        self._ready: dict[tuple[int, torch.device], Tensor] = {}
        self._bears: Tensor | None = None  # (batch, tokens, 1): the tokens that bear loss in the running forward
        self._base: dict[int, Tensor] = {}
        self._reading_base = False
        self._learning = False  # whether the running forward was begun in training mode, with gradients on
        self._penalties: list[Tensor] = []
        self._tokens: list[Tensor] = []

    def describe(self) -> StreamPrevention:
        """All that it does: the same for two that do the same."""
        digest = hashlib.sha256()
        for layer, directions in sorted(self._directions.items()):
            digest.update(f"{layer}".encode() + directions.numpy().tobytes())
        return StreamPrevention(
            method=self.method.name,
            traits={one.trait: value for one, value in zip(self.vectors, self.coefficients, strict=True)},
            layers=tuple(sorted(self._directions)),
            positions=self.positions,
            directions=digest.hexdigest()[:16],
        )

    def check(self, model: Any, *, other_weights: bool = False) -> None:
        """Refuse a model that the vectors were not made for; see `PersonaVector.check`."""
        for one in self.vectors:
            one.check(unwrapped(model), other_weights=other_weights)

    def attach(self, model: Any) -> None:
        """Put it on a model, whatever it is wrapped in (PEFT, DDP, FSDP, torch.compile).

        Raises:
            UserError: The blocks are not found, a layer is out of range, or "regularise" on a model without an adapter.
        """
        self.detach()
        inner = unwrapped(model)
        if self.method.penalises and not hasattr(inner, "peft_config"):
            raise UserError(
                f"The change of {type(inner).__name__} cannot be measured: it has no PEFT adapter to take off.",
                "Train an adapter, or choose the method steer or ablate.",
            )
        blocks = blocks_of(inner)
        for layer in self._directions:
            if not 1 <= layer <= len(blocks):
                raise UserError(f"Layer {layer} is out of range.", f"The model has layers 1 to {len(blocks)}.")
        names = tuple(inspect.signature(inner.forward).parameters)
        with ExitStack() as stack:
            hooks = [inner.register_forward_pre_hook(partial(self._on_model, names), with_kwargs=True)]
            hooks.append(blocks.trunk.register_forward_pre_hook(self._on_trunk, with_kwargs=True))
            for layer in self._directions:
                hook = partial(self._on_block, layer)
                # First, so that everything that reads at the same layer sees the edited stream.
                hooks.append(blocks.layers[layer - 1].register_forward_hook(hook, prepend=True, with_kwargs=True))
            for handle in hooks:
                stack.callback(handle.remove)
            self._hooks = stack.pop_all()
        self._model, self._blocks = inner, blocks
        _forget_traces()

    def detach(self) -> None:
        """Take it off; nothing of it stays on the model."""
        if self._blocks is None:
            return
        self._hooks.close()
        self._model = self._blocks = self._bears = None
        self.fired = False
        for kept in (self._ready, self._base, self._penalties, self._tokens):
            kept.clear()
        _forget_traces()

    def penalty(self, tokens: Tensor | int | None = None) -> Tensor | float:
        """What to add to the loss of the forwards since the last call: a scalar with gradients; 0.0 if none learned.

        Args:
            tokens: Divide the sum over tokens by this number, as a loss does that is normalised over accumulated
                batches; None: by the number of these forwards' own tokens.
        """
        if not self._penalties:
            return 0.0
        home = self._penalties[-1].device
        total = torch.stack([one.to(home) for one in self._penalties]).sum()
        count = torch.stack([one.to(home) for one in self._tokens]).sum() if tokens is None else torch.as_tensor(tokens)
        self._penalties.clear()
        self._tokens.clear()
        return total / count.to(home).clamp_min(1)

    def go_on_with(self, coefficients: Sequence[float]) -> None:
        """Other coefficients from now on, in forwards that are compiled already too.

        Raises:
            UserError: Coefficients that do not fit the vectors, or a method that adds a penalty.
        """
        if self._steering is None:
            raise UserError(f"The weights of the method {self.method.name} stay.", "Build another prevention.")
        self.coefficients = self.method.weights(self.vectors, coefficients)
        self._directions = self.method.directions(self.vectors, self.coefficients, self.layers)
        self._steering.take(self._stream_steering())

    def _stream_steering(self) -> SteeringPlan:
        steering = SteeringPlan([self.method.interventions(self.vectors, self.coefficients, self.layers)])
        steering.phase = dict.fromkeys(get_args(Positions), True)  # where it acts in the end is said by `positions`
        return steering

    def _on_model(self, names: Sequence[str], model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Before a forward that learns: which of its tokens bear loss."""
        if not (self.acting and model.training and torch.is_grad_enabled()):
            return
        labels = {**dict(zip(names, args, strict=False)), **kwargs}.get("labels")
        self._bears = None if labels is None else (labels != -100)[..., None]

    def _on_trunk(self, trunk: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Before every forward: whether it learns. For the penalty, the same tokens through the model without its
        adapter, up to what is needed."""
        if self._reading_base:
            return
        self._learning = self.acting and trunk.training and torch.is_grad_enabled()
        if self._learning and self.method.penalises:
            self._read_base(args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _read_base(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self._blocks is not None
        self._reading_base = True
        try:
            with (
                evaluating(self._model),
                self._model.disable_adapter(),
                self._blocks.stopping_at(max(self._directions)),
            ):
                self._blocks.trunk(*args, **{**kwargs, "use_cache": False})
        finally:
            self._reading_base = False

    def _on_block(self, layer: int, block: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        if self._reading_base:
            self._base[layer] = self._products(layer, hidden)
            return None
        # A block inside a reentrant checkpoint runs with gradients off, but on an input that wants them. So does one of
        # a reference pass where the embeddings are made to want them; how the whole forward began tells them apart.
        came = args[0] if args else kwargs.get("hidden_states")
        learns = torch.is_grad_enabled() or (self._learning and isinstance(came, Tensor) and came.requires_grad)
        if not (self.acting and block.training and learns):
            return None
        self.fired = True
        if self.method.penalises:
            self._measure(layer, hidden)
            return None
        edited = self._edits[layer](hidden)
        assert edited is not None
        if self.positions == "response":
            bears = self._where(hidden)
            predicts = nn.functional.pad(bears[:, 1:], (0, 0, 0, 1))
            edited = torch.where(bears | predicts, edited, hidden)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _measure(self, layer: int, hidden: Tensor) -> None:
        """Add this layer's part of the penalty, the sum over the tokens that bear loss."""
        change = self._products(layer, hidden) - self._base[layer]
        if not change.requires_grad:
            raise UserError(
                f"No gradient reaches layer {layer}: the penalty cannot act there.",
                "Put adapters on the blocks up to this layer, and use the checkpointing of the model itself.",
            )
        bears = self._where(hidden)
        bears = nn.functional.pad(bears[:, 1:], (0, 0, 1, 0))  # the first token is not predicted
        self._penalties.append((change.square() * bears).sum())
        if layer == min(self._directions):
            self._tokens.append(bears.sum())

    def _products(self, layer: int, hidden: Tensor) -> Tensor:
        """Scalar products (batch, tokens, k) in float32, whatever autocast says."""
        key = layer, hidden.device
        if key not in self._ready:
            self._ready[key] = self._directions[layer].to(hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ self._ready[key].T

    def _where(self, hidden: Tensor) -> Tensor:
        """The tokens that bear loss (batch, tokens, 1)."""
        if self._bears is None or self._bears.shape[:2] != hidden.shape[:2]:
            shape = None if self._bears is None else tuple(self._bears.shape[:2])
            raise UserError(
                f"The tokens that bear loss are not known: the labels of the forward have shape {shape}, the hidden "
                f"states {tuple(hidden.shape[:2])}.",
                "Pass labels to the model's forward, or choose the method steer or ablate with positions all.",
            )
        return self._bears.to(hidden.device)


@contextmanager
def preventing(
    model: Any,
    vector: PersonaVector | Sequence[PersonaVector],
    coefficient: float | Sequence[float] | None = None,
    *,
    method: str = "steer",
    layers: Layers = "best",
    positions: TrainedPositions = "all",
    other_weights: bool = False,
) -> Iterator[Prevention]:
    """Keep a model from learning traits in a training loop of one's own.

    Put it around the loop, after the model is wrapped and before its first compiled forward:

        with preventing(model, vector, 3.0):
            for batch in batches:
                model(**batch).loss.backward()
                ...

    With `method="regularise"` add the penalty: `loss = model(**batch).loss + prevention.penalty()`.

    Args:
        vector, coefficient, method, layers, positions: See `Prevention`.
        other_weights: See `PersonaVector.check`.

    Raises:
        UserError: A vector of another model, or what `Prevention` refuses; nothing is touched then.
    """
    prevention = Prevention(vector, coefficient, method=method, layers=layers, positions=positions)
    prevention.check(model, other_weights=other_weights)
    prevention.attach(model)
    try:
        yield prevention
        if not prevention.fired:
            warnings.warn(
                "No forward inside the context learned: was the model in training mode, with gradients on?",
                stacklevel=3,
            )
    finally:
        prevention.detach()


def _forget_traces() -> None:
    """Compiled forwards hold the hooks of the time they were traced."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
