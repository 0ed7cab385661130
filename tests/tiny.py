"""Tiny chat models with random weights, a tokenizer made on the spot, and the plain way to read and to generate."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from personavec.info import VectorInfo
from personavec.model import ChatModel
from personavec.vector import PersonaVector

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLS = CHATML.replace("<|im_end|>", "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>", 1)
CORPUS = [
    "the model answers the question, and then the question answers the model",
    "hello there\n\nhow are you today? I am well\n\n",
    *4 * ["\n\n"],
    "user assistant system <|im_start|> <think> 0123456789",
]


@cache
def _bytes_with_merges() -> str:
    """A byte-level BPE with a few dozen merges, so that where text is cut changes its tokens."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    built.train_from_iterator(CORPUS, trainer)
    return built.to_str()


def tokenizer(
    chat_template: str | None = CHATML, *, added: Sequence[str] = (), special: Sequence[str] = (), **options: Any
) -> Any:
    """About 300 tokens; `added` tokens are not special, as reasoning models' `<think>` is not."""
    built = Tokenizer.from_str(_bytes_with_merges())
    built.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>", *special])
    built.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    options = {"pad_token": "<|pad|>", "eos_token": "<|im_end|>", **options}
    made = PreTrainedTokenizerFast(tokenizer_object=built, **options)
    made.chat_template = chat_template
    return made


def causal_model(config: PreTrainedConfig, seed: int = 0, scale: float = 0.15) -> Any:
    """Random weights, large enough that every block and every token matters."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0, scale if "embed" not in name else 1.0)
    return model


def qwen2(**options: Any) -> Qwen2Config:
    return Qwen2Config(**{**SIZES, **options})


SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


def chat_model(config: PreTrainedConfig | None = None, seed: int = 0, **options: Any) -> ChatModel:
    return ChatModel(causal_model(config or qwen2(), seed), tokenizer(**options), "tiny")


JUDGE: dict[str, Any] = {  # what a vector's file holds of its contrast judge
    "name": "contrast",
    "auc": {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 20},
    "threshold": 50.0,
    "state": {
        "calibration": {"middle": 0.0, "slope": 4.0, "pairs": 3.0},
        "coherence": {"worst_mean": -6.0, "worst_deviation": 1.0, "repetition_mean": 0.1},
    },
}


def random_ids(count: int, seed: int, vocabulary: int = 256) -> list[int]:
    """Ordinary tokens, none of which ends a turn."""
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def vector(
    model: ChatModel,
    *,
    seed: int = 0,
    layer: int = 2,
    scale: float = 1.0,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> PersonaVector:
    """A random persona vector of a model; `info` is what its file would hold."""
    generator = torch.Generator().manual_seed(seed)
    rows = (model.n_layers + 1, model.hidden_size)
    identity: dict[str, Any] = {
        "id": model.id,
        "weights": model.weights_hash,
        "template": model.template.hash,
        "n_layers": model.n_layers,
        "hidden_size": model.hidden_size,
    }
    directions = scale * torch.randn(rows, generator=generator)
    return PersonaVector("kind", directions, layer, identity, info=VectorInfo.parse(info or {}), **options)


def plain_states(model: Any, blocks: Any, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One full forward of one sample with a hook on every block: states (layers + 1, tokens, d), logits (tokens, v)."""
    states: list[Tensor] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([state[0].float() for state in states]), logits[0].float()


def plain_greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy decoding without a cache: a full forward for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def editing(block: nn.Module, edit: Callable[[Tensor], Tensor]) -> Any:
    """Our own plain hook: what a block gives out is edited. Returns the handle."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    return block.register_forward_hook(hook)
