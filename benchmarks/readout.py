"""Readings of pairs of answers to one prompt: ours, the plain way, other libraries, and the machine's matmul rate.

    python benchmarks/readout.py [--peers /tmp/peers/bin/python] [--write]

`peers.py` says how to make the environment of the other libraries.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import Middle, answer_pairs, arguments, conversations, middle, now, publish, side_by_side, times
from personavec import ChatModel, Conversation, load_model
from personavec.readout import read

ROUNDS = 6


@torch.inference_mode()
def plainly(model: ChatModel, samples: Sequence[Conversation], layer: int) -> Tensor:
    """One by one, a full forward with LM head and all hidden states; means over the answers (n, d)."""
    rows = []
    for sample in samples:
        states = model.model(
            input_ids=torch.tensor([sample.ids], device=model.device), output_hidden_states=True
        ).hidden_states
        rows.append(states[layer][0, slice(*sample.spans[0])].float().mean(0))
    return torch.stack(rows).cpu()


class Matmuls:
    """Nothing but the matrix products of the first blocks: what a reading cannot do without.

    Args:
        tokens: Rows of one product, as many as a batch of readings has.
    """

    def __init__(self, model: ChatModel, layer: int, tokens: int = 1024) -> None:
        self.weights = [p for block in model.blocks.layers[:layer] for p in block.parameters() if p.ndim == 2]
        self.flops_per_token = 2 * sum(weight.numel() for weight in self.weights)
        self.inputs = {
            width: torch.randn(tokens, width, dtype=model.dtype, device=model.device)
            for width in {w.shape[1] for w in self.weights}
        }
        self.tokens = tokens

    @torch.inference_mode()
    def run(self, tokens: int) -> float:
        """Seconds for that many tokens."""
        start = now()
        for at in range(0, tokens, self.tokens):
            count = min(self.tokens, tokens - at)
            for weight in self.weights:
                torch.nn.functional.linear(self.inputs[weight.shape[1]][:count], weight)
        return now() - start


def distinct_tokens(samples: Sequence[Conversation]) -> int:
    """Tokens of each prompt once, and of each answer."""
    prompts = {tuple(sample.ids[: sample.spans[0][0]]) for sample in samples}
    return sum(map(len, prompts)) + sum(high - low for sample in samples for low, high in sample.spans)


class Peers:
    """The process that holds the other libraries."""

    def __init__(self, python: str, model: ChatModel, layer: int) -> None:
        worker = Path(__file__).with_name("peers.py")
        self.process = subprocess.Popen([python, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.model, self.layer = model, layer
        self.versions = self.ask({"model": model.model.config._name_or_path})["versions"]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise SystemExit("The process with the other libraries ended; its message is above.")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def run(self, way: str, samples: Sequence[Conversation], batch: int = 32) -> tuple[float, Tensor]:
        job = {
            "way": way,
            "layer": self.layer,
            "batch": batch,
            "ids": [sample.ids for sample in samples],
            "spans": [sample.spans[0] for sample in samples],
            "texts": [self.model.tokenizer.decode(sample.ids) for sample in samples],
        }
        answer = self.ask(job)
        return answer["seconds"], torch.tensor(answer["readings"])


def lowest_cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(torch.cosine_similarity(torch.cat(list(a)), torch.cat(list(b)), dim=-1).min())


def share_of_matmuls(model: ChatModel, layer: int, rounds: Sequence[Sequence[Conversation]]) -> tuple[Middle, Middle]:
    """Our share of the matmul rate, and that rate in GFLOP/s."""
    matmuls = Matmuls(model, layer)
    matmuls.run(1024)
    read(model, rounds[0][:8], layers=[layer])
    seconds = side_by_side(
        {
            "ours": lambda turn: void(read(model, rounds[turn], layers=[layer])),
            "matmuls": lambda turn: matmuls.run(distinct_tokens(rounds[turn])),
        },
        len(rounds),
    )
    rates = [
        distinct_tokens(samples) * matmuls.flops_per_token / taken / 1e9
        for samples, taken in zip(rounds, seconds["matmuls"], strict=True)
    ]
    return times(seconds["matmuls"], seconds["ours"]), middle(rates)


def void(_: object) -> None:
    """Drop a result."""


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--pairs", type=int, default=16, help="a round; every round has its own")
    parser.add_argument("--peers", help="python of the environment with steering-vectors and repeng")
    options = parser.parse_args()
    model = load_model(options.model)
    if options.peers and model.device.type != "cpu":
        raise SystemExit("The other libraries run on the CPU here: leave --peers out on a GPU.")
    layer, dtype = model.n_layers // 2, str(model.dtype).removeprefix("torch.")
    assert model.packs
    rounds = [conversations(answer_pairs(model, options.pairs, seed)) for seed in range(ROUNDS)]
    # repeng reads the last token of a text, so that is what it is compared on.
    last = [[Conversation(s.ids, [(len(s.ids) - 1, len(s.ids))]) for s in samples] for samples in rounds]
    matmuls = Matmuls(model, layer)
    peers = Peers(options.peers, model, layer) if options.peers else None
    found: dict[str, list[Tensor]] = {}

    def ours(turn: int) -> None:
        found.setdefault("ours", []).append(read(model, rounds[turn], layers=[layer]).means[:, 0])

    def plain(turn: int) -> None:
        found.setdefault("plain", []).append(plainly(model, rounds[turn], layer))

    def peer(name: str, turn: int) -> float:
        assert peers is not None
        taken, readings = peers.run(name, rounds[turn])
        found.setdefault(name, []).append(readings)
        return taken

    ways: dict[str, Any] = {
        "ours": ours,
        "plain": plain,
        "matmuls": lambda turn: matmuls.run(distinct_tokens(rounds[turn])),
    }
    if peers is not None:
        ways |= {name: (lambda turn, name=name: peer(name, turn)) for name in ("steering-vectors", "repeng")}
    rounds.append(rounds[0][:4])
    for way in ways.values():  # once without counting: first calls are slow
        way(ROUNDS)
    found.clear()
    rounds.pop()
    seconds = side_by_side(ways, ROUNDS)
    found["last"] = [read(model, samples, layers=[layer]).means[:, 0] for samples in last]

    count = len(rounds[0])
    rows = []
    labels = {
        "ours": "`personavec.readout.read`",
        "plain": "plain: one by one, `output_hidden_states`, full forward",
        "steering-vectors": "steering-vectors `record_activations`, batches of 32",
        "repeng": "repeng `batched_get_hiddens`, batches of 32 (last token only)",
    }
    for name in ("ours", "plain", "steering-vectors", "repeng"):
        if name not in seconds:
            rows.append([labels[name], "not run (no `--peers`)", "", ""])
            continue
        reference = found["last" if name == "repeng" else "ours"]
        rows.append(
            [
                labels[name],
                middle([count / taken for taken in seconds[name]]).show(".1f"),
                times(seconds[name], seconds["ours"]).show(),
                "" if name == "ours" else f"{lowest_cosine(found[name], reference):.5f}",
            ]
        )
    share = times(seconds["matmuls"], seconds["ours"])
    flops = [distinct_tokens(samples) * matmuls.flops_per_token for samples in rounds]
    rate = middle([f / taken / 1e9 for f, taken in zip(flops, seconds["matmuls"], strict=True)])
    rows.append([f"matmuls alone, {dtype} ({rate.show('.0f')} GFLOP/s): share reached", "", share.show(), ""])
    single = load_model(options.model, dtype="float32")
    assert single.packs
    few = [samples[: max(4, count // 8)] for samples in rounds]
    share, rate = share_of_matmuls(single, layer, few)
    rows.append([f"matmuls alone, float32 ({rate.show('.0f')} GFLOP/s): share reached", "", share.show(), ""])

    prompts = [s.spans[0][0] for samples in rounds for s in samples]
    answers = [s.spans[0][1] - s.spans[0][0] for samples in rounds for s in samples]
    notes = [
        f"{model.id}, {dtype}, layer {layer} of {model.n_layers}; {ROUNDS} rounds of "
        f"{options.pairs} pairs of answers each ({count} samples; the float32 share: {len(few[0])} samples); prompts of {min(prompts)} to "
        f"{max(prompts)} tokens, answers of {min(answers)} to {max(answers)}.",
        "Cosine: the lowest over all samples, in this same run.",
        "Share: seconds of the matrix products of the blocks up to that layer alone, for the distinct tokens (each "
        "prompt once), over seconds of our whole reading.",
    ]
    if peers is not None:
        notes.append(
            "The other libraries ran in a process of their own with "
            + ", ".join(f"{name} {number}" for name, number in peers.versions.items())
            + " (their pins), same weights and dtype. steering-vectors takes no means itself: its recorder did the "
            "reading and we averaged. repeng reads last tokens only: compared with our reading of the last token."
        )
    publish(
        "readout",
        "Readout: samples per second",
        ["way", "samples/s", "time / ours (share: matmuls / ours)", "lowest cosine with ours"],
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
