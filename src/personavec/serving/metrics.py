"""Figures for Prometheus."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from personavec.watching.live import Watch

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
        self.answers = Counter(
            name + "answers", "Answers by how they ended; abandoned: the client left, or they failed.", ["ended"],
            registry=self._registry,
        )  # fmt: skip
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
        self.alarms = Counter(name + "alarms", "Alarms by rule and trait.", ["rule", "trait"], registry=self._registry)
        self.deliveries = Counter(
            name + "deliveries", "Lines of the log and webhooks, by how they ended.", ["kind", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self.prompt = Histogram(
            name + "prompt_z", "Last prompt tokens along each vector, in deviations of neutral prompts.",
            ["trait", "steered"], buckets=DEVIATIONS, registry=self._registry,
        )  # fmt: skip
        self.default_steering = Gauge(
            name + "default_steering", "Numbers of what is done where a request does not say otherwise.",
            ["operation", "trait"], registry=self._registry,
        )  # fmt: skip
        for key, value in gauges.items():
            Gauge(name + key, f"{key.replace('_', ' ').capitalize()} now.", registry=self._registry).set_function(value)

    def watch_traffic(self, watch: Watch) -> None:
        """Show the CUSUM over the whole traffic, and the limit at which it alarms; and that there was no alarm yet.

        Prometheus sees an increase only of what it has seen before: without its 0 the first alarm would not show.
        """
        for rule in watch.limits.rules:
            for trait in watch.limits.traits:
                self.alarms.labels(rule, trait)
        level = Gauge(
            "personavec_traffic_cusum", "CUSUM over the whole traffic, in deviations of normal traffic.", ["trait"],
            registry=self._registry,
        )  # fmt: skip
        for trait in watch.limits.traits:
            level.labels(trait).set_function(partial(_level, watch, trait))
        limit = Gauge("personavec_traffic_cusum_limit", "Where it alarms.", registry=self._registry)
        limit.set(watch.limits.rules["traffic"].joint)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)


def _level(watch: Watch, trait: str) -> float:
    return watch.traffic[trait]
