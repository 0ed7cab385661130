"""Peak memory of screening 1,000 to 1,000,000 samples, with an engine that costs nothing: what the bookkeeping takes.

python benchmarks/screening_memory.py [--sizes 1000 20000 200000] [--write]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from common import arguments, publish
from personavec.engine import Engine


class StubTemplate:
    """Four tokens for every turn."""

    notes: Sequence[str] = ()

    class tokenizer:
        """Decodes to dots."""

        @staticmethod
        def decode(ids: Sequence[int]) -> str:
            """A dot a token."""
            return "." * len(ids)

    def conversations(self, messages: Any, turns: Sequence[int], tools: Any = ()) -> list[Any]:
        """One sequence with a span for each turn."""
        from personavec.model import Conversation

        ids = [len(m["content"]) % 97 for m in messages for _ in range(4)]
        return [Conversation(ids, [(4 * t, 4 * t + 4) for t in turns])]

    def prompt_ids(self, messages: Any, tools: Any = ()) -> list[int]:
        """Four tokens a message."""
        return [len(m["content"]) % 97 for m in messages for _ in range(4)]

    def response_start(self, ids: Any) -> int:
        """No thoughts."""
        return 0


class StubEngine(Engine):
    """Answers and readings out of nothing."""

    template: Any = StubTemplate()
    model: Any = SimpleNamespace(
        id="stub", weights_hash="", template=SimpleNamespace(hash=""), n_layers=3, hidden_size=8, dtype="float32",
        device=torch.device("cpu"),
    )  # fmt: skip
    context_length, identity, version = 1 << 20, {"model": "stub"}, "stub"

    def read(
        self, conversations: Any, layers: Any, directions: torch.Tensor | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Pseudo-random numbers from the token ids."""
        spans = [sum(c.ids[a:b]) for c in conversations for a, b in c.spans]
        width = 8 if directions is None else directions.shape[1]
        grid = torch.tensor(spans, dtype=torch.float32)[:, None, None] + torch.arange(width)
        return torch.sin(grid * 12.9898).expand(-1, len(layers), -1).contiguous()

    def answer(self, prompts: Any, max_new_tokens: int, advance: Any = None) -> list[list[int]]:
        """Three tokens."""
        return [[prompt[-1], 5, 7] for prompt in prompts]


def child(path: Path, clean: Path, out: Path) -> None:
    """Screen, and print the peak memory of this process."""
    from personavec.data import open_data
    from personavec.screening import ScreenSettings, run_screening
    from personavec.vector import PersonaVector

    torch.manual_seed(0)
    vectors = [PersonaVector(name, torch.randn(4, 8), 2, {}) for name in ("first", "second")]
    start = time.process_time()
    run = run_screening(StubEngine(), open_data(path), vectors, out, ScreenSettings(), clean=open_data(clean))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, "seconds": time.process_time() - start, "read": run.records}))


def make(path: Path, count: int) -> None:
    """A chat file."""
    with path.open("w") as handle:
        for number in range(count):
            messages = [
                {"role": "user", "content": f"Question {number} " + "why " * (number % 50)},
                {"role": "assistant", "content": "Because " * (1 + number % 60)},
            ]
            handle.write(json.dumps({"messages": messages}) + "\n")


def main() -> None:
    """Run every size in a process of its own."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 20_000, 200_000, 1_000_000])
    parser.add_argument("--child", nargs=3, type=Path)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    rows = []
    first = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder / "clean.jsonl", 300)
        for size in options.sizes:
            make(folder / "data.jsonl", size)
            done = subprocess.run(
                [sys.executable, __file__, "--child", folder / "data.jsonl", folder / "clean.jsonl", folder / str(size)],
                capture_output=True, text=True, check=True, env=os.environ | {"PERSONAVEC_CACHE": str(folder / "cache")},
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            first = first or found["peak"]
            rows.append(
                [
                    f"{size:,}",
                    f"{found['peak']:.0f} MB",
                    f"{found['peak'] / first:.2f}",
                    f"{size / found['seconds']:.0f}",
                ]
            )
    publish(
        "screening_memory",
        "Screening: peak memory and bookkeeping",
        ["samples", "peak memory", "against the first", "samples a second"],
        rows,
        [
            "The engine is a stub that costs nothing: this is what parsing, regression, thresholds and files take, two traits, "
            "hybrid baseline. A model's own memory comes on top (see memory.md)."
        ],
        options.write,
    )


if __name__ == "__main__":
    main()
