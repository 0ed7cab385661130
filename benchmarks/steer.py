"""Decoding with a vector on, off, and with monitoring.

    python benchmarks/steer.py [--write]

The three ways take turns token by token, each with a cache of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from common import answer_pairs, arguments, middle, now, publish, side_by_side, times
from personavec import ChatModel, load_model
from personavec.model.edits import Intervention, SteeringPlan
from personavec.operations import ADD

STEPS = {1: 60, 16: 40}
PROMPT = 40

Hooks = dict[int, Callable[[Tensor], Tensor | None]]


class Decoder:
    """A greedy decoding loop that can be run one token at a time.

    Args:
        prompts: Prompts of one length.
        hooks: What the residual stream goes through.
    """

    def __init__(self, model: ChatModel, prompts: Sequence[Sequence[int]], hooks: Hooks) -> None:
        self.model, self.hooks = model, hooks
        self.cache = DynamicCache(config=model.model.config)
        self.next = torch.tensor(prompts, device=model.device)
        self.step()

    @torch.inference_mode()
    def step(self) -> float:
        """Seconds of one token for every row."""
        start = now()
        with self.model.blocks.watching(self.hooks, first=True):
            hidden = self.model.blocks.trunk(input_ids=self.next, past_key_values=self.cache, use_cache=True)
        self.next = self.model.head(hidden.last_hidden_state[:, -1]).argmax(-1, keepdim=True)
        return now() - start


def main() -> None:
    options = arguments(__doc__ or "", model=True).parse_args()
    model = load_model(options.model)
    layer = model.n_layers // 2
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=generator), dim=0).to(model.device)
    rows = []
    for batch, steps in STEPS.items():
        prompts = [prompt[:PROMPT] for prompt, _ in answer_pairs(model, batch)]
        steering = SteeringPlan([[Intervention(ADD, layer, (1 + i / batch) * unit)] for i in range(batch)])
        readings: list[Tensor] = []

        def monitor(hidden: Tensor, readings: list[Tensor] = readings) -> None:
            readings.append(hidden[:, -1].float() @ unit)

        hooks: dict[str, Hooks] = {"off": {}, "steered": dict(steering.edits()), "monitored": {layer: monitor}}
        decoders = {name: Decoder(model, prompts, hook) for name, hook in hooks.items()}
        ways = {name: (lambda turn, decoder=decoder: decoder.step()) for name, decoder in decoders.items()}
        side_by_side(ways, 3)
        seconds = side_by_side(ways, steps)
        if steering.fired != steps + 4 or len(readings) != steps + 4:
            raise SystemExit("The hooks did not run in every forward.")
        for name in hooks:
            extra = times(seconds[name], seconds["off"])
            rows.append(
                [
                    str(batch),
                    name,
                    middle([1000 * taken for taken in seconds[name]]).show(".1f"),
                    ""
                    if name == "off"
                    else f"{100 * (extra.value - 1):+.1f} "
                    f"[{100 * (extra.low - 1):+.1f}, {100 * (extra.high - 1):+.1f}]",
                    str(extra.n),
                ]
            )
    notes = [
        f"{model.id}, {str(model.dtype).removeprefix('torch.')}; vector of its own strength for every row, added to "
        f"layer {layer}'s output at all positions; monitoring: the projection of every row's token at layer {layer}, "
        f"kept. Prompts of {PROMPT} tokens, then one token a step.",
        "The difference is taken step by step; all ways see the same positions.",
    ]
    publish(
        "steer",
        "Decoding with a vector on, and with monitoring",
        ["batch", "way", "ms per step", "% more than off", "steps"],
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
