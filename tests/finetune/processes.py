"""What two processes do together; started by test_processes.py through torchrun, or as one process to compare with."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import by_hand
import torch
from peft import LoraConfig, get_peft_model
from test_callback import moved, samples, trainer

import tiny
from personavec.finetune import PreventativeSteering, Prevention, ShiftMonitor, preventing

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def lora() -> Any:
    torch.manual_seed(1)
    return moved(get_peft_model(by_hand.model(), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear")))


def by_trainer(folder: Path, method: Any) -> dict[str, Any]:
    """DDP in a trainer: as many samples in a step whatever the number of processes."""
    torch.manual_seed(0)
    prevention = PreventativeSteering(by_hand.vector(), 1.0, method=method, layers="all", positions="response")
    monitor = ShiftMonitor(by_hand.vector(), ["hello", "how are you"], every=1)
    run = trainer(
        lora(),
        folder,
        [prevention, monitor],
        per_device_train_batch_size=4 // WORLD,
        learning_rate=1e-3,
        ddp_find_unused_parameters=False,
    )
    run.processing_class = run.callback_handler.processing_class = tiny.tokenizer()
    run.train()
    assert type(run.model_wrapped).__name__ == ("DistributedDataParallel" if WORLD > 1 else "PeftModel")
    return {
        "loss": [entry["loss"] for entry in run.state.log_history if "loss" in entry],
        "shift": [entry["kind"] for entry in monitor.history],
        "weights": {n: p.double().sum().item() for n, p in run.model.named_parameters() if p.requires_grad},
    }


def by_accelerate(method: Any) -> dict[str, Any]:
    """FSDP2 through accelerate in a loop by hand; put on before and after the weights are sharded."""
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
        activation_checkpointing=False,
        reshard_after_forward=True,
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin if WORLD > 1 else None)
    found = {}
    batch = {key: torch.stack([one[key] for one in samples(4)]) for key in samples(1)[0]}
    mine = {key: value[RANK * 4 // WORLD : (RANK + 1) * 4 // WORLD] for key, value in batch.items()}
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    for when in ("before", "after"):
        model = lora() if method == "regularise" else by_hand.model()
        options = {"method": method, "layers": "all", "positions": "response"}
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        if when == "before":
            prevention = Prevention(by_hand.vector(), 1.0, **options)
            prevention.attach(model)
            model, optimizer = accelerator.prepare(model, optimizer)
        else:
            model, optimizer = accelerator.prepare(model, optimizer)
            context = preventing(model, by_hand.vector(), 1.0, other_weights=True, **options)
            prevention = context.__enter__()
        sharded = any(type(p).__name__ == "DTensor" for p in model.parameters())
        assert sharded == (WORLD > 1)
        losses = []
        for _ in range(2):
            loss = model(**mine, num_items_in_batch=tokens).loss + prevention.penalty(tokens)
            total = loss.detach().clone()
            accelerator.backward(loss * WORLD)
            if WORLD > 1:
                torch.distributed.all_reduce(total)
            losses.append(float(total))
            norm = accelerator.clip_grad_norm_(model.parameters(), 1e9)
            losses.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            optimizer.step()
            optimizer.zero_grad()
        found[when] = losses
        prevention.detach()
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    result: dict[str, Any] = {}
    for kind in sys.argv[2].split(","):
        for chosen in ("steer", "regularise"):
            result[f"{kind} {chosen}"] = by_trainer(out, chosen) if kind == "ddp" else by_accelerate(chosen)
    if RANK == 0:
        (out / f"{WORLD}.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
