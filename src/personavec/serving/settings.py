"""What a server takes on."""

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc

from personavec.errors import check_least


@dataclass(frozen=True)
class ServeSettings:
    """What a server takes on.

    Raises:
        UserError: Naming the field and what it may be.
    """

    places: Annotated[int, Doc("Most responses that are written side by side.")] = 32
    queue: Annotated[int, Doc("Most requests that wait; more are refused and told when to come again.")] = 64
    cache_tokens: Annotated[int | None, Doc("Most tokens in memory (keys and values). Default: 4 GB of them.")] = None
    max_new_tokens: Annotated[int, Doc("Longest response where a request names no length.")] = 1024
    client_steering: Annotated[
        bool,
        Doc("Let requests steer; else those that ask for it are refused, and answers are steered as the server is."),
    ] = True

    def __post_init__(self) -> None:
        check_least(self, places=1, queue=1, max_new_tokens=1)
        if self.cache_tokens is not None:
            check_least(self, cache_tokens=16)
