"""What is written or sent beside the answers, on threads of its own: nobody waits for a disk or another server."""

import json
import logging
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.files import cannot_write, to_json

log = logging.getLogger(__name__)

WAITING = 1000  # that wait to be delivered; more are dropped, and counted
PAUSES = (1.0, 4.0)  # seconds before a webhook is tried again
OUTCOMES = ("sent", "failed", "dropped")
PATIENCE = 10.0  # seconds that a webhook may take, and that the end of the server waits for what is left
Record = Mapping[str, JsonValue]


class Delivery:
    """Hands records on, in order, on a thread.

    Args:
        name: Of what is delivered.
        deliver: Takes a record; whatever it raises says that it could not.
        counted: Called with one of `OUTCOMES` for every record.
    """

    def __init__(self, name: str, deliver: Callable[[Record], None], counted: Callable[[str], None]) -> None:
        self.name, self._deliver, self._counted = name, deliver, counted
        self._queue: queue.Queue[Record | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name=f"personavec-{name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Deliver it, later."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._counted("dropped")

    def close(self) -> None:
        """Deliver what is left, as far as it goes within `PATIENCE`."""
        try:
            self._queue.put(None, timeout=PATIENCE)
        except queue.Full:
            return
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self._deliver(record)
            except Exception as error:  # the thread must outlive it, or nothing more is ever delivered
                log.error("The %s could not be delivered: %s", self.name, error)
                self._counted("failed")
            else:
                self._counted("sent")


def to_file(path: Path) -> Callable[[Record], None]:
    """Appends to a log, a line for each record.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error

    def append(record: Record) -> None:
        with path.open("ab") as handle:
            handle.write(f"{to_json(dict(record))}\n".encode())

    return append


class _Staying(urllib.request.HTTPRedirectHandler):
    """Follows nobody: a POST that is redirected would arrive as a GET without its body."""

    def redirect_request(self, *_: object) -> None:
        """No further request: the redirection is an error."""


def to_address(url: str, pauses: tuple[float, ...] = PAUSES) -> Callable[[Record], None]:
    """Posts JSON to a webhook, and again after pauses where that fails.

    Raises:
        UserError: No address of the web.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UserError(
            f"`webhook` {url!r} is no address of the web.", "Give one that begins with http:// or https://."
        )

    opener = urllib.request.build_opener(_Staying)

    def post(record: Record) -> None:
        request = urllib.request.Request(
            url, json.dumps(record).encode(), {"Content-Type": "application/json", "User-Agent": "personavec"}
        )
        for pause in (*pauses, None):
            try:
                with opener.open(request, timeout=PATIENCE):
                    return
            except (OSError, HTTPException):  # URLError and HTTPError are OSErrors, an answer that is no HTTP is not
                if pause is None:
                    raise
                time.sleep(pause)

    return post
