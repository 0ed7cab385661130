"""The engine for GPUs and long runs: vLLM, with readings pooled where the model runs."""

import os
import time
from collections.abc import Sequence, Set
from importlib import import_module
from itertools import count
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from personavec.engine import Engine
from personavec.errors import UserError
from personavec.model import Conversation
from personavec.model.checkpoint import Checkpoint
from personavec.provenance import identity

WINDOW = 2048  # requests handed over at once
PATIENCE = 60.0  # seconds to wait for readings of requests that have ended

# vLLM reads these when it is first imported. It would report its use over the network, print its log on standard
# output, and on a CPU take most of the main memory for keys and values (here GiB).
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_KVCACHE_SPACE": "4",
}


def device_type() -> str:
    """Where vLLM runs models on this machine: "cuda", "cpu" or another.

    Raises:
        UserError: vLLM is not there or cannot be used.
    """
    kind: str = _vllm("vllm.platforms").current_platform.device_type
    return kind


class VllmEngine(Engine):
    """Reads and answers with vLLM.

    Args:
        model: What vLLM loads.
        layers: The layers that can be read: vLLM must know them when it starts.
        tensor_parallel: How many GPUs share the model; None: as many of those visible as divide its attention heads.
        options: Further arguments of `vllm.LLM`.

    Raises:
        UserError: vLLM is not there, has no room for the model or does not know it, or a layer does not exist.
    """

    width = 16  # a screening answers 64 samples a batch, and vLLM works on a thousand at a time

    def __init__(
        self, model: Checkpoint, layers: Sequence[int], *, tensor_parallel: int | None = None, **options: Any
    ) -> None:
        vllm = _vllm("vllm")
        connector = _vllm("personavec.engine.vllm_connector")
        self.layers = sorted(set(layers))
        if not self.layers or self.layers[0] < 0 or self.layers[-1] > model.n_layers:
            raise UserError(f"Layers {self.layers} cannot be read.", f"Choose from 0 to {model.n_layers}.")
        self.model, self.template = model, model.template
        self.identity = {**identity(model), "engine": "vllm"}  # own answers can differ between engines by rounding
        self.version = f"vllm {vllm.__version__}"
        self._parameters, self._nudge, self._request = vllm.SamplingParams, connector.nudge, connector.request
        heads = model.config.get_text_config().num_attention_heads
        shards = tensor_parallel or max(n for n in range(1, _visible() + 1) if heads % n == 0)
        try:
            self._llm = vllm.LLM(
                **{
                    "model": str(model.folder),
                    "dtype": str(model.dtype).removeprefix("torch."),
                    "max_model_len": -1,  # the model's own, or what there is memory for
                    "tensor_parallel_size": shards,
                    "skip_tokenizer_init": True,
                    "generation_config": "vllm",
                    "enable_prefix_caching": True,
                    "enable_chunked_prefill": True,
                    "disable_log_stats": True,
                    "use_tqdm_on_load": False,
                    **connector.options(self.layers),
                    **options,
                }
            )
        except Exception as error:  # of any of its parts
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(
                f"vLLM cannot run the model {model.id!r}: {reason}",
                "Set VLLM_LOGGING_LEVEL=INFO to see what it does, or leave `engine` out.",
            ) from error
        self._keys = count()  # never used twice: what an interrupted read left behind is not taken for another's
        # vLLM always draws a token, and a text that is only read needs room for it too.
        self.context_length = int(self._llm.llm_engine.model_config.max_model_len) - 1
        self._check()

    def read(
        self,
        conversations: Sequence[Conversation],
        layers: Sequence[int],
        directions: Tensor | None = None,
    ) -> Tensor:
        """See `Engine.read`.

        Raises:
            UserError: A layer that vLLM was not started for.
        """
        if missing := sorted(set(layers) - set(self.layers)):
            raise UserError(
                f"Layer {missing[0]} cannot be read: vLLM was started for {', '.join(map(str, self.layers))}.",
                "Name every layer when the engine is made.",
            )
        offsets = [0]
        for conversation in conversations:
            offsets.append(offsets[-1] + len(conversation.spans))
        width = self.model.hidden_size if directions is None else directions.shape[1]
        means = torch.full((offsets[-1], len(layers), width), torch.nan)
        table = None if directions is None else save({"directions": directions.float().contiguous()})
        columns = [self.layers.index(layer) for layer in layers]
        self._llm.collective_rpc("personavec_prepare", args=(columns, table))
        for start in range(0, len(conversations), WINDOW):
            window = range(start, min(start + WINDOW, len(conversations)))
            prompts, parameters, asked = [], [], {}
            for i in window:
                conversation = conversations[i]
                end = max((e for s, e in conversation.spans if s < e), default=0)
                if end == 0:
                    continue
                prompts.append({"prompt_token_ids": list(conversation.ids[:end])})  # nothing looks ahead
                key = str(next(self._keys))
                asked[key] = i
                extra = self._request(key, conversation.spans)
                parameters.append(self._parameters(max_tokens=1, temperature=0.0, detokenize=False, extra_args=extra))
            if prompts:
                self._llm.generate(prompts, parameters, use_tqdm=False)
            for key, rows in self._collect(asked.keys()).items():
                means[offsets[asked[key]] : offsets[asked[key] + 1]] = rows
        return means

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """See `Engine.answer`."""
        stops = self.model.stop_ids
        parameters = self._parameters(
            max_tokens=max_new_tokens, temperature=0.0, detokenize=False, stop_token_ids=sorted(stops)
        )
        answers: list[list[int]] = []
        for start in range(0, len(prompts), WINDOW):
            window = [{"prompt_token_ids": list(prompt)} for prompt in prompts[start : start + WINDOW]]
            for given in self._llm.generate(window, parameters, use_tqdm=False):
                ids = list(given.outputs[0].token_ids)
                end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
                answers.append(ids[:end])
        return answers

    def close(self) -> None:
        """End vLLM's processes and give its memory back."""
        self._llm.llm_engine.engine_core.shutdown()

    def _collect(self, keys: Set[str]) -> dict[str, Tensor]:
        """The readings of requests that have ended: they come a step later."""
        found: dict[str, Tensor] = {}
        last = time.monotonic()
        while len(found) < len(keys):
            blobs = self._llm.collective_rpc("personavec_take")
            fresh = {key: rows for blob in blobs for key, rows in load(blob).items() if key in keys}
            found |= fresh
            if fresh:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE:
                raise RuntimeError(f"{self.version} gave back {len(found)} of {len(keys)} readings")
            else:
                self._nudge(self._llm)
                time.sleep(0.002)
        return found

    def _check(self) -> None:
        """Read a short text in two ways, the second time from the prefix cache; all must agree.

        Raises:
            UserError: They do not: this vLLM keeps states otherwise than expected.
        """
        length = min(300, self.context_length)  # more than one page
        ids = [token % self.model.config.get_text_config().vocab_size for token in range(5, 5 + length)]
        tokens = Conversation(ids, [(t, t + 1) for t in range(length)])
        single = self.read([tokens], self.layers)
        whole, again = self.read([Conversation(ids, [(0, length)])] * 2, self.layers)
        size = single.norm(dim=-1).mean(0)
        agree = all(bool(((other - single.mean(0)).norm(dim=-1) <= 0.02 * size).all()) for other in (whole, again))
        different = bool(((single[1:] - single[:-1]).norm(dim=-1) > 1e-4 * size).all())
        if not (bool(torch.isfinite(single).all()) and agree and different):
            self.close()
            raise UserError(
                f"{self.version} does not give back the states of the model {self.model.id!r} as it should.",
                "Leave `engine` out, or try another version of vLLM; docs/engines.md says which were tested.",
            )


def _visible() -> int:
    """GPUs that may be used; 1 where there are none."""
    return max(torch.cuda.device_count(), 1)


def _vllm(name: str) -> Any:
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be used: {error}.",
            "Install it in an environment of its own: pip install 'personavec[vllm]'; docs/engines.md says more.",
        ) from error
