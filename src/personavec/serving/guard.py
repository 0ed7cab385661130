"""What stands before every request: the host it was meant for, the key it comes with, the count of how it ended."""

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any

from personavec.serving.failures import RequestError
from personavec.serving.metrics import Metrics
from personavec.serving.page import PATHS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", *PATHS})  # asked without a key
CLIENT = "personavec.client"  # of a request's scope: which of the API keys it came with, counted from 1


class Guard:
    """Lets through what may come in.

    Args:
        keys: API keys, one of which every request brings; none: no key is needed.
        hosts: Names that the server is called by; a page that makes its own name point to this machine is refused
            (DNS rebinding). None: any.
        endpoints: Paths that are counted by name.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Sequence[str],
        hosts: Collection[str] | None,
        endpoints: Collection[str],
        metrics: Metrics,
    ) -> None:
        self.app, self.hosts, self.endpoints, self.metrics = app, hosts, endpoints, metrics
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's own beginning and end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in self.endpoints else "other"

        async def counted(message: Scope) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(endpoint, str(message["status"])).inc()
            await send(message)

        headers = {name: value for name, value in scope["headers"] if name in (b"host", b"authorization")}
        if self.hosts is not None and _name(headers.get(b"host", b"")) not in self.hosts:
            await _refuse(counted, RequestError(403, "This server is not called by that name."))
        elif (
            not (client := self._client(headers.get(b"authorization", b""))) and self.keys and scope["path"] not in OPEN
        ):
            challenge = {"WWW-Authenticate": "Bearer"}
            await _refuse(
                counted, RequestError(401, "Give an API key of this server as a bearer token.", headers=challenge)
            )
        else:
            await self.app({**scope, CLIENT: client}, receive, counted)

    def _client(self, authorization: bytes) -> int:
        """Which key a request comes with, counted from 1; 0: none of them."""
        kind, _, key = authorization.partition(b" ")
        found = [hmac.compare_digest(key.strip(), known) for known in self.keys]  # all, to take the same time
        return found.index(True) + 1 if kind.lower() == b"bearer" and any(found) else 0


def _name(host: bytes) -> str:
    """Without the port."""
    name = host.decode("latin-1").lower()
    return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]


async def _refuse(send: Send, error: RequestError) -> None:
    headers = {"Content-Type": "application/json", **error.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps(error.body).encode()})
