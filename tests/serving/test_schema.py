"""Requests made up from the server's own description of its API."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from serving_samples import Live, digits_model, personas


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    model = digits_model()
    made = Live(model, personas(model), max_new_tokens=4)
    yield made
    made.close()


def test_no_request_that_can_be_made_up_breaks_it(live: Live) -> None:
    """Each is answered or refused in one shape; the engine lives."""
    schemathesis: Any = pytest.importorskip("schemathesis", reason="pip install schemathesis")
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{live.port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 8
    seen: set[int] = set()
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=6, derandomize=True, deadline=None, database=None, phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                response = case.call(timeout=60)
                seen.add(response.status_code)
                assert response.status_code < 500
                if response.status_code >= 400:
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}

            with suppress(Unsatisfiable):  # nothing can be wrong in a request that says nothing
                check()
    assert live.service.loop.alive
    assert {200, 400} <= seen
