"""What a run must record so that somebody else can repeat it."""

import os
import platform
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from pydantic import JsonValue

from personavec.model import ChatModel
from personavec.model.checkpoint import Checkpoint
from personavec.results import Machine, ModelFacts, Provenance

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")


version = cache(metadata.version)  # which reads files


def provenance(model: ChatModel | Checkpoint, arguments: Mapping[str, JsonValue]) -> Provenance:
    """Versions, machine, model and arguments of a run that begins now."""
    return Provenance(
        personavec=version("personavec"),
        arguments=dict(arguments),
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        machine=machine(model.device),
        written=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        model=ModelFacts(
            id=model.id,
            weights=model.weights_hash,
            template=model.template.hash,
            n_layers=model.n_layers,
            hidden_size=model.hidden_size,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
        ),
    )


def identity(model: ChatModel | Checkpoint) -> dict[str, JsonValue]:
    """What decides a model's answers and readings; runs with another identity are other runs."""
    return {
        "model": model.id,
        "weights": model.weights_hash,
        "adapter": model.adapter_hash,
        "template": model.template.hash,
        "thinking": model.template.thinking,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def machine(device: torch.device) -> Machine:
    """Processor, cores and accelerator."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Machine(cpu=name, cores=len(os.sched_getaffinity(0)), device=accelerator)
