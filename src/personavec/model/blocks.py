"""Where the residual stream is: a model's decoder blocks, found from its structure and proved on a real forward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personavec.errors import UserError

Edit = Callable[[Tensor], Tensor | None]


class NotFiniteError(UserError):
    """A model gives NaN or infinity."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(
            f"The weights of {type(model).__name__}, or of its adapter, are not finite, or too large for their dtype.",
            "Load it in another `dtype`; if that gives the same, the file or the training that wrote it went wrong.",
        )


@dataclass(frozen=True)
class Blocks:
    """The decoder blocks of one model.

    Attributes:
        trunk: The module that runs embeddings, blocks and final norm, without the LM head.
        name: Attribute of `owner` that holds the list of blocks.
        owner: The module whose attribute it is (usually the trunk).
        layers: The blocks; layer `l` of the project's vocabulary (1-based) is `layers[l - 1]`'s output.
    """

    trunk: nn.Module
    owner: nn.Module
    name: str
    layers: nn.ModuleList

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream (quantised weights are stored otherwise)."""
        floating = (p.dtype for p in self.trunk.parameters() if p.dtype.is_floating_point)
        return next(floating, torch.float32)

    @contextmanager
    def watching(self, edits: Mapping[int, Edit], *, first: bool = False) -> Iterator[None]:
        """Call `edits[l]` with the hidden states (batch, tokens, d) of layer `l` on every forward.

        What an edit returns replaces the hidden states; None leaves them. Layer 0 is the input of the first block.
        The hooks come off when the context ends, also after an exception.

        Args:
            edits: One function per layer, 0..n_layers.
            first: Run before the hooks that are already there (for interventions: what is added must be seen by
                everything that reads at the same layer).

        Raises:
            UserError: A layer that the model does not have.
        """
        for layer in edits:
            if not 0 <= layer <= len(self):
                raise UserError(f"Layer {layer} is out of range.", f"The model has layers 1 to {len(self)}.")
        with ExitStack() as stack:
            for layer, edit in edits.items():
                if layer == 0:
                    handle = self.layers[0].register_forward_pre_hook(
                        _edit_input(edit), prepend=first, with_kwargs=True
                    )
                else:
                    handle = self.layers[layer - 1].register_forward_hook(_edit_output(edit), prepend=first)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Without any hooks on the trunk and its blocks, for forwards that must find the model as it is."""
        with ExitStack() as stack:
            for module in (self.trunk, *self.layers):
                for hooks in (module._forward_pre_hooks, module._forward_hooks):
                    stack.callback(hooks.update, dict(hooks))
                    hooks.clear()
            yield

    @contextmanager
    def stopping_at(self, layer: int) -> Iterator[None]:
        """Run only the first `layer` blocks in forwards of the trunk (at least one). Restores the list afterwards."""
        if layer >= len(self.layers):
            yield
            return
        setattr(self.owner, self.name, self.layers[: max(layer, 1)])
        try:
            yield
        finally:
            setattr(self.owner, self.name, self.layers)


def find_blocks(model: nn.Module, *, prove: bool = True) -> Blocks:
    """Find the decoder blocks of a causal language model by structure, then prove them on a forward of three tokens.

    A candidate is any list of as many modules as the text config counts layers. The one whose members are called once
    each, in order, each taking what the one before gave out, is the list of blocks.

    Args:
        prove: Without the forward, which sharded weights do not allow, the candidate must be the only one.

    Raises:
        UserError: No list, or more than one, behaves like a chain of decoder blocks, or what it gives is not finite.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise UserError(
            f"{type(model).__name__} is not a transformers model.", "Load it with AutoModelForCausalLM.from_pretrained."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{type(model).__name__} is an encoder-decoder model.", "personavec works with decoder-only chat models."
        )
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_hidden_layers", None)
    modules = dict(model.named_modules())
    found: list[Blocks] = []
    states: Tensor | None = None
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            owner_path, _, name = path.rpartition(".")
            owner = modules[owner_path]
            blocks = Blocks(_trunk(modules, owner_path), owner, name, module)
            if not prove or (states := _chained(blocks, text.hidden_size)) is not None:
                found.append(blocks)
    if len(found) != 1:
        raise UserError(
            f"Found {len(found)} lists of {count} decoder blocks in {type(model).__name__}; expected exactly one.",
            "This architecture is not supported yet; please report the model's name.",
        )
    if states is not None and not torch.allclose(
        states[0, :2], states[1, :2], rtol=0.05, atol=0.05 * float(states.std())
    ):
        raise UserError(
            f"{type(model).__name__} reads text in both directions: what comes later changes what came before.",
            "personavec works with decoder-only chat models.",
        )
    return found[0]


def _trunk(modules: Mapping[str, nn.Module], owner_path: str) -> nn.Module:
    """The nearest module at or above the owner of the blocks that takes token ids."""
    parts = owner_path.split(".") if owner_path else []
    for end in range(len(parts), -1, -1):
        module = modules[".".join(parts[:end])]
        if hasattr(module, "get_input_embeddings"):
            return module
    return modules[owner_path]


@torch.no_grad()
def _chained(blocks: Blocks, width: int) -> Tensor | None:
    """What a chain of blocks gives out for two texts (2, 3, d) that differ in their last token; None: it is none."""
    order: list[nn.Module] = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        order.append(module)
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, Tensor):
            inputs.append(hidden)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor):
            return None
        outputs.append(hidden + 1)
        return (hidden + 1, *output[1:]) if isinstance(output, tuple) else hidden + 1

    embeddings = blocks.trunk.get_input_embeddings()  # type: ignore[operator]
    device = next(embeddings.parameters()).device
    training = blocks.trunk.training
    blocks.trunk.eval()
    try:
        with ExitStack() as stack:
            for block in blocks.layers:
                stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True, prepend=True).remove)
                stack.callback(block.register_forward_hook(leave, prepend=True).remove)
            blocks.trunk(input_ids=torch.tensor([[0, 1, 2], [0, 1, 3]], device=device), use_cache=False)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return None
    finally:
        blocks.trunk.train(training)
    if order == list(blocks.layers) and not all(bool(tensor.isfinite().all()) for tensor in outputs):
        raise NotFiniteError(blocks.trunk)
    chained = (
        order == list(blocks.layers)
        and len(inputs) == len(outputs) == len(blocks)
        and all(tensor.shape == (2, 3, width) for tensor in (*inputs, *outputs))
        and all(torch.equal(given, taken.to(given.device)) for given, taken in zip(outputs, inputs[1:], strict=False))
    )
    return outputs[-1].float() if chained else None


def _edit_output(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            edited = edit(output[0])
            return None if edited is None else (edited, *output[1:])
        return edit(output)

    return hook


def _edit_input(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        edited = edit(args[0] if args else kwargs["hidden_states"])
        if edited is None:
            return None
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    return hook
