"""Processes that tests start and kill: forked from one that has the slow imports behind it."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["personavec.cli.app", "personavec.extraction.job", "personavec.screening.files", "personavec.finetune.job", "trl",
     "gguf", "transformers.modeling_gguf_pytorch_utils", "transformers.models.qwen2.modeling_qwen2",
     "matplotlib.backends.backend_svg"]
)  # fmt: skip


class Child:
    """A process of its own that calls a function, with the surroundings of the one that starts it.

    Args:
        target: A function of a module, with its arguments.
    """

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        self._out, self._err = (Path(mkdtemp()) / name for name in ("stdout", "stderr"))
        streams = (str(self._out), str(self._err))
        self._process = CONTEXT.Process(target=_run, args=(target, arguments, dict(os.environ), streams))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Minus the signal that killed it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it, unless the process is over."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Without a chance to tidy up."""
        self._process.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Waits for its end: what it wrote to standard output and to standard error."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
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
