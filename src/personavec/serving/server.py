"""The server in a process: its socket, its keys, its end."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from personavec.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY = "PERSONAVEC_API_KEY"  # of the environment
GRACE = 30  # seconds that answers have to come to their end when the server is stopped


def read_keys(path: Path | None) -> list[str]:
    """API keys, one a line of a file, else the one of the environment.

    Raises:
        UserError: A file that cannot be read or holds none.
    """
    if path is None:
        return [key] if (key := os.environ.get(KEY, "").strip()) else []
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The API keys in {path} cannot be read: {error}.", "Write one key a line.") from error
    if not keys:
        raise UserError(f"There is no API key in {path}.", "Write one key a line.")
    return keys


def hosts_of(host: str, keys: Sequence[str]) -> list[str] | None:
    """Names that a server on this host is called by; None: any.

    Raises:
        UserError: A host that others can reach, and no key that keeps them out.
    """
    if host in LOOPBACK:
        return ["localhost", "127.0.0.1", "[::1]"]
    if not keys:
        raise UserError(
            f"On {host} others can reach the server, and no API key keeps them out.",
            f"Name a file of keys with `api_key`, or set {KEY}; or stay on 127.0.0.1.",
        )
    return None


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: The port is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise UserError(
            f"Nothing can be served at {host}:{port}: {error}.", "Choose another `port` or `host`."
        ) from error
    made.set_inheritable(True)
    return made


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server that lets answers come to their end when it is stopped."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, lifespan="on"
    )
    return uvicorn.Server(config)


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end.

    Args:
        ready: Called with the address once connections are taken.

    Raises:
        UserError: See `bound`.
    """
    listening = bound(host, port)
    listening.listen()  # so that whoever reads the address can come at once
    with listening, suppress(KeyboardInterrupt):
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listening.getsockname()[1]}")
        server_of(app).run(sockets=[listening])
