"""What two processes do together, and what one does to compare with; started by test_processes.py."""

import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import by_hand
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from test_callback import moved, samples, trainer

import tiny
from personavec.finetune import PreventativeSteering, Prevention, ShiftMonitor
from personavec.finetune.prompt_shifts import last_projections
from personavec.finetune.wrapping import blocks_of


def world() -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def lora() -> Any:
    torch.manual_seed(1)
    return moved(get_peft_model(by_hand.model(), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear")))


def by_trainer(folder: Path, method: Any) -> dict[str, Any]:
    """DDP in a trainer: as many samples in a step whatever the number of processes."""
    torch.manual_seed(0)
    prompts = ["hello", "how are you"]
    prevention = (
        PreventativeSteering(by_hand.vector(), "auto", prompts=prompts)
        if method == "auto"
        else PreventativeSteering(by_hand.vector(), 1.0, method=method, layers="all", positions="response")
    )
    monitor = ShiftMonitor(by_hand.vector(), prompts, every=1)
    run = trainer(
        lora(),
        folder,
        [prevention, monitor],
        per_device_train_batch_size=4 // world(),
        learning_rate=1e-3,
        ddp_find_unused_parameters=False,
    )
    run.processing_class = run.callback_handler.processing_class = tiny.tokenizer()
    run.train()
    assert type(run.model_wrapped).__name__ == ("DistributedDataParallel" if world() > 1 else "PeftModel")
    return {
        "loss": [entry["loss"] for entry in run.state.log_history if "loss" in entry],
        "shift": [entry["kind"] for entry in monitor.history],
        "coefficients": [point.coefficient for found in prevention.automatic.values() for point in found.points],
        "weights": {n: p.double().sum().item() for n, p in run.model.named_parameters() if p.requires_grad},
    }


def sharded(model: Any) -> Any:
    """The model as accelerate shards it; `Accelerator.prepare` itself falls back to DDP on a CPU."""
    if world() == 1:
        return model
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, mixed_precision="no", device=torch.device("cpu"), is_main_process=False)
    return fsdp2_prepare_model(accelerator, model)


def by_loop(method: Any) -> dict[str, Any]:
    """FSDP2 in a loop by hand; put on before and after the weights are sharded."""
    found = {}
    batch = {key: torch.stack([one[key] for one in samples(4)]) for key in samples(1)[0]}
    rank = torch.distributed.get_rank() if world() > 1 else 0
    mine = {key: value[rank * 4 // world() : (rank + 1) * 4 // world()] for key, value in batch.items()}
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    for when in ("before", "after"):
        model = lora() if method == "regularise" else by_hand.model()
        prevention = Prevention(by_hand.vector(), 1.0, method=method, layers="all", positions="response")
        if when == "before":
            prevention.attach(model)
            model = sharded(model)
        else:
            model = sharded(model)
            prevention.check(model, other_weights=True)
            prevention.attach(model)
        assert any(type(p).__name__ == "DTensor" for p in model.parameters()) == (world() > 1)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(2):
            loss = model(**mine, num_items_in_batch=tokens, use_cache=False).loss + prevention.penalty(tokens)
            total = loss.detach().clone()
            (loss * world()).backward()
            if world() > 1:
                torch.distributed.all_reduce(total)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            losses += [float(total), float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)]
            optimizer.step()
            optimizer.zero_grad()
        prompts = [[tiny.random_ids(5, 1), tiny.random_ids(8, 2)]]
        found[when] = losses + last_projections(model, blocks_of(model), [by_hand.vector()], prompts)[0].tolist()
        prevention.detach()
    return found


def learn(out: Path, rank: int, count: int) -> None:
    """In a process of its own, one of `count`: the first writes down what was learnt."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "1"
    if count > 1:
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)  # as torchrun tells its processes
        os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(count)
        torch.distributed.init_process_group("gloo", f"file://{out / 'meeting'}", rank=rank, world_size=count)
    methods = ("steer", "regularise")
    ddp = {method: by_trainer(out, method) for method in (*methods, "auto")}
    result = {"ddp": ddp, "fsdp2": {m: by_loop(m) for m in methods}}
    if rank == 0:
        (out / f"{count}.json").write_text(json.dumps(result))
    if count > 1:
        torch.distributed.destroy_process_group()
