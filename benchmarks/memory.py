"""Peak memory of reading projections of few and of many samples, each in a fresh process.

python benchmarks/memory.py [--write]
"""

import json
import random
import resource
import subprocess
import sys

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from common import arguments, now, publish
from personavec import ChatModel, Conversation, load_model
from personavec.model.default import BUNDLED, prepare_bundled
from personavec.readout import read

SIZES = {"tiny": (1000, 20000), "default": (200, 1000)}
PROMPTS, ANSWERS = (10, 20), (10, 40)


def tiny() -> ChatModel:
    """A random model with two small blocks of the default one's architecture, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(prepare_bundled(BUNDLED["default"]))
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return ChatModel(Qwen2ForCausalLM(config), tokenizer, "tiny random Qwen2")


def samples(count: int, vocabulary: int = 1000) -> list[Conversation]:
    """Pairs of random answers to random prompts."""
    draw = random.Random(0)
    made = []
    for _ in range(count // 2):
        prompt = [draw.randrange(vocabulary) for _ in range(draw.randint(*PROMPTS))]
        for _ in range(2):
            answer = [draw.randrange(vocabulary) for _ in range(draw.randint(*ANSWERS))]
            made.append(Conversation(prompt + answer, [(len(prompt), len(prompt) + len(answer))]))
    return made


def child(kind: str, count: int) -> None:
    """Read `count` samples and print the peak in MB, and the seconds."""
    model = tiny() if kind == "tiny" else load_model()
    given = samples(count)
    layer = model.n_layers // 2
    directions = torch.nn.functional.normalize(torch.randn(1, 1, model.hidden_size), dim=-1)
    start = now()
    projections = read(model, given, layers=[layer], directions=directions).means
    assert projections.shape == (count, 1, 1) and bool(projections.isfinite().all())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)
    print(json.dumps({"peak": peak, "seconds": now() - start}))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "COUNT"), help="what the processes started here run")
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]))
        return
    rows = []
    for kind, sizes in SIZES.items():
        first = 0.0
        for count in sizes:
            command = [sys.executable, __file__, "--child", kind, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            first = first or measured["peak"]
            more = f"{100 * (measured['peak'] / first - 1):+.1f}" if count != sizes[0] else ""
            rows.append([kind, f"{count:,}", f"{measured['peak']:.0f}", more, f"{measured['seconds']:.0f}"])
    notes = [
        "Peak resident memory of a whole fresh process (imports, model, samples, readings), one process a row. Samples: "
        f"pairs of answers to one prompt, prompts of {PROMPTS[0]} to {PROMPTS[1]} tokens, answers of {ANSWERS[0]} to "
        f"{ANSWERS[1]}; one projection each at half depth.",
        "tiny: a random Qwen2 with 2 blocks of width 64 (a model so small hides nothing of what grows with the samples); "
        "default: the bundled model.",
    ]
    publish(
        "memory",
        "Memory: peak while reading projections",
        ["model", "samples", "peak MB", "% more", "seconds"],
        rows,
        notes,
        options.write,
    )


if __name__ == "__main__":
    main()
