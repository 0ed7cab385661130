"""Tiny models whose blocks are edited by hand, to compare with; batches with labels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

import tiny
from personavec.vector import PersonaVector

VOCABULARY = 320


def model(**options: Any) -> Any:
    """A tiny model in training mode."""
    return tiny.causal_model(tiny.qwen2(**options)).train()


class Block(nn.Module):
    """Adds a function of every token to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        change: Tensor = self.down_proj(self.up_proj(hidden).tanh())
        return hidden + change


class Trunk(nn.Module):
    """Embeddings and one block."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config.hidden_size)])

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        hidden = self.embed_tokens(input_ids)
        for block in self.layers:
            hidden = block(hidden)
        return BaseModelOutput(last_hidden_state=hidden)


class Least(PreTrainedModel):
    """The least that has a block: it is traced in a tenth of the time of a Qwen2. In training mode."""

    def __init__(self) -> None:
        config = tiny.qwen2(num_hidden_layers=1)
        super().__init__(config)
        torch.manual_seed(0)
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        logits = self.lm_head(self.model(input_ids).last_hidden_state)
        if labels is None:
            return CausalLMOutput(logits=logits)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def vector(seed: int = 0, scale: float = 1.0, **options: Any) -> PersonaVector:
    """A persona vector of that model."""
    chat = tiny.chat_model(tiny.qwen2(**options))
    return tiny.vector(chat, seed=seed, layer=min(2, chat.n_layers), scale=scale)


def batch(seed: int = 0, rows: int = 2, tokens: int = 7, prompt: int = 3) -> dict[str, Tensor]:
    """Random tokens; those of the prompt, and two at the end of the second half of the rows, bear no loss."""
    ids = torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[rows // 2 :, tokens - 2 :] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :prompt] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@contextmanager
def replaced(block: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What the block computes goes through `edit`: its forward is another function, no hook."""
    plain = block.forward
    block.forward = lambda *args, **kwargs: edit(plain(*args, **kwargs))
    try:
        yield
    finally:
        del block.forward


def loss_and_gradients(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward and backward."""
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]], tolerance: float = 1e-5) -> None:
    """Equal losses and equal gradients of the same parameters."""
    torch.testing.assert_close(a[0], b[0], rtol=tolerance, atol=tolerance)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        scale = b[1][name].abs().max()
        torch.testing.assert_close(a[1][name], b[1][name], rtol=tolerance, atol=float(tolerance * (scale + 1e-3)))


def different(a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert abs(float(a[0] - b[0])) > 1e-3
