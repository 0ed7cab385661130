"""Figures for Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
DEVIATIONS = (-8.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 8.0)


class Metrics:
    """Of one server.

    Args:
        gauges: What is looked up whenever somebody asks, by name.
    """

    def __init__(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        self._registry = CollectorRegistry()
        name = "personavec_"
        self.requests = Counter(
            name + "requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self._registry
        )
        self.tokens = Counter(name + "tokens", "Tokens read and written.", ["kind"], registry=self._registry)
        self.first_token = Histogram(
            name + "time_to_first_token_seconds", "From the request to the first text.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.projection = Histogram(
            name + "projection_z", "Means of answers along each vector, in deviations of neutral answers.",
            ["trait", "steered"], buckets=DEVIATIONS, registry=self._registry,
        )  # fmt: skip
        self.steering = Counter(
            name + "steered_requests", "Requests by what was done to the stream.", ["operation", "trait"],
            registry=self._registry,
        )  # fmt: skip
        for key, value in gauges.items():
            Gauge(name + key, f"{key.replace('_', ' ').capitalize()} now.", registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)
