"""Every family of decoders that is supported, tiny."""

from collections.abc import Callable
from typing import Any

import transformers as tf

from personavec.model import ChatModel
from tiny import SIZES, chat_model

WINDOW = 6  # shorter than the prompts below

EXPERTS: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
GPT2: dict[str, Any] = {"vocab_size": 320, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
HEAD = {"head_dim": 8}
LINEAR = "linear_attention"
STATES: dict[str, Any] = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}
RECURRENT: dict[str, Any] = {
    key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "bos_token_id", "eos_token_id")
}

FAMILIES: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**SIZES),
    "qwen2": lambda: tf.Qwen2Config(**SIZES),
    "qwen2-window": lambda: tf.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: tf.Qwen3Config(**SIZES, **HEAD),
    "qwen3-moe": lambda: tf.Qwen3MoeConfig(**SIZES, **HEAD, **EXPERTS, decoder_sparse_step=1),
    "mistral": lambda: tf.MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": lambda: tf.MistralConfig(**SIZES, sliding_window=WINDOW),
    "mixtral": lambda: tf.MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None),
    "gemma2": lambda: tf.Gemma2Config(**SIZES, **HEAD, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 4}, **HEAD, sliding_window=WINDOW, sliding_window_pattern=2
    ),
    "phi": lambda: tf.PhiConfig(**SIZES, partial_rotary_factor=0.5),
    "phi3": lambda: tf.Phi3Config(**SIZES, sliding_window=None),
    "phi3-window": lambda: tf.Phi3Config(**SIZES, sliding_window=WINDOW),
    "gpt-neox": lambda: tf.GPTNeoXConfig(**SIZES, rotary_pct=0.5),
    "gpt2": lambda: tf.GPT2Config(**GPT2, bos_token_id=None, eos_token_id=None),
    "olmo2": lambda: tf.Olmo2Config(**SIZES),
    "granite": lambda: tf.GraniteConfig(**SIZES, logits_scaling=3.0, residual_multiplier=0.5),
    "cohere": lambda: tf.CohereConfig(**SIZES, logit_scale=0.25),
    "gemma4": lambda: tf.Gemma4TextConfig(
        **{**SIZES, "num_hidden_layers": 4, "tie_word_embeddings": True},
        **HEAD,
        global_head_dim=16,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=320,
    ),
    "minimax": lambda: tf.MiniMaxConfig(
        **SIZES, **HEAD, num_local_experts=4, layer_types=["full_attention", LINEAR, "full_attention"]
    ),
    "minimax-linear-first": lambda: tf.MiniMaxConfig(
        **SIZES, **HEAD, num_local_experts=4, layer_types=[LINEAR, "full_attention", LINEAR]
    ),
    "qwen3-next": lambda: tf.Qwen3NextConfig(
        **SIZES,
        **HEAD,
        **EXPERTS,
        shared_expert_intermediate_size=24,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=[LINEAR, "full_attention", LINEAR],
    ),
    "mamba": lambda: tf.MambaConfig(**RECURRENT, state_size=8),
    "mamba2": lambda: tf.Mamba2Config(**RECURRENT, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=16),
    "falcon-h1": lambda: tf.FalconH1Config(
        **SIZES, **HEAD, **STATES, mamba_d_ssm=64, lm_head_multiplier=0.5, embedding_multiplier=2.0
    ),
    "bamba": lambda: tf.BambaConfig(**SIZES, **STATES, attn_layer_indices=[1]),
    "jamba": lambda: tf.JambaConfig(
        **SIZES, num_experts=4, mamba_d_state=8, mamba_dt_rank=4, attn_layer_period=2, attn_layer_offset=1
    ),
    "lfm2": lambda: tf.Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv"]),
    "recurrent-gemma": lambda: tf.RecurrentGemmaConfig(
        **SIZES, head_dim=8, lru_width=32, attention_window_size=WINDOW, logits_soft_cap=5.0
    ),
    "rwkv": lambda: tf.RwkvConfig(**RECURRENT, attention_hidden_size=32, intermediate_size=48),
    "falcon-alibi": lambda: tf.FalconConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=True, eos_token_id=None
    ),
}

_MODELS: dict[str, ChatModel] = {}


def family_model(name: str) -> ChatModel:
    """Of a family; made once, not to be changed."""
    if name not in _MODELS:
        _MODELS[name] = chat_model(FAMILIES[name]())
    return _MODELS[name]
