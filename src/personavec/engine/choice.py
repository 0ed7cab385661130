"""Which engine runs the model, by its name."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from personavec.engine import Engine
from personavec.errors import UserError

log = logging.getLogger(__name__)


def open_engine(
    name: str,
    model: str | None = None,
    layers: Sequence[int] = (),
    *,
    device: str | None = None,
    dtype: str | None = None,
    ray: str | None = None,
    workers: int | None = None,
    adapter: str | None = None,
    thinking: bool = False,
) -> Engine:
    """An engine with its model loaded.

    Args:
        name: "transformers" or "vllm".
        model: See `load_model`.
        layers: That will be read; vLLM must know them beforehand.
        device, dtype: See `load_model`.
        ray: Address of a Ray cluster that the work is spread over, or "local"; None: this process works alone.
        workers: How many models the cluster runs, see `RayEngine`.
        adapter, thinking: See `load_model`.

    Raises:
        UserError: There is none of this name, what it needs is not installed, or it cannot run the model.
    """
    check_choice(name, device=device, ray=ray, workers=workers, adapter=adapter, thinking=thinking)
    from personavec.model.checkpoint import open_checkpoint

    if ray is not None:
        from personavec.engine.cluster import RayEngine

        if model is not None and Path(model).exists():
            model = str(Path(model).resolve())  # workers have a working directory of their own
        make = partial(open_engine, name, model, tuple(layers), device=device, dtype=dtype)
        return RayEngine(ray, make, open_checkpoint(model, dtype=dtype), workers)
    if name == "transformers":
        import torch

        from personavec.engine.transformers import TransformersEngine
        from personavec.model import load_model

        if device is None and (gpus := torch.cuda.device_count()) > 1:
            log.warning("Of %d GPUs one is used. All work with `ray` local, and with `engine` vllm.", gpus)
        return TransformersEngine(load_model(model, device=device, dtype=dtype, adapter=adapter, thinking=thinking))
    from personavec.engine.vllm import VllmEngine, device_type

    return VllmEngine(open_checkpoint(model, device=device_type(), dtype=dtype), layers)


def check_choice(
    name: str, *, device: str | None, ray: str | None, workers: int | None, adapter: str | None, thinking: bool
) -> None:
    """Refuse, before anything is loaded, what does not go together.

    Raises:
        UserError: It does not, or vLLM is not installed here.
    """
    if name not in ("transformers", "vllm"):
        raise UserError(f"`engine` {name!r} is not understood.", "Choose transformers or vllm.")
    if name == "vllm" and device is not None:
        raise UserError("`device` does not go with `engine` vllm.", "Choose GPUs with CUDA_VISIBLE_DEVICES.")
    if (adapter or thinking) and (name, ray) != ("transformers", None):
        raise UserError(
            f"{'`adapter`' if adapter else '`thinking`'} does not go with `engine` vllm or `ray`.",
            "Merge the adapter into the weights." if adapter else "Leave it out, or use `engine` transformers alone.",
        )
    if workers is not None and ray is None:
        raise UserError("`workers` needs a cluster.", "Name one with `ray` ADDRESS, or `ray` local.")
    if name == "vllm" and ray is None:
        from personavec.engine.vllm import device_type

        device_type()
