"""How a request fails, in the shape that OpenAI's clients read."""

from collections.abc import Mapping

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.serving.engine import BusyError, ClosingError

KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        status: Of HTTP.
        message: What is wrong, and what may be asked instead.
        param: The field that is wrong.
        headers: Of the response.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, headers or {}

    @property
    def body(self) -> dict[str, JsonValue]:
        """What the client gets."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": None}}


def failure(error: Exception, param: str | None = None) -> RequestError:
    """Any exception as one of a request. What is nobody's business stays in the log."""
    match error:
        case RequestError():
            return error
        case UserError():
            return RequestError(400, f"{error.problem} {error.advice}".strip(), param)
        case BusyError():
            headers = {"Retry-After": str(error.seconds)}
            return RequestError(429, f"Too many requests wait; ask again in {error.seconds} s.", headers=headers)
        case ClosingError():
            return RequestError(503, "The server shuts down; ask again later.", headers={"Retry-After": "60"})
    return RequestError(500, f"The server failed ({type(error).__name__}); its log says more.")
