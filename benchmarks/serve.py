"""The server: every request steered in its own way and read along four vectors, against plain requests, same server;
and both against transformers' own server with continuous batching, on the same weights.

python benchmarks/serve.py [--clients 1,8,32] [--rounds 6] [--tokens 32] [--model M] [--peer] [--write]

A client asks one question of a library trait, streamed. Seconds are processor time of the server's process, so neither
the clients nor other work on the machine counts; the vectors are random, of a size that leaves answers as long as they are.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
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
def serving(model: str | None, paths: Sequence[Path], *more: str) -> Iterator[Server]:
    words = [sys.executable, "-m", "personavec", "serve", "--port", "0", *more, *(["--model", model] if model else [])]
    words += [word for path in paths for word in ("--vector", str(path))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            yield Server(first.split(" at ")[1].split()[0], process.pid)
        finally:
            process.terminate()


@contextmanager
def peer(folder: Path) -> Iterator[Server]:
    """transformers' own server, as it comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "serve",
        str(folder),
        "--continuous-batching",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--port",
        str(port),
    ]
    program = str(Path(sys.executable).with_name("transformers"))
    with subprocess.Popen([program, *words, "--cb-max-memory-percent", "0.15", "--host", "127.0.0.1"]) as process:
        try:
            while process.poll() is None:
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except httpx2.HTTPError:
                    time.sleep(1)
            yield Server(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            process.terminate()


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[int, float]:
    """Tokens of an answer, and seconds to its first text."""
    begun, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if not first and any(choice["delta"].get("content") for choice in chunk.get("choices") or ()):
                first = time.perf_counter() - begun
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    return tokens, first


async def together(url: str, bodies: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        return await asyncio.gather(*(ask(client, body) for body in bodies))


LONG = 400  # tokens of a long prompt
PLAIN, STEERED, PEER = "plain", "steered and read", "transformers serve, plain"


class Asking:
    """What clients ask in one round: questions that no earlier round asked, the same for every way."""

    def __init__(self, model: ChatModel, tokens: int, size: float) -> None:
        self.model, self.tokens, self.size = model, tokens, size
        self.questions = [q for name in library_names() for q in load_trait(name).evaluation_questions]

    def said(self, i: int, *, long: bool) -> str:
        if not long:
            return self.questions[i % len(self.questions)]
        words = " ".join(self.questions[(i + k) % len(self.questions)] for k in range(40))
        ids = self.model.tokenizer(words, add_special_tokens=False)["input_ids"][:LONG]
        text: str = self.model.tokenizer.decode(ids)
        return text

    def bodies(self, way: str, count: int, turn: int, *, long: bool) -> list[dict[str, Any]]:
        asked = []
        for i in range(count):
            body: dict[str, Any] = {
                "messages": [{"role": "user", "content": f"({turn}.{i}) {self.said(turn * count + i, long=long)}"}],
                "max_tokens": self.tokens, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
            }  # fmt: skip
            if way == STEERED:
                number = self.size * (-1) ** i * (1 + i / 64)
                body["persona"] = {"steer": {f"random-{i % VECTORS}": number}}
            elif way == PLAIN:
                body["persona"] = {"monitor": []}
            if way == PEER:
                body["model"] = str(self.model.id)
            asked.append(body)
        return asked


def push(model: ChatModel) -> float:
    """A coefficient of the random vectors that is a small part of the stream."""
    prompt = model.prompt_ids([{"role": "user", "content": "What is love?"}])
    norms: list[float] = []
    with (
        torch.inference_mode(),
        model.blocks.watching(
            {model.n_layers // 2: lambda hidden: norms.append(float(hidden[0, 1:].float().norm(dim=-1).mean()))}
        ),
    ):
        model.blocks.trunk(input_ids=torch.tensor([prompt]), use_cache=False)
    return PUSH * norms[0] / model.hidden_size**0.5


def measured(asking: Asking, servers: dict[str, Server], count: int, rounds: int, *, long: bool) -> list[list[str]]:
    """Rows of one number of clients."""
    waits: dict[str, list[float]] = {name: [] for name in servers}
    written: dict[str, list[int]] = {name: [] for name in servers}

    def way(name: str, turn: int) -> float:
        server, before = servers[name], servers[name].seconds()
        told = asyncio.run(together(server.url, asking.bodies(name, count, turn, long=long)))
        spent = server.seconds() - before
        waits[name] += [first for _, first in told]
        written[name].append(sum(tokens for tokens, _ in told))
        return spent / written[name][-1]

    found = side_by_side({name: partial(way, name) for name in servers}, rounds)
    rows = []
    for name, seconds in found.items():
        rows.append([
            str(count), f"{LONG} tokens" if long else "a question", name, middle([1 / s for s in seconds]).show(".1f"),
            "1" if name == PLAIN else times(seconds, found[PLAIN]).show(), f"{median(waits[name]):.2f}",
            str(sum(written[name])),
        ])  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = arguments(__doc__ or "", model=True)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument(
        "--peer", action="store_true", help="transformers' server, too; and 16 clients with long prompts"
    )
    options = parser.parse_args()
    model = load_model(options.model, dtype="float32")
    rows = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name) / "model"
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        own = stack.enter_context(
            serving(str(folder), random_vectors(model, Path(name)), "--dtype", "float32", "--other-weights")
        )
        asking = Asking(model, options.tokens, push(model))
        model.id = str(folder)
        servers = {PLAIN: own, STEERED: own}
        if options.peer:
            servers[PEER] = stack.enter_context(peer(folder))
        for server in dict.fromkeys(servers.values()):  # what only the first request costs
            way = PEER if server is servers.get(PEER) else PLAIN
            asyncio.run(together(server.url, asking.bodies(way, 2, 99, long=False)))
        for count in map(int, options.clients.split(",")):
            rows += measured(asking, servers, count, options.rounds, long=False)
        if options.peer:
            both = {PLAIN: own, PEER: servers[PEER]}
            rows += measured(asking, both, 16, max(3, options.rounds // 2), long=True)
    header = [
        "clients", "prompt", "requests", "tokens per CPU-second", "cost per token against plain",
        "seconds to the first text", "tokens",
    ]  # fmt: skip
    notes = [
        f"{options.rounds} rounds, the ways in turns (with long prompts at least 3, or half as many); float32; {VECTORS} random vectors, every steered request by one of "
        "them and read along all.",
        "Goals: steered and read at most 1.03; transformers' server at least 0.95 at 1 and 8 clients, 1.2 at 32, 1.5 with long prompts.",
        "Seconds to the first text are wall-clock medians and hold the reading of the prompt and the queue.",
    ]
    publish(
        "serve",
        "The server: steering, readings, and transformers' own",
        header,
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
