"""Processes that tests start and kill: forked from one that has the slow imports behind it."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

# What most of them need, and no test's file imports.
LATE = ("personavec.cli.app", "transformers.modeling_gguf_pytorch_utils", "transformers.models.qwen2.modeling_qwen2",
        "matplotlib.backends.backend_svg")  # fmt: skip


@cache
def server() -> Connection:
    """A process that forks others, itself forked from this one, which is to be as imports left it."""
    ours, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():  # there is another thread in a worker of xdist; nothing here waits for it
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        theirs.close()
        return ours
    ours.close()
    try:
        _serve(theirs)
    finally:
        os._exit(0)


def _serve(asked: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started: dict[int | None, Any] = {}
    while True:
        try:
            given = asked.recv()
        except EOFError:
            return
        if isinstance(given, int):
            asked.send(started[given].exitcode)
            continue
        if isinstance(given, str):
            asked.send(importlib.import_module(given).__name__)
            continue
        for name in () if started else LATE:
            importlib.import_module(name)
        process = multiprocessing.get_context("fork").Process(target=_run, args=given)
        process.start()
        started[process.pid] = process
        asked.send(process.pid)


def preload(module: str) -> None:
    """Imports for all children to come what each would import by itself."""
    server().send(module)
    server().recv()


class Child:
    """A process of its own that calls a function, with the surroundings of the one that starts it.

    Args:
        target: A function of a module, with its arguments.
    """

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        self._out, self._err = (Path(mkdtemp()) / name for name in ("stdout", "stderr"))
        streams = (str(self._out), str(self._err))
        server().send((target, arguments, dict(os.environ), streams))
        self._pid: int = server().recv()
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """Minus the signal that killed it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """As `returncode`."""
        if self._code is None:
            server().send(self._pid)
            self._code = server().recv()
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it, unless the process is over."""
        if self.poll() is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        """Without a chance to tidy up."""
        self.send_signal(signal.SIGKILL)

    def join(self, timeout: float) -> int | None:
        """Waits for its end, but no longer than this; its `returncode`."""
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.poll()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Waits for its end: what it wrote to standard output and to standard error."""
        assert self.join(timeout) is not None, f"still running after {timeout} s"
        out, err = (path.read_text() if path.exists() else "" for path in (self._out, self._err))  # killed before
        return out, err

    def until(self, condition: Callable[[], bool], timeout: float = 300) -> None:
        """Waits for a condition, as long as the process runs."""
        end = time.monotonic() + timeout
        while self.poll() is None and not condition():
            assert time.monotonic() < end, f"not so within {timeout} s"
            time.sleep(0.02)


def command(*arguments: object) -> Child:
    """The command line, in a process of its own."""
    return Child(_main, *map(str, arguments))


def _main(*arguments: str) -> None:
    from personavec.cli import main

    sys.argv = ["personavec", *arguments]
    main()


def _run(target: Callable[..., object], arguments: Any, environment: dict[str, str], streams: tuple[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    target(*arguments)
