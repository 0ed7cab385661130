"""Rollouts of mixed lengths: ours against plain `model.generate` in fixed batches.

python benchmarks/generate.py [--requests 96] [--batch 32] [--write]
"""

import random
from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from common import answer_pairs, arguments, middle, publish, side_by_side, times
from personavec import ChatModel, Request, load_model

ROUNDS = 2
SHORTEST, LONGEST = 8, 96


def requests(model: ChatModel, count: int, seed: int) -> list[Request]:
    """Distinct prompts in a random order, lengths spread evenly between the bounds, known to neither way beforehand."""
    draw = random.Random(seed)
    prompts = [prompt for prompt, _ in answer_pairs(model, count, seed)]
    return [Request(prompt, draw.randint(SHORTEST, LONGEST), 1.0, i) for i, prompt in enumerate(prompts)]


def ours(model: ChatModel, asked: Sequence[Request]) -> int:
    """Useful tokens."""
    return sum(len(response.ids) for response in model.generate(asked))


@torch.inference_mode()
def plainly(model: ChatModel, asked: Sequence[Request], size: int) -> int:
    """Batches in the given order, padded on the left, until the longest of each is done."""
    useful = 0
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        width = max(len(request.prompt_ids) for request in batch)
        padding = [width - len(request.prompt_ids) for request in batch]
        output = model.model.generate(
            input_ids=torch.tensor(
                [[0] * n + list(r.prompt_ids) for n, r in zip(padding, batch, strict=True)], device=model.device
            ),
            attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in padding], device=model.device),
            max_new_tokens=max(request.max_new_tokens for request in batch),
        )
        useful += sum(len(row[: r.max_new_tokens]) for row, r in zip(output[:, width:], batch, strict=True))
    return useful


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="of the plain way")
    options = parser.parse_args()
    model = load_model(options.model)
    assert model.packs
    # No end-of-turn token: lengths are given, so that both ways write the same numbers of tokens.
    model.stop_ids = frozenset()
    model.model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0
    )
    rounds = [requests(model, options.requests, seed) for seed in range(ROUNDS)]
    useful = [sum(request.max_new_tokens for request in asked) for asked in rounds]
    ours(model, rounds[0][:4])
    plainly(model, rounds[0][:4], options.batch)

    def check(written: int, turn: int) -> None:
        if written != useful[turn]:
            raise SystemExit(f"{written} tokens instead of {useful[turn]}: not a fair comparison.")

    seconds = side_by_side(
        {
            "ours": lambda turn: check(ours(model, rounds[turn]), turn),
            "plain": lambda turn: check(plainly(model, rounds[turn], options.batch), turn),
        },
        ROUNDS,
    )
    labels = {
        "ours": f"`ChatModel.generate`, {model.places} places",
        "plain": f"plain `model.generate`, batches of {options.batch}, left padding",
    }
    rows = [
        [
            labels[name],
            middle([n / taken for n, taken in zip(useful, seconds[name], strict=True)]).show(".0f"),
            times(seconds[name], seconds["ours"]).show(),
        ]
        for name in ("ours", "plain")
    ]
    notes = [
        f"{model.id}, {str(model.dtype).removeprefix('torch.')}; {ROUNDS} rounds of {options.requests} requests with distinct "
        f"prompts, {SHORTEST} to {LONGEST} new tokens each (evenly spread, the same for both ways), temperature 1, no "
        f"top-k or top-p; {sum(useful)} useful tokens each way.",
        f"With {ROUNDS} rounds the brackets are the lowest and the highest round, not an interval.",
    ]
    publish(
        "generate",
        "Generation: useful tokens per second",
        ["way", "tokens/s", "time / ours"],
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
