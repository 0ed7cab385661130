"""The JSON of a request, taken by the letter of the standard and within limits."""

import json
import math
from typing import Any

from personavec.serving.failures import RequestError

DEPTH = 64  # schemas of tools nest, but not so deep


def parse(raw: bytes) -> Any:
    """What a body holds.

    Raises:
        RequestError: Not UTF-8, not JSON, a number that is not finite, a key twice in one object, half a character, or
            nested too deeply.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError as error:
        raise RequestError(400, f"The body nests more than {DEPTH} levels deep.") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are of this kind
        raise RequestError(400, f"The body is not valid JSON: {error}.") from error
    _check(value)
    return value


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text:.40} is not finite")
    return float(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _check(value: Any) -> None:
    """Depth and texts, without recursion."""
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if depth > DEPTH:
            raise RequestError(400, f"The body nests more than {DEPTH} levels deep.")
        if isinstance(one, dict):
            left += [(item, depth + 1) for pair in one.items() for item in pair]
        elif isinstance(one, list):
            left += [(item, depth + 1) for item in one]
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise RequestError(400, "The body holds half a character (a lone surrogate).") from error
