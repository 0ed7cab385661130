"""The other libraries, in a process and an environment of their own (`readout.py --peers` starts it).

Their pins exclude transformers 5 and, for repeng, NumPy 2:

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch "numpy<2" steering-vectors==0.12.2 repeng==0.4.0

Protocol: one JSON object a line. In: {"model": folder}, then {"way", "layer", "ids", "spans", "texts"}.
Out: {"versions"}, then {"seconds", "readings"}.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from repeng.extract import batched_get_hiddens
from steering_vectors import record_activations
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def load(folder: str) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "rope_parameters", None):  # transformers 5 writes it there; 4 looks for it here
        config.rope_theta = config.rope_parameters["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.bfloat16)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<|endoftext|>")
    return model.eval(), tokenizer


@torch.inference_mode()
def with_steering_vectors(model: Any, job: dict[str, Any], batch: int) -> list[list[float]]:
    """Its recorder around padded batches; the mean over the response is ours to take: it has none."""
    readings = []
    for start in range(0, len(job["ids"]), batch):
        rows, spans = job["ids"][start : start + batch], job["spans"][start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with record_activations(model, layer_nums=[job["layer"] - 1]) as recorded:
            model(input_ids=ids, attention_mask=mask)
        hidden = recorded[job["layer"] - 1][0]
        readings += [hidden[i, low:high].float().mean(0).tolist() for i, (low, high) in enumerate(spans)]
    return readings


def with_repeng(model: Any, tokenizer: Any, job: dict[str, Any], batch: int) -> list[list[float]]:
    """Its reader as it stands: hidden states of the last token of each text."""
    layer = job["layer"] - 1
    found: list[list[float]] = batched_get_hiddens(model, tokenizer, job["texts"], [layer], batch)[layer].tolist()
    return found


def main() -> None:
    model, tokenizer = load(json.loads(sys.stdin.readline())["model"])
    answer(
        {"versions": {name: version(name) for name in ("steering-vectors", "repeng", "transformers", "numpy", "torch")}}
    )
    for line in sys.stdin:
        job = json.loads(line)
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # as in common.now
        start = clock()
        if job["way"] == "repeng":
            readings = with_repeng(model, tokenizer, job, job["batch"])
        else:
            readings = with_steering_vectors(model, job, job["batch"])
        answer({"seconds": clock() - start, "readings": readings})


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
