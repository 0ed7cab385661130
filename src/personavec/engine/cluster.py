"""Many models at once: an engine whose work is spread over the workers of a Ray cluster.

Workers only compute: the process that asks reads the data and writes every result, once, so that nothing is lost and
nothing is counted twice however many workers die.
"""

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from pydantic import JsonValue
from torch import Tensor

from personavec.engine import Engine
from personavec.errors import UserError
from personavec.model import Conversation
from personavec.model.checkpoint import Checkpoint

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)

Do = Callable[[Engine, Any], Any]

CHUNK = 32  # conversations or prompts that go to a worker together
AHEAD = 2  # items under way per worker: one is worked on, one has arrived
SLOW = 120  # seconds without a worker after which we say that we are waiting
PATIENCE = 3  # deaths in a row, without a result in between, after which the fault is not the machine's


class RayEngine(Engine):
    """Reads and answers with a model on every GPU (or, without GPUs, every node) of a Ray cluster.

    A worker that dies is replaced, as soon as there is room, and what it was doing is done by another.

    Args:
        address: Of a running cluster, as `ray.init` takes it ("auto", "HOST:PORT"); "local" starts one here, which ends
            with this process. An initialised Ray is used as it is.
        make: Makes a worker's engine, on the worker's machine: what it names must be found there.
        model: What the workers run.
        workers: How many; None: one for every GPU, without GPUs one for every node.

    Raises:
        UserError: Ray is missing, the cluster does not answer, or a worker cannot make its engine.
    """

    def __init__(self, address: str, make: Callable[[], Engine], model: Checkpoint, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"`workers` {workers} is out of range.", "Choose 1 or more, or leave it out.")
        self._ray = _connect(address)
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self.width = workers or gpus or len(nodes)
        cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
        # Ray gives an actor as many threads as it reserves processors, all on one node.
        needs = {"num_gpus": 1} if gpus else {"num_cpus": max(1, min(sum(cpus) // self.width, max(cpus, default=1)))}
        self._actor = self._ray.remote(**needs, max_restarts=0, scheduling_strategy="SPREAD")(_Worker)
        self._make = make
        self._starting: dict[Any, Any] = {}  # what announces that a worker is ready, and the worker
        self._ready: list[Any] = []
        self._deaths = 0
        for _ in range(self.width):
            self._start()
        self._wait()
        self.model, self.template = model, model.template
        self.context_length, self.identity, version, device = self._facts
        model.device = torch.device(device)
        self.version = f"{version}, on {self.width} workers of ray {self._ray.__version__}"

    def read(
        self,
        conversations: Sequence[Conversation],
        layers: Sequence[int],
        directions: Tensor | None = None,
    ) -> Tensor:
        """See `Engine.read`."""

        def read(engine: Engine, chunk: Sequence[Conversation]) -> Tensor:
            return engine.read(chunk, layers, directions)

        return torch.cat(self._chunked(read, conversations))

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """See `Engine.answer`."""

        def answer(engine: Engine, chunk: Sequence[Sequence[int]]) -> list[list[int]]:
            return engine.answer(chunk, max_new_tokens)

        return [ids for answers in self._chunked(answer, prompts) for ids in answers]

    def _chunked(self, function: Do, items: Sequence[Any]) -> list[Any]:
        """Results of the chunks, in order."""
        chunks = [(at, items[at : at + CHUNK]) for at in range(0, len(items), CHUNK)]
        done = self.each(lambda engine, item: function(engine, item[1]), chunks)
        found = {at: result for (at, _), result in done}
        return [found[at] for at, _ in chunks]

    def each(self, function: Callable[[Engine, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """See `Engine.each`. Items are taken as there is room for them."""
        lost = (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError)
        task = self._ray.put(function)
        coming, again = iter(items), deque[Item]()
        under_way: dict[Any, tuple[Any, Item]] = {}
        while True:
            for worker in [*self._ready] * AHEAD:
                busy = sum(other is worker for other, _ in under_way.values())
                if busy < AHEAD and (some := [again.popleft()] if again else [*islice(coming, 1)]):
                    under_way[worker.run.remote(task, some[0])] = worker, some[0]
            if not under_way and self._ready:
                return
            done, _ = self._ray.wait([*under_way, *self._starting], num_returns=1)
            for reference in done:
                if reference in self._starting:
                    self._started(reference)
                    continue
                worker, item = under_way.pop(reference)
                try:
                    result = self._ray.get(reference)
                except lost as error:
                    again.append(item)
                    if worker in self._ready and not isinstance(error, self._ray.exceptions.ObjectLostError):
                        self._died(worker, error)
                    continue
                self._deaths = 0
                yield item, result

    def _start(self) -> None:
        worker = self._actor.remote(self._make)
        self._starting[worker.facts.remote()] = worker

    def _started(self, reference: Any) -> None:
        """A worker is ready, or died at its start."""
        worker = self._starting.pop(reference)
        try:
            self._facts = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._died(worker, error)
        else:
            self._ready.append(worker)

    def _wait(self) -> None:
        """Until one worker is ready; the others join when they are."""
        while not self._ready:
            started = self._ray.wait([*self._starting], num_returns=1, timeout=SLOW)[0]
            if not started:
                log.warning("No worker has started yet; the cluster has free: %s", self._ray.available_resources())
            for reference in started:
                self._started(reference)

    def _died(self, worker: Any, error: Exception) -> None:
        """Replace a worker.

        Raises:
            UserError: Too many died without having done anything.
        """
        if worker in self._ready:
            self._ready.remove(worker)
        self._deaths += 1
        if self._deaths >= PATIENCE * self.width:
            raise UserError(
                f"{self._deaths} workers died one after another without doing anything: {error}",
                "See the workers' logs with `ray logs`; often the memory of the machine or the GPU is too small.",
            ) from error
        self._start()


class _Worker:
    """Runs on the cluster: holds one engine."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.make = make

    def facts(self) -> tuple[int, dict[str, JsonValue], str, str]:
        """Makes the engine: what goes wrong in a method reaches the caller, what goes wrong in __init__ does not."""
        self.engine = self.make()
        engine = self.engine
        return engine.context_length, dict(engine.identity), engine.version, engine.model.device.type

    def run(self, function: Do, item: Any) -> Any:
        return function(self.engine, item)


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("`ray` needs Ray.", "Install it: pip install 'personavec[ray]'") from error
    if ray.is_initialized():
        return ray
    try:
        _check_answers(address)
        if address == "local":
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"No Ray cluster answers at {address!r}: {str(error).strip().partition(chr(10))[0]}",
            "Start one with `ray start --head`, or run with `ray` local.",
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        OSError: Nobody listens at HOST:PORT.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
