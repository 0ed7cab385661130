"""The server: every request steered in its own way and read along four vectors, against plain requests, same server.

python benchmarks/serve.py [--clients 1,8,32] [--rounds 6] [--tokens 32] [--model M] [--write]

A client asks one question of a library trait, streamed. Seconds are processor time of the server's process, so neither
the clients nor other work on the machine counts; the vectors are random, of a size that leaves answers as long as they are.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import torch

from common import arguments, middle, publish, side_by_side, times
from personavec import ChatModel, PersonaVector, load_model
from personavec.info import VectorInfo
from personavec.traits import library_names, load_trait

VECTORS = 4
PUSH = 0.02  # of the norm of the stream


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    url: str
    pid: int

    def seconds(self) -> float:
        """Processor time that it has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def random_vectors(model: ChatModel, folder: Path) -> list[Path]:
    """Files of vectors at layers spread over the middle of the model."""
    rows = (model.n_layers + 1, model.hidden_size)
    known = {"id": model.id, "weights": model.weights_hash, "template": model.template.hash}
    paths = []
    for i in range(VECTORS):
        directions = torch.randn(rows, generator=torch.Generator().manual_seed(i))
        layer = model.n_layers // 3 + i * model.n_layers // (3 * VECTORS)
        paths.append(folder / f"{i}.safetensors")
        PersonaVector(f"random-{i}", directions, layer, known, info=VectorInfo.parse({})).save(paths[-1])
    return paths


@contextmanager
def serving(model: str | None, paths: Sequence[Path]) -> Iterator[Server]:
    words = [sys.executable, "-m", "personavec", "serve", "--port", "0", *(["--model", model] if model else [])]
    words += [word for path in paths for word in ("--vector", str(path))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            yield Server(first.split(" at ")[1].split()[0], process.pid)
        finally:
            process.terminate()


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[int, float]:
    """Tokens of an answer, and seconds to its first text."""
    begun, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if '"content":"' in line and '"content":""' not in line and not first:
                first = time.perf_counter() - begun
            if '"usage":{' in line:
                tokens = int(line.partition('"completion_tokens":')[2].partition(",")[0])
    return tokens, first


async def together(url: str, bodies: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        return await asyncio.gather(*(ask(client, body) for body in bodies))


def bodies(count: int, tokens: int, turn: int, size: float, *, steered: bool) -> list[dict[str, Any]]:
    """What clients ask in one round: questions that no earlier round asked, the same for both ways."""
    questions = [q for name in library_names() for q in load_trait(name).evaluation_questions]
    asked = []
    for i in range(count):
        persona = {"steer": {f"random-{i % VECTORS}": size * (-1) ** i * (1 + i / 64)}} if steered else {"monitor": []}
        said = f"({turn}.{i}) {questions[(turn * count + i) % len(questions)]}"
        asked.append({
            "messages": [{"role": "user", "content": said}], "max_tokens": tokens, "seed": i, "persona": persona,
            "stream": True, "stream_options": {"include_usage": True},
        })  # fmt: skip
    return asked


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    model = load_model(options.model)
    prompt = model.prompt_ids([{"role": "user", "content": "What is love?"}])
    norms: list[float] = []
    with (
        torch.inference_mode(),
        model.blocks.watching(
            {model.n_layers // 2: lambda hidden: norms.append(float(hidden[0, 1:].float().norm(dim=-1).mean()))}
        ),
    ):
        model.blocks.trunk(input_ids=torch.tensor([prompt]), use_cache=False)
    size = PUSH * norms[0] / model.hidden_size**0.5
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = random_vectors(model, Path(folder))
        with serving(options.model, paths) as server:
            for count in map(int, options.clients.split(",")):
                waits: dict[bool, list[float]] = {True: [], False: []}
                written: dict[bool, list[int]] = {True: [], False: []}

                def way(
                    turn: int, steered: bool, count: int = count, waits: Any = waits, written: Any = written
                ) -> float:
                    before = server.seconds()
                    told = asyncio.run(together(server.url, bodies(count, options.tokens, turn, size, steered=steered)))
                    spent = server.seconds() - before
                    waits[steered] += [first for _, first in told]
                    written[steered].append(sum(tokens for tokens, _ in told))
                    return spent / written[steered][-1]

                found = side_by_side(
                    {"plain": lambda t: way(t, False), "steered": lambda t: way(t, True)}, options.rounds
                )
                for name, steered in (("plain", False), ("steered and read", True)):
                    seconds = found["steered" if steered else "plain"]
                    rows.append([
                        str(count), name, middle([1 / s for s in seconds]).show(".1f"),
                        times(seconds, found["plain"]).show() if steered else "1", f"{median(waits[steered]):.2f}",
                        str(sum(written[steered])),
                    ])  # fmt: skip
    header = [
        "clients",
        "requests",
        "tokens per CPU-second",
        "cost per token against plain",
        "seconds to the first text",
        "tokens",
    ]
    notes = [
        f"{options.rounds} rounds, the ways in turns; {VECTORS} random vectors, every request steered by one of them and read along all.",
        "Seconds to the first text are wall-clock medians and hold the reading of the prompt and the queue.",
    ]
    publish("serve", "The server: steering and readings", header, rows, notes, options.write, model.device)


if __name__ == "__main__":
    main()
