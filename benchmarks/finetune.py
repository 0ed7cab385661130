"""What preventative steering costs in a training step: time and memory.

    python benchmarks/finetune.py [--model NAME] [--tokens 128] [--batch 2] [--rounds 20] [--write]

The ways take turns step by step on the same adapter and the same batches: forward, backward and optimiser step of a LoRA
adapter on all projections, in a loop without a trainer, so that nothing else is timed. Peak memory is of a GPU's allocator;
on a CPU it is the most that tensors made during a step hold at once, by PyTorch's profiler.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from common import answer_pairs, arguments, middle, now, publish, side_by_side, times
from personavec import ChatModel, PersonaVector, Training, load_model
from personavec.finetune import Prevention
from personavec.finetune.adapter import fresh_adapter

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "steer, one layer": {"coefficient": 1.0},
    "steer, all layers": {"coefficient": 1.0, "layers": "all"},
    "steer, response only": {"coefficient": 1.0, "positions": "response"},
    "ablate, all layers": {"method": "ablate", "layers": "all"},
    "regularise": {"method": "regularise", "coefficient": 0.1},
}


def random_vector(model: ChatModel) -> PersonaVector:
    """Of the length of a tenth of the embeddings' norm: neither its direction nor its length changes the time."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(model.n_layers + 1, model.hidden_size, generator=generator)
    return PersonaVector("random", rows * 0.1, model.n_layers // 2, {"id": model.id})


def batches(model: ChatModel, rows: int, tokens: int, count: int) -> list[dict[str, Tensor]]:
    """Batches of full length; the second half of every row bears loss."""
    text = [token for prompt, answers in answer_pairs(model, 400) for token in (*prompt, *answers[0])]
    made = []
    for at in range(count):
        start = at * rows * tokens % (len(text) - rows * tokens)
        ids = torch.tensor(text[start : start + rows * tokens], device=model.device).view(rows, tokens)
        labels = ids.clone()
        labels[:, : tokens // 2] = -100
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def peak(step: Callable[[int], Any], device: torch.device) -> int:
    """Bytes that a step holds at once beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(0)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(0)
    held = most = 0
    changes = (event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    model = load_model(options.model)
    vector = random_vector(model)
    data = batches(model, options.batch, options.tokens, options.rounds + 2)
    with fresh_adapter(model, Training(method="none")) as adapter:
        adapter.train()
        optimiser = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], lr=1e-5)

        def step(turn: int, given: dict[str, Any]) -> float:
            options = {key: value for key, value in given.items() if key != "coefficient"}
            prevention = Prevention(vector, given.get("coefficient"), **options) if given else None
            if prevention is not None:
                prevention.attach(adapter)  # once in a training: not timed
            begun = now()
            loss = adapter(**data[turn], use_cache=False).loss
            if prevention is not None:
                loss = loss + prevention.penalty()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            seconds = now() - begun
            if prevention is not None:
                if not prevention.fired:
                    raise SystemExit("A prevention did not act.")
                prevention.detach()
            return seconds

        ways = {name: partial(step, given=given) for name, given in WAYS.items()}
        side_by_side(ways, 2)
        seconds = side_by_side(ways, options.rounds)
        memory = {name: peak(step, model.device) for name, step in ways.items()}
    rows = []
    for name in WAYS:
        extra = times(seconds[name], seconds["plain"])
        percent = [100 * (value - 1) for value in (extra.value, extra.low, extra.high)]
        rows.append(
            [
                name,
                middle([1000 * taken for taken in seconds[name]]).show(".1f"),
                "" if name == "plain" else f"{percent[0]:+.1f} [{percent[1]:+.1f}, {percent[2]:+.1f}]",
                f"{memory[name] / 1e6:.1f}",
                "" if name == "plain" else f"{100 * (memory[name] / memory['plain'] - 1):+.2f}",
                str(extra.n),
            ]
        )
    notes = [
        f"{model.id}, {str(model.dtype).removeprefix('torch.')}; rsLoRA of rank 32 on all projections, AdamW; batches of "
        f"{options.batch} times {options.tokens} tokens, half of which bear loss.",
        "regularise runs a second forward, without the adapter, up to its layer.",
    ]
    publish(
        "finetune",
        "A training step with and without prevention",
        ["way", "ms per step", "% more than plain", "peak MB", "% more", "steps"],
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
